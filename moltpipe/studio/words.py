"""When each word of a line is spoken, where its voice does not tell, or tells it of other words than the text has.

Here: cutting a text into words, and laying their times. Not here: what a voice says about times (its engine),
captions (`media.captions`).

Without this, a line whose voice gives no times would have no captions: captions show what has times. Times of what
was really pronounced cannot be shown either: of `$100` a voice tells when it said `one hundred dollars`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from moltpipe.studio.records import Word

_STOPS = "\u3001\u3002\uff01\uff0c\uff1b\uff1f"
"""Full-width stops, after which Chinese and Japanese lines may break."""
_WORD = re.compile(rf"[^\s{_STOPS}]+[{_STOPS}]*|[{_STOPS}]+")


def word_spans(text: str) -> tuple[tuple[int, int], ...]:
    """Where the words of a text begin and end, in characters: parted by white space or after a full-width stop."""
    return tuple(found.span() for found in _WORD.finditer(text))


def spread_words(text: str, seconds: float) -> tuple[Word, ...]:
    """The words of a text, evenly over the length of its recording in proportion to their letters."""
    return _laid([text[start:end] for start, end in word_spans(text)], 0.0, max(0.0, seconds))


def fitted_words(text: str, heard: Sequence[Word], seconds: float) -> tuple[Word, ...]:
    """The words of a text with the times of what was heard, letter by letter where the two agree.

    Words that were pronounced otherwise (numbers, signs) share the time between their neighbours. Nothing goes
    backwards or beyond `seconds`, the length of the recording.
    """
    words = [text[start:end] for start, end in word_spans(text)]
    known = _agreeing(words, heard)
    fitted: list[Word] = []
    waiting: list[str] = []
    for number, word in enumerate(words):
        if number not in known:
            waiting.append(word)
            continue
        reached = fitted[-1].end if fitted else 0.0
        start, end = (min(max(moment, reached), max(reached, seconds)) for moment in known[number])
        fitted += _laid(waiting, reached, start)
        fitted.append(Word(text=word, start=round(start, 3), end=round(max(start, end), 3)))
        waiting = []
    reached = fitted[-1].end if fitted else 0.0
    return (*fitted, *_laid(waiting, reached, max(reached, seconds)))


def _agreeing(words: Sequence[str], heard: Sequence[Word]) -> dict[int, tuple[float, float]]:
    """Start and end in seconds, by the number of the word, of those that share letters with what was heard."""
    written = _letters(words)
    spoken = _letters(one.text for one in heard)
    agreed: dict[int, tuple[float, float]] = {}
    matcher = SequenceMatcher(
        None, "".join(letter for letter, _ in written), "".join(letter for letter, _ in spoken), autojunk=False
    )
    for block in matcher.get_matching_blocks():
        for offset in range(block.size):
            number = written[block.a + offset][1]
            token = heard[spoken[block.b + offset][1]]
            start, _ = agreed.get(number, (token.start, token.end))
            agreed[number] = (start, token.end)
    return agreed


def _letters(words: Iterable[str]) -> list[tuple[str, int]]:
    """Letters and digits without their case, each with the number of its word."""
    return [(letter, number) for number, word in enumerate(words) for letter in word.casefold() if letter.isalnum()]


def _laid(words: Sequence[str], start: float, end: float) -> tuple[Word, ...]:
    """Words side by side from `start` to `end`, each as long as its letters ask; a sign alone counts as one letter."""
    weights = [max(1, sum(one.isalnum() for one in word)) for word in words]
    total = sum(weights)
    laid = []
    passed = 0
    for word, weight in zip(words, weights, strict=True):
        begins = start + (end - start) * passed / total
        passed += weight
        laid.append(Word(text=word, start=round(begins, 3), end=round(start + (end - start) * passed / total, 3)))
    return tuple(laid)
