"""Captions: spoken words with their times become readable subtitles.

Here: cutting speech into captions, their times, and the two sidecar formats. Not here: word times (the voice
engine gives them, `studio.words` mends them), the text track inside a cut (`media.stitch`), captions as part of the
picture (`media.burning`).
"""

from __future__ import annotations

import bisect
import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pysubs2

from moltpipe.media.landing import landing
from moltpipe.studio.records import Word
from moltpipe.studio.sentences import is_abbreviated

LINE_CHARACTERS = 42
"""Characters of a line, the usual limit of broadcasters for Latin script. A Chinese or Japanese one counts for two."""
LINES = 2
READING_CHARACTERS_PER_S = 20
"""What adults read at ease; Netflix's guide for English has the same figure."""
SHORTEST_S = 1.0
LONGEST_S = 7.0
"""Speech that takes longer is shown in more than one caption: a text that stands still is read twice."""
LINGER_S = 0.3
"""How long a caption stays after its last word, where there is room."""
PAUSE_S = 0.7
"""A silence between words that ends a caption."""
GLANCE_MS = 40
"""A caption as short as one frame; what would be shown for less is cut off with its clip."""
SENTENCE_ENDS = (".", "!", "?", "\u2026", "\u3002", "\uff01", "\uff1f")
CLAUSE_ENDS = (",", ";", ":", "\u2013", "\u2014", "\u3001", "\uff0c", "\uff1b", "\uff1a")
_CLOSING = "\"'\u201d\u2019\u00bb)]"
_ARROW = re.compile("-->+")
SQUEEZED_MS = 200
"""Start to start of captions that have to share a moment, as when word times are missing."""


@dataclass(frozen=True)
class SpokenLine:
    """One voiceover in its place. Word times count from `starts_at_s`, in seconds from the start of the episode."""

    words: tuple[Word, ...]
    starts_at_s: float


@dataclass(frozen=True)
class Caption:
    """What stands on the screen from `start_ms` to `end_ms`: one or two lines, parted by a line break."""

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True)
class _Phrase:
    """Words that are shown together, with the time in which they are spoken."""

    text: str
    start_s: float
    end_s: float


def captions(lines: Sequence[SpokenLine], *, end_s: float) -> list[Caption]:
    """Cut speech into captions of at most two lines of 42 characters, in the order in which it is spoken.

    Captions end where sentences and clauses end, as far as two lines and seven seconds allow. One begins with its first
    word, and stays for a second and for as long as reading it takes at 20 characters a second where the next one and
    the end leave room. No two overlap and none goes beyond `end_s`; every word is shown. Where words have no usable
    times, captions share what time there is.
    """
    phrases = sorted((phrase for line in lines for phrase in _phrases(line)), key=lambda phrase: phrase.start_s)
    if not phrases:
        return []
    end_ms = max(len(phrases), round(end_s * 1000))
    starts = _starts(phrases, end_ms)
    shown: list[Caption] = []
    for number, (phrase, start_ms) in enumerate(zip(phrases, starts, strict=True)):
        room_ms = starts[number + 1] if number + 1 < len(starts) else end_ms
        wanted_ms = max(
            round((phrase.end_s + LINGER_S) * 1000), start_ms + round(_reading_s(cells(phrase.text)) * 1000)
        )
        shown.append(Caption(start_ms, min(room_ms, wanted_ms), phrase.text))
    return shown


def within(shown: Sequence[Caption], start_s: float, end_s: float) -> list[Caption]:
    """The captions that are seen between two moments, cut to them, with times from the first one."""
    start_ms, end_ms = round(start_s * 1000), round(end_s * 1000)
    cut = (
        replace(one, start_ms=max(one.start_ms, start_ms) - start_ms, end_ms=min(one.end_ms, end_ms) - start_ms)
        for one in shown
    )
    return [one for one in cut if one.end_ms - one.start_ms >= GLANCE_MS]


def cells(text: str) -> int:
    """How wide a text is: one for a letter, two for a wide one of Chinese, Japanese and Korean."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(one) in {"W", "F"} else 1 for one in text)


def _reading_s(width: int) -> float:
    return max(SHORTEST_S, width / READING_CHARACTERS_PER_S)


def _phrases(line: SpokenLine) -> Iterator[_Phrase]:
    for breath in _breaths(list(_pieces(line.words))):
        for words in _parted(breath):
            yield _Phrase(
                text=_fit(words) or "",
                start_s=line.starts_at_s + words[0].start,
                end_s=line.starts_at_s + max(word.end for word in words),
            )


def _pieces(words: Sequence[Word]) -> Iterator[Word]:
    """The words with something in them; one too wide for a line is cut into pieces that are spoken one by one."""
    for word in words:
        for bare in word.text.split():
            parts = list(_line_wide(bare))
            at, step = word.start, (word.end - word.start) / len(parts)
            for number, part in enumerate(parts):
                yield Word(text=part, start=at + number * step, end=at + (number + 1) * step)


def _line_wide(text: str) -> Iterator[str]:
    while text:
        length = next((at for at in range(1, len(text) + 1) if cells(text[:at]) > LINE_CHARACTERS), len(text) + 1) - 1
        yield text[:length]
        text = text[length:]


def _breaths(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Words without a pause between them."""
    taken: list[Word] = []
    for word in words:
        if taken and word.start - taken[-1].end >= PAUSE_S:
            yield taken
            taken = []
        taken.append(word)
    if taken:
        yield taken


def _parted(words: Sequence[Word]) -> list[Sequence[Word]]:
    """The best way to show the words of a breath, by the cost of each caption and of all ways to begin it."""
    breath = _Breath(words)
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(words) + 1):
        ways = []
        for start in reversed(range(end)):
            if not breath.fits(start, end):
                break
            ways.append((best[start][0] + breath.cost(start, end), start))
        best.append(min(ways))
    bounds = [len(words)]
    while bounds[-1]:
        bounds.append(best[bounds[-1]][1])
    return [words[start:end] for end, start in itertools.pairwise(bounds)][::-1]


class _Breath:
    """Words that are spoken in one go, measured once: which of them fit into a caption, and how well they would."""

    def __init__(self, words: Sequence[Word]) -> None:
        self._words = words
        self._reach = [0, *itertools.accumulate(cells(word.text) + 1 for word in words)]
        bare = [word.text.rstrip(_CLOSING) for word in words]
        after = [*(word.text for word in words[1:]), ""]
        stops = [
            text.endswith(SENTENCE_ENDS) and not is_abbreviated(text, then)
            for text, then in zip(bare, after, strict=True)
        ]
        # `"Stop!" she cried` is one sentence, though it may be parted at its stop.
        self._sentence = [stop and not then[:1].islower() for stop, then in zip(stops, after, strict=True)]
        self._clause = [stop or text.endswith(CLAUSE_ENDS) for stop, text in zip(stops, bare, strict=True)]

    def _width(self, start: int, end: int) -> int:
        return self._reach[end] - self._reach[start] - 1

    def fits(self, start: int, end: int) -> bool:
        """Whether these words have room on two lines. A single word has: none is wider than a line."""
        second = bisect.bisect_right(self._reach, self._reach[start] + LINE_CHARACTERS + 1) - 1
        return end <= second or self._width(second, end) <= LINE_CHARACTERS

    def cost(self, start: int, end: int) -> float:
        """How badly these words make a caption. The unit is the caption itself: each one is a change to look at."""
        cost = 1.0
        # A sentence that begins where another one ends is better off in a caption of its own.
        cost += 1.1 * sum(self._sentence[start : end - 1])
        begins = self._words[start].start
        cost += 4.0 * max(0.0, self._words[end - 1].end - begins - LONGEST_S)
        if end == len(self._words):
            return cost
        if not self._sentence[end - 1]:
            cost += 0.6 if self._clause[end - 1] else 1.5
        return cost + 2.0 * max(0.0, _reading_s(self._width(start, end)) - (self._words[end].start - begins))


def _fit(words: Sequence[Word]) -> str | None:
    """The words on one line, or on two of about the same length, or None where they do not fit."""
    texts = [word.text for word in words]
    text = " ".join(texts)
    if cells(text) <= LINE_CHARACTERS:
        return text
    ways = []
    for at in range(1, len(texts)):
        upper, lower = " ".join(texts[:at]), " ".join(texts[at:])
        if max(cells(upper), cells(lower)) <= LINE_CHARACTERS:
            ways.append((abs(cells(upper) - cells(lower)), f"{upper}\n{lower}"))
    return min(ways)[1] if ways else None


def _starts(phrases: Sequence[_Phrase], end_ms: int) -> list[int]:
    """Start times in milliseconds that only grow: pushed apart from the front, then back from the end."""
    apart = max(1, min(SQUEEZED_MS, end_ms // len(phrases)))
    starts: list[int] = []
    for phrase in phrases:
        earliest = starts[-1] + apart if starts else 0
        starts.append(max(earliest, round(phrase.start_s * 1000)))
    latest = end_ms
    for number in reversed(range(len(starts))):
        latest -= apart
        starts[number] = latest = min(starts[number], latest)
    return starts


def write_vtt(shown: Sequence[Caption], path: Path) -> None:
    """Write WebVTT; without captions the header alone, which is a valid file."""
    escaped = [
        Caption(one.start_ms, one.end_ms, one.text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
        for one in shown
    ]
    _write(escaped, path, "vtt")


def write_srt(shown: Sequence[Caption], path: Path) -> None:
    """Write SubRip; without captions an empty file. Its arrow cannot be escaped: one in the text loses its head."""
    _write([replace(one, text=_ARROW.sub("--", one.text)) for one in shown], path, "srt")


def _write(shown: Sequence[Caption], path: Path, file_format: str) -> None:
    subtitles = pysubs2.SSAFile()
    for one in shown:
        event = pysubs2.SSAEvent(start=one.start_ms, end=one.end_ms)
        # A backslash would begin one of pysubs2's own codes (`\h`, `\n`); the full-width one looks the same.
        event.text = one.text.replace("\\", "\uff3c").replace("\n", "\\N")
        subtitles.append(event)
    # Tags are kept as they are, because there are none: read as tags, `{sighs}` would vanish from the speech.
    text = subtitles.to_string(file_format, keep_ssa_tags=True)
    with landing(path) as part:
        part.write_text(text, encoding="utf-8")
