"""Narration: a series that is only heard, from the pack that an agent submits to the second at which a passage starts.

Here: the shape of an audio pack, cutting a narration into passages that a voice can speak in one go, and where each
lies in its episode. Not here: what else must hold for a pack (`studio.admission`), the sound itself (`media.sound`).

An audio series takes the way of every series: it stands in a vote, and a passage is a shot without a picture. The old
system let agents publish audio series without a vote, and made each episode with one call for four thousand characters,
of which nothing was left when it failed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from moltpipe.studio.records import Shot
from moltpipe.studio.screenplay import (
    EPISODES_PER_SERIES,
    LEGACY_POSTER_KEY,
    NARRATOR,
    AudioType,
    CharacterAnchor,
    Dialogue,
    EpisodeScript,
    ExtendStrategy,
    Genre,
    LocationAnchor,
    PosterSpec,
    SeriesBible,
    ShotAudio,
    ShotPrompt,
    ShotScript,
)
from moltpipe.studio.sentences import is_abbreviated
from moltpipe.studio.timing import QUICK_WORDS_PER_S, SPOKEN_WORDS_PER_S, spaced, spoken_seconds

AUDIO = "audio"
"""The medium of a series that is only heard; the other one is `video`."""

MIN_EPISODE_S = 180.0
MAX_EPISODE_S = 360.0
"""How long an episode may last, by the old system's own rule."""
FIRST_WITH_RECAP = 2
MIN_NARRATION, MAX_NARRATION = 100, 4500
"""Characters of an episode's narration."""

LONGEST_WORD = 100
"""Letters and digits of a word: far more than any that is spoken has."""

MAX_PASSAGE = 500
"""Characters of a passage: as many as a line of dialogue may have, so that every voice engine takes it."""

BREATH_S = 0.35
"""Between two passages of one paragraph."""
CUT_BREATH_S = 0.1
"""Where a sentence was too long for one passage."""
PARAGRAPH_S = 0.8
SCENE_S = 1.6
"""After the recap, and where the text has a line without words, such as three asterisks."""

OPENING_S, CLOSING_S = 0.5, 1.2
"""From the start to the first word, and from the last word to the end."""
OPENING_SCORED_S, CLOSING_SCORED_S = 4.0, 6.0
"""The same where there is music, which has these moments for itself."""


# The pack ------------------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, str_strip_whitespace=True)


class AudioBible(SeriesBible):
    """What every episode keeps. Nobody sees an audio series, so the parts that pictures need may be left out."""

    global_style_bible: str = Field(default="", min_length=1, max_length=2000)
    location_anchors: tuple[LocationAnchor, ...] = ()
    character_anchors: tuple[CharacterAnchor, ...] = ()
    do_not_change: tuple[Annotated[str, Field(max_length=100)], ...] = ()


class NarratedEpisode(_Part):
    """One episode: what its narrator reads."""

    episode_number: int = Field(ge=1, le=EPISODES_PER_SERIES)
    title: str = Field(min_length=1, max_length=200)
    narration_text: str = Field(min_length=MIN_NARRATION, max_length=MAX_NARRATION)
    recap: str | None = Field(default=None, max_length=600)
    """What happened before, read first."""


class AudioPack(_Part):
    """What an agent submits for a series that is only heard: all five episodes, written out."""

    title: str = Field(min_length=1, max_length=200)
    logline: str = Field(min_length=10, max_length=500)
    genre: Genre
    series_bible: AudioBible
    episodes: tuple[NarratedEpisode, ...] = Field(min_length=EPISODES_PER_SERIES, max_length=EPISODES_PER_SERIES)
    narration_voice_id: str | None = Field(default=None, max_length=200)
    poster_spec: PosterSpec | None = Field(
        default=None, validation_alias=AliasChoices("poster_spec", LEGACY_POSTER_KEY)
    )


def is_audio_pack(document: Mapping[str, Any]) -> bool:
    """Whether a document is meant as an audio pack: it says so, or it has narrated episodes and no shots."""
    medium = document.get("medium")
    if isinstance(medium, str) and medium in (AUDIO, "video"):
        return medium == AUDIO
    return "shots" not in document and ("episodes" in document or "narration_text" in document)


def bible_of(document: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON as an agent sent it
    """The pack's series bible with what it may leave out; one that is no object stays what it is."""
    bible = document.get("series_bible", {})
    if not isinstance(bible, dict):
        return bible
    left_out: dict[str, Any] = {
        "global_style_bible": document.get("logline"),
        "location_anchors": [],
        "character_anchors": [],
        "do_not_change": [],
    }
    return left_out | bible


def poster_spec_of(document: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON as an agent sent it
    """The pack's poster spec, or one that shows what the logline tells."""
    spec = document.get("poster_spec", document.get(LEGACY_POSTER_KEY))
    if spec is not None:
        return spec
    return {"style": "cinematic", "key_visual": _up_to(str(document.get("logline", "")), 300) or "A voice in the dark"}


# Passages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Passage:
    """What a voice speaks in one go, and how long it is silent before the next one."""

    text: str
    pause_s: float


class PassageShot(ShotScript):
    """A passage as a shot without a picture: it lasts as long as it is spoken, whatever that is.

    `gen_clip_seconds` is how long it is expected to be spoken, `duration_seconds` that and the pause after it.
    """

    gen_clip_seconds: float = Field(gt=0)
    duration_seconds: float = Field(gt=0)


class NarrationScript(EpisodeScript):
    """An episode of an audio series as it goes into production."""

    shots: tuple[PassageShot, ...] = Field(min_length=1)


_BLANK_LINE = re.compile(r"\n\s*\n")
_CLOSERS = "\"'\u201d\u2019\u00bb)\\]"
_SENTENCE_END = re.compile(rf"(?<=[.!?\u2026])[{_CLOSERS}]*\s+|(?<=[\u3002\uff01\uff1f])[\u300d\u300f]*")
_CLAUSE_END = re.compile(r"(?<=[,;:\u2013\u2014])\s+|(?<=[\u3001\uff0c\uff1b])")
_WORD_END = re.compile(r"\s+")
_LETTERS = re.compile(r"[^\W_]+")
_LINE_ENDS_SENTENCE = re.compile(rf"[.!?\u2026\u3002\uff01\uff1f][{_CLOSERS}\u300d\u300f]*$")


def passages(narration: str, recap: str | None = None) -> tuple[Passage, ...]:
    """Cut a narration into passages of at most 500 characters, the recap's first.

    A passage ends with its paragraph, else behind a sentence, else behind a clause, else behind a word. Every word is
    in a passage, in its order; signs that stand alone, such as a line of asterisks, are a longer pause.
    """
    spoken = [*_read(recap or ""), *_read(narration)]
    if recap and spoken:
        opening = len(list(_read(recap)))
        if 0 < opening < len(spoken):
            spoken[opening - 1] = Passage(spoken[opening - 1].text, SCENE_S)
    return tuple(spoken)


def _read(text: str) -> Iterator[Passage]:
    """The passages of one text. The pause after its last one is a paragraph's."""
    waiting: Passage | None = None
    for paragraph in _paragraphs(text):
        pieces = [piece for piece in _pieces(paragraph) if _has_words(piece)]
        if not pieces and waiting is not None:
            waiting = Passage(waiting.text, SCENE_S)
        for number, piece in enumerate(pieces, start=1):
            if waiting is not None:
                yield waiting
            waiting = Passage(piece, PARAGRAPH_S if number == len(pieces) else _breath(piece))
    if waiting is not None:
        yield waiting


def _paragraphs(text: str) -> Iterator[str]:
    """Paragraphs in one line each: a line break ends one behind a blank line or a sentence; else it is a space."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n\n")
    for block in _BLANK_LINE.split(text):
        taken: list[str] = []
        for line in (" ".join(one.split()) for one in block.split("\n")):
            if not _has_words(line):
                yield from filter(None, (" ".join(taken), line))
                taken = []
                continue
            taken.append(line)
            if _LINE_ENDS_SENTENCE.search(line):
                yield " ".join(taken)
                taken = []
        yield from filter(None, (" ".join(taken),))


def _pieces(paragraph: str) -> Iterator[str]:
    """A paragraph in as few pieces as its sentences allow, none of them longer than a passage may be."""
    taken = ""
    for sentence in _split(paragraph, _SENTENCE_END):
        if len((taken + sentence).rstrip()) <= MAX_PASSAGE:
            taken += sentence
            continue
        if taken.strip():
            yield taken.strip()
        taken = ""
        for part in _short_enough(sentence):
            if len(taken) + len(part) > MAX_PASSAGE:
                yield taken.strip()
                taken = ""
            taken += part
    if taken.strip():
        yield taken.strip()


def _short_enough(sentence: str) -> Iterator[str]:
    """A sentence, or its clauses, or its words, or what is left of a word: pieces that join to the same again."""
    if len(sentence.rstrip()) <= MAX_PASSAGE:
        yield sentence
        return
    for clause in _split(sentence, _CLAUSE_END):
        if len(clause) <= MAX_PASSAGE:
            yield clause
            continue
        for word in _split(clause, _WORD_END):
            yield from (word[at : at + MAX_PASSAGE] for at in range(0, len(word), MAX_PASSAGE))


def _split(text: str, ends: re.Pattern[str]) -> Iterator[str]:
    """The text cut behind every end, which stays with what it ends."""
    start = 0
    for end in ends.finditer(text):
        if end.end() > start and not (ends is _SENTENCE_END and _goes_on(text[start : end.start()], text[end.end() :])):
            yield text[start : end.end()]
            start = end.end()
    if start < len(text):
        yield text[start:]


def _goes_on(before: str, after: str) -> bool:
    """Whether a stop ends no sentence: `"Stop!" she cried`, `Mr. Orlo`, `J. K.`."""
    return after[:1].islower() or is_abbreviated(before, after)


def _breath(piece: str) -> float:
    return BREATH_S if _LINE_ENDS_SENTENCE.search(piece) else CUT_BREATH_S


def _has_words(text: str) -> bool:
    return any(one.isalnum() for one in text)


def narration_script(pack: AudioPack, episode_number: int) -> NarrationScript:
    """The script of one episode, a shot for each passage. The picture of a shot is the poster's: the table wants one.

    Raises:
        ValueError: the pack has no such episode.
    """
    episode = next((one for one in pack.episodes if one.episode_number == episode_number), None)
    if episode is None:
        there_are = ", ".join(str(one.episode_number) for one in pack.episodes)
        raise ValueError(f"{pack.title!r} has no episode {episode_number}: there are {there_are}")
    shown = PosterSpec.model_validate(poster_spec_of(pack.model_dump(mode="json", exclude_none=True)))
    return NarrationScript(
        episode_number=episode_number,
        title=episode.title,
        shots=tuple(
            PassageShot(
                prompt=ShotPrompt(camera="static", scene=shown.key_visual),
                audio=ShotAudio(
                    type=AudioType.NARRATION,
                    voice_id=pack.narration_voice_id,
                    dialogue=Dialogue(speaker=NARRATOR, line=passage.text),
                ),
                gen_clip_seconds=_expected_s(passage.text),
                duration_seconds=_expected_s(passage.text) + passage.pause_s,
                edit_extend_strategy=ExtendStrategy.HOLD_LAST_FRAME,
            )
            for passage in passages(episode.narration_text, episode.recap)
        ),
    )


def _expected_s(text: str) -> float:
    return round(spoken_seconds(text), 3)


# Time ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spoken:
    """One passage in its place, in seconds from the start of the episode."""

    shot_id: UUID
    number: int
    starts_at_s: float
    seconds: float

    @property
    def ends_at_s(self) -> float:
        """Where its voice ends."""
        return self.starts_at_s + self.seconds


@dataclass(frozen=True)
class Reading:
    """A narrated episode in time."""

    passages: tuple[Spoken, ...]
    seconds: float
    """Of the whole episode."""


def reading(shots: Iterable[Shot], voices: Mapping[UUID, float], *, scored: bool) -> Reading:
    """Lay the passages of an episode one after the other, each behind the pause that its script gives it.

    `voices` has lengths in seconds by shot id; a passage that nobody has spoken yet counts as long as it is expected to
    be. `scored`: whether there is music, which opens and closes the episode.

    Raises:
        ValueError: a length is negative or not a finite number.
    """
    at_s = OPENING_SCORED_S if scored else OPENING_S
    laid: list[Spoken] = []
    pause_s = 0.0
    for shot in sorted(shots, key=lambda one: one.number):
        seconds = voices.get(shot.id, shot.gen_clip_seconds)
        if not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"passage {shot.number} of {seconds} seconds: expected a length of zero or more")
        starts_at_s = round(at_s + pause_s, 6)
        laid.append(Spoken(shot.id, shot.number, starts_at_s, seconds))
        at_s = starts_at_s + seconds
        pause_s = max(0.0, round(shot.duration_seconds - shot.gen_clip_seconds, 3))
    return Reading(tuple(laid), round(at_s + (CLOSING_SCORED_S if scored else CLOSING_S), 6))


def expected_seconds(episode: NarratedEpisode) -> tuple[float, float]:
    """How long an episode without music will last by a quick and by a calm narrator, as far as its text tells."""
    read = passages(episode.narration_text, episode.recap)
    slow_s = math.fsum(spoken_seconds(one.text) for one in read)
    silent_s = OPENING_S + math.fsum(one.pause_s for one in read[:-1]) + CLOSING_S
    return slow_s * SPOKEN_WORDS_PER_S / QUICK_WORDS_PER_S + silent_s, slow_s + silent_s


def longest_word(text: str) -> str:
    """The longest run of letters and digits in a text; of scripts that put no blank between words, a single one."""
    return max(_LETTERS.findall(spaced(text)), key=len, default="")


def _up_to(text: str, most: int) -> str:
    """The text up to a length, cut behind a word."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = text[: most - 1]
    return head[: head.rfind(" ") if " " in head else len(head)].rstrip(" ,:;") + "\u2026"


class LengthOutOfBounds(Exception):
    """An episode of an audio series is shorter or longer than one may be."""

    def __init__(self, partition_key: str, seconds: float) -> None:
        short = seconds < MIN_EPISODE_S
        super().__init__(
            f"{partition_key} would last {seconds:.1f} s: an episode of an audio series must last {MIN_EPISODE_S:.0f} "
            f"to {MAX_EPISODE_S:.0f} s. Nothing was published and its voiceovers are kept. Have it read by a "
            f"{'slower' if short else 'quicker'} voice (MOLTPIPE_VOICE, or the voice id in the engine's settings) by "
            "materializing `voiceover` with regenerate: true, and then `stitched_episode`; or ask the agent for a new "
            f"pack with a {'longer' if short else 'shorter'} text"
        )
        self.partition_key = partition_key
        self.seconds = seconds
