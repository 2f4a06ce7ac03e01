"""Captions: spoken words with their times become readable subtitles.

Here: cutting speech into captions, their times, and the two sidecar formats. Not here: word times (the voice
engine gives them), burning captions into the picture (it would cost an encode of the whole episode).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pysubs2

from moltpipe.media.landing import landing
from moltpipe.studio.records import Word

LINE_CHARACTERS = 42
LINES = 2
"""The usual limits of broadcasters for Latin script."""
SHORTEST_S = 1.0
LINGER_S = 0.3
"""How long a caption stays after its last word, where there is room."""
PAUSE_S = 0.7
"""A silence between words that ends a caption."""
SENTENCE_ENDS = (".", "!", "?", "…", '."', '!"', '?"', ".”", "!”", "?”")
COMFORTABLE_CHARACTERS = 24
"""A sentence of at least this length gets a caption of its own; shorter ones share."""
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

    A caption begins with its first word and stays at least a second where the next one and the end leave room. No
    two overlap and none goes beyond `end_s`; every word is shown. Where words have no usable times, captions share
    what time there is.
    """
    phrases = sorted((phrase for line in lines for phrase in _phrases(line)), key=lambda phrase: phrase.start_s)
    if not phrases:
        return []
    end_ms = max(len(phrases), round(end_s * 1000))
    starts = _starts(phrases, end_ms)
    shown: list[Caption] = []
    for number, (phrase, start_ms) in enumerate(zip(phrases, starts, strict=True)):
        room_ms = starts[number + 1] if number + 1 < len(starts) else end_ms
        wanted_ms = max(round((phrase.end_s + LINGER_S) * 1000), start_ms + round(SHORTEST_S * 1000))
        shown.append(Caption(start_ms, min(room_ms, wanted_ms), phrase.text))
    return shown


def _phrases(line: SpokenLine) -> Iterator[_Phrase]:
    """Group the words of a line, breaking at pauses and sentence ends before the two lines are full."""
    taken: list[Word] = []
    for word in _pieces(line.words):
        if taken and (_fit([*taken, word]) is None or _breathes(taken, word)):
            yield _phrase(taken, line.starts_at_s)
            taken = []
        taken.append(word)
    if taken:
        yield _phrase(taken, line.starts_at_s)


def _pieces(words: Sequence[Word]) -> Iterator[Word]:
    """The words with something in them; one too long for a line is cut into pieces that are spoken at once."""
    for word in words:
        for bare in word.text.split():
            for at in range(0, len(bare), LINE_CHARACTERS):
                yield Word(text=bare[at : at + LINE_CHARACTERS], start=word.start, end=word.end)


def _breathes(taken: Sequence[Word], following: Word) -> bool:
    last = taken[-1]
    length = sum(len(word.text) + 1 for word in taken) - 1
    ended = last.text.endswith(SENTENCE_ENDS) and length >= COMFORTABLE_CHARACTERS
    return ended or following.start - last.end >= PAUSE_S


def _fit(words: Sequence[Word]) -> str | None:
    """The words on one or two lines of about the same length, or None where they do not fit."""
    text = " ".join(word.text for word in words)
    for width in (*range(max(1, len(text) // LINES), LINE_CHARACTERS), LINE_CHARACTERS):
        if len(text) <= LINE_CHARACTERS:
            return text
        wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        if len(wrapped) <= LINES and all(len(line) <= LINE_CHARACTERS for line in wrapped):
            return "\n".join(wrapped)
    return None


def _phrase(words: Sequence[Word], starts_at_s: float) -> _Phrase:
    return _Phrase(
        text=_fit(words) or "",
        start_s=starts_at_s + words[0].start,
        end_s=starts_at_s + max(word.end for word in words),
    )


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
    _write([Caption(one.start_ms, one.end_ms, one.text.replace("-->", "--")) for one in shown], path, "srt")


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
