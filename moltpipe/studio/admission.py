"""The door: what is wrong with a submitted pilot script or audio pack, all at once, in the words of the trade.

Here: the rules across fields, and the wording of refusals. Not here: the shape of a script (`studio.screenplay`,
`studio.narration`), reading JSON (`studio.documents`), filing it (`ledger.scripts`).

What the old server or its skill schema accepts is accepted, and unknown keys are kept as sent. The old
server checked neither references to anchors nor the studio's genre, and let through characters that
Postgres cannot hold, so a script could pass the door and fail weeks later, after it had won.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from moltpipe.studio.documents import (
    CleanCopy,
    Finding,
    InvalidJson,
    Place,
    Refusal,
    ScriptNote,
    Unmanageable,
    parse_json,
    shown,
)
from moltpipe.studio.narration import (
    AUDIO,
    FIRST_WITH_RECAP,
    LONGEST_WORD,
    MAX_EPISODE_S,
    MIN_EPISODE_S,
    MIN_NARRATION,
    AudioPack,
    expected_seconds,
    is_audio_pack,
    longest_word,
)
from moltpipe.studio.screenplay import (
    CAMERA_TERMS,
    EPISODES_PER_SERIES,
    LEGACY_POSTER_KEY,
    MAX_PALETTE,
    MAX_SHOTS,
    MIN_SHOTS,
    MOTION_TERMS,
    NARRATOR,
    AudioType,
    ExtendStrategy,
    Genre,
    PilotScript,
)

__all__ = ["Admission", "InvalidJson", "Refusal", "ScriptNote", "judge", "parse_json", "read"]

MIN_RUNTIME_S = 30
MAX_RUNTIME_S = 90
SHORT_RUNTIME_S = 35
LONG_RUNTIME_S = 80
SHORT_TITLE = 3
SHORT_LOGLINE = 20

_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_ANCHOR = re.compile(r"(?<![A-Za-z0-9_])(LOC|CHAR)_\w+", re.ASCII)
_ANCHOR_LISTS = {"LOC": "location_anchors", "CHAR": "character_anchors"}
_SPOKEN = (AudioType.NARRATION, AudioType.VOICEOVER, AudioType.TTS, AudioType.DIALOGUE)
# The shape's own count leaves out entries that are misshapen themselves, so lists are counted here.
_MISCOUNTED = ("too_short", "too_long")


@dataclass(frozen=True)
class Admission:
    """The judgement on one document. Either there is a script or there are refusals."""

    script: PilotScript | AudioPack | None
    document: dict[str, Any]
    """As sent, unknown keys and all; empty when it was no JSON object."""
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[ScriptNote, ...] = ()


def read(text: str | bytes, *, studio_genre: str | None = None) -> Admission:
    """Read and judge a pilot script or an audio pack. Never raises for what the text says."""
    try:
        document = parse_json(text)
    except InvalidJson as error:
        return Admission(script=None, document={}, refusals=(error.refusal,))
    return judge(document, studio_genre=studio_genre)


def judge(document: object, *, studio_genre: str | None = None) -> Admission:
    """Judge a parsed JSON document as a pilot script or, where it is meant as one, an audio pack.

    Every error is named at once.

    `studio_genre`: the genre of the studio that it is filed for, if that is settled already.
    """
    if not isinstance(document, dict):
        finding = Finding((), document, "a script must be a JSON object with named fields")
        return Admission(script=None, document={}, refusals=(finding.as_refusal(),))
    copy = CleanCopy()
    try:
        readable = copy.of(document)
    except Unmanageable as error:
        return Admission(script=None, document=document, refusals=(error.finding.as_refusal(),))
    findings = copy.findings
    script: PilotScript | AudioPack | None = None
    shape = AudioPack if is_audio_pack(readable) else PilotScript
    try:
        # By way of JSON, since only there "strict" takes lists for tuples, and still no text for a number.
        script = shape.model_validate_json(json.dumps(readable), strict=True)
    except ValidationError as error:
        known = {finding.place for finding in findings}
        worded = [_worded(one) for one in error.errors(include_url=False) if one["type"] not in _MISCOUNTED]
        findings += [one for one in worded if one.place not in known]
    findings += _medium(readable)
    findings += (_across_pack if shape is AudioPack else _across)(readable, studio_genre)
    if script is None or findings:
        ordered = sorted(findings, key=_reading_order)
        return Admission(script=None, document=document, refusals=tuple(one.as_refusal() for one in ordered))
    return Admission(script=script, document=document, warnings=tuple(one.as_note() for one in _notes(script)))


# --- The shape, in the words of the trade ------------------------------------------------------------


def _worded(error: ErrorDetails) -> Finding:
    """One finding of the shape. The library that checks it speaks of floats, tuples and models."""
    place = tuple(error["loc"])
    wording = _WORDINGS.get(error["type"])
    rule = wording(error.get("ctx", {}), error["input"], place) if wording else "is not what a script has here"
    return Finding(place, None if error["type"] == "missing" else error["input"], rule)


def _too_short(limits: Mapping[str, Any], value: object, _: Place) -> str:
    if limits["min_length"] == 1:
        return "must not be empty"
    return f"needs at least {limits['min_length']} characters, has {len(str(value).strip())}"


def _unit(place: Place) -> str:
    return "" if "episode_number" in place else " seconds"


def _anchor_wording(_: Mapping[str, Any], __: object, place: Place) -> str:
    prefix, example = ("LOC", "LOC_HARBOUR") if _ANCHOR_LISTS["LOC"] in place else ("CHAR", "CHAR_PILOT")
    return f"must be an id such as {example}: {prefix}_ and then capital letters, digits or _"


_WORDINGS: dict[str, Callable[[Mapping[str, Any], object, Place], str]] = {
    "missing": lambda *_: "is required",
    "model_type": lambda *_: "must be an object with named fields",
    "tuple_type": lambda *_: "must be a list",
    "string_type": lambda *_: "must be text",
    "float_type": lambda *_: "must be a number of seconds",
    "int_type": lambda *_: "must be a whole number",
    "enum": lambda limits, *_: f"must be one of {str(limits['expected']).replace(chr(39), '')}",
    "literal_error": lambda limits, *_: f"must be one of {str(limits['expected']).replace(chr(39), '')}",
    "string_too_short": _too_short,
    "string_too_long": lambda limits, value, _: (
        f"may have at most {limits['max_length']} characters, has {len(str(value).strip())}"
    ),
    "string_pattern_mismatch": _anchor_wording,
    "greater_than_equal": lambda limits, _, place: f"must be at least {limits['ge']:g}{_unit(place)}",
    "less_than_equal": lambda limits, _, place: f"must be at most {limits['le']:g}{_unit(place)}",
}


# --- Rules across fields ------------------------------------------------------------------------------


def _across(document: dict[str, Any], studio_genre: str | None) -> Iterator[Finding]:
    """Rules that no single field breaks. Reads around whatever is missing or misshapen: that is named already."""
    shots = document.get("shots")
    shots = shots if isinstance(shots, list) else []
    yield from _counts(document.get("shots"), ("shots",), "shots", MIN_SHOTS, MAX_SHOTS)
    yield from _genre(document.get("genre"), studio_genre)
    yield from _anchors(document.get("series_bible"), shots)
    for index, shot in enumerate(shots):
        if isinstance(shot, dict):
            yield from _lengths(shot, ("shots", index))
            yield from _words(shot.get("audio"), ("shots", index, "audio"))
    yield from _runtime(shots)
    yield from _palette(document)


def _medium(document: dict[str, Any]) -> Iterator[Finding]:
    medium = document.get("medium")
    if medium not in (None, "video", AUDIO):
        yield Finding(("medium",), medium, f"must be one of video or {AUDIO}")


def _across_pack(document: dict[str, Any], studio_genre: str | None) -> Iterator[Finding]:
    """The same for an audio pack."""
    episodes = document.get("episodes")
    if isinstance(episodes, list) and len(episodes) != EPISODES_PER_SERIES:
        yield Finding(("episodes",), episodes, f"must be {EPISODES_PER_SERIES} episodes, there are {len(episodes)}")
    yield from _genre(document.get("genre"), studio_genre)
    yield from _anchors(document.get("series_bible"), [])
    numbers: list[object] = []
    for index, episode in enumerate(episodes if isinstance(episodes, list) else []):
        if isinstance(episode, dict):
            yield from _narrated(episode, ("episodes", index), numbers)
    yield from _palette(document)


def _narrated(episode: dict[str, Any], place: Place, numbers: list[object]) -> Iterator[Finding]:
    """One episode of a pack. `numbers` are those of the episodes before it, to which its own is added."""
    number = episode.get("episode_number")
    if isinstance(number, int) and not isinstance(number, bool):
        if number in numbers:
            yield Finding((*place, "episode_number"), number, "an episode's number may stand only once")
        numbers.append(number)
        if episode.get("recap") is None and FIRST_WITH_RECAP <= number <= EPISODES_PER_SERIES:
            rule = f"is required for episodes {FIRST_WITH_RECAP} to {EPISODES_PER_SERIES}: what happened before"
            yield Finding((*place, "recap"), None, rule)
    for field, fewest in (("recap", 0), ("narration_text", MIN_NARRATION)):
        words = episode.get(field)
        if not isinstance(words, str) or len(words.strip()) < fewest:
            continue
        if not _speakable(words):
            yield Finding((*place, field), words, f"{field} needs words to speak")
        longest = longest_word(words)
        if len(longest) > LONGEST_WORD:
            rule = f"a word may have at most {LONGEST_WORD} letters and digits, {shown(longest)} has {len(longest)}"
            yield Finding((*place, field), words, rule)


def _counts(entries: object, place: Place, noun: str, fewest: int, most: int) -> Iterator[Finding]:
    if isinstance(entries, list) and not fewest <= len(entries) <= most:
        limit = f"at least {fewest}" if len(entries) < fewest else f"at most {most}"
        yield Finding(place, entries, f"must be {limit} {noun}, there are {len(entries)}")


def _genre(genre: object, studio_genre: str | None) -> Iterator[Finding]:
    if studio_genre is not None and isinstance(genre, str) and genre in tuple(Genre) and genre != studio_genre:
        yield Finding(("genre",), genre, f"must be the studio's genre, {studio_genre}")


def _anchors(bible: object, shots: list[Any]) -> Iterator[Finding]:
    """Ids that stand twice, and names in the shots that no anchor has."""
    for prefix, field in _ANCHOR_LISTS.items():
        anchors = bible.get(field) if isinstance(bible, dict) else None
        if not isinstance(anchors, list):
            continue
        declared: list[str] = []
        for index, anchor in enumerate(anchors):
            name = anchor.get("id") if isinstance(anchor, dict) else None
            if isinstance(name, str) and name in declared:
                yield Finding(("series_bible", field, index, "id"), name, "an anchor's id may stand only once")
            elif isinstance(name, str):
                declared.append(name)
        for place, text in _texts(shots, ("shots",)):
            named = dict.fromkeys(match[0] for match in _ANCHOR.finditer(text) if match[1] == prefix)
            for name in named:
                if name not in declared:
                    there_are = ", ".join(declared) or "none"
                    rule = f"names {shown(name)}, which is not in series_bible.{field}: there are {shown(there_are)}"
                    yield Finding(place, text, rule)


def _texts(value: object, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(one, (*place, key))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _texts(one, (*place, index))


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _lengths(shot: dict[str, Any], place: Place) -> Iterator[Finding]:
    clip, duration = _seconds(shot.get("gen_clip_seconds")), _seconds(shot.get("duration_seconds"))
    if clip is not None and duration is not None and duration < clip:
        rule = f"a shot must last at least as long as its clip (gen_clip_seconds), which has {clip:g} seconds"
        yield Finding((*place, "duration_seconds"), shot["duration_seconds"], rule)


def _words(audio: object, place: Place) -> Iterator[Finding]:
    if not isinstance(audio, dict) or audio.get("type") not in tuple(_SPOKEN):
        return
    dialogue = audio.get("dialogue")
    if dialogue is None:
        if not _speakable(audio.get("description", "")):
            rule = f"{audio['type']} needs words to speak, in dialogue.line or in description"
            yield Finding(place, audio.get("description"), rule)
    elif isinstance(dialogue, dict) and not _speakable(dialogue.get("line")) and str(dialogue.get("line", "")).strip():
        yield Finding((*place, "dialogue", "line"), dialogue["line"], "a line needs words to speak")


def _speakable(text: object) -> bool:
    """Whether there is anything in it to say. What is no text at all is named elsewhere."""
    return any(one.isalnum() for one in text) if isinstance(text, str) else text is not None


def _runtime(shots: list[Any]) -> Iterator[Finding]:
    durations = [_seconds(shot.get("duration_seconds")) if isinstance(shot, dict) else None for shot in shots]
    known = [duration for duration in durations if duration is not None]
    if not known or len(known) < len(durations):
        return
    total = round(math.fsum(known), 3)
    if not MIN_RUNTIME_S <= total <= MAX_RUNTIME_S:
        rule = f"all shots together must last {MIN_RUNTIME_S} to {MAX_RUNTIME_S} seconds, these last {total:g}"
        yield Finding(("shots",), total, rule)


def _palette(document: dict[str, Any]) -> Iterator[Finding]:
    field = "poster_spec" if "poster_spec" in document else LEGACY_POSTER_KEY
    poster = document.get(field)
    palette = poster.get("palette") if isinstance(poster, dict) else None
    yield from _counts(palette, (field, "palette"), "colours", 0, MAX_PALETTE)
    for index, colour in enumerate(palette if isinstance(palette, list) else []):
        if isinstance(colour, str) and not _COLOUR.fullmatch(colour.strip()):
            yield Finding((field, "palette", index), colour, "must be a colour such as #1a2b3c: # and six hex digits")


# --- Notes on a script that is good -------------------------------------------------------------------


def _notes(script: PilotScript | AudioPack) -> Iterator[Finding]:
    if len(script.title) < SHORT_TITLE:
        yield Finding(("title",), script.title, "a very short title is hard to find again")
    if len(script.logline) < SHORT_LOGLINE:
        yield Finding(("logline",), script.logline, "a logline of one full sentence wins more votes")
    yield from _pack_notes(script) if isinstance(script, AudioPack) else _pilot_notes(script)


def _pack_notes(pack: AudioPack) -> Iterator[Finding]:
    for index, episode in enumerate(pack.episodes):
        shortest, longest = expected_seconds(episode)
        if not MIN_EPISODE_S <= shortest <= longest <= MAX_EPISODE_S:
            rule = (
                f"will last {shortest:.0f} to {longest:.0f} seconds, by its narrator: an episode that does not last "
                f"{MIN_EPISODE_S:.0f} to {MAX_EPISODE_S:.0f} seconds once it is spoken is not published"
            )
            yield Finding(("episodes", index, "narration_text"), episode.narration_text, rule)


def _pilot_notes(script: PilotScript) -> Iterator[Finding]:
    for field, kind in (("location_anchors", "places"), ("character_anchors", "characters")):
        if not getattr(script.series_bible, field):
            yield Finding(("series_bible", field), [], f"without anchors {kind} will look different in every shot")
    total = math.fsum(shot.duration_seconds for shot in script.shots)
    if total < SHORT_RUNTIME_S:
        yield Finding(("shots",), total, f"a short pilot: less than {SHORT_RUNTIME_S} seconds")
    elif total > LONG_RUNTIME_S:
        yield Finding(("shots",), total, f"a long pilot: more than {LONG_RUNTIME_S} seconds")
    if len({shot.prompt.camera for shot in script.shots}) == 1:
        yield Finding(("shots",), script.shots[0].prompt.camera, "every shot has the same camera")
    yield from _shot_notes(script)


def _shot_notes(script: PilotScript) -> Iterator[Finding]:
    cast = {name for anchor in script.series_bible.character_anchors for name in (anchor.id, anchor.name)}
    for index, shot in enumerate(script.shots):
        place: Place = ("shots", index)
        if shot.prompt.camera not in CAMERA_TERMS:
            yield Finding((*place, "prompt", "camera"), shot.prompt.camera, "no camera term known here; taken as words")
        if shot.prompt.motion is not None and shot.prompt.motion not in MOTION_TERMS:
            yield Finding((*place, "prompt", "motion"), shot.prompt.motion, "no motion term known here; taken as words")
        if shot.edit_extend_strategy is ExtendStrategy.NONE and shot.duration_seconds > shot.gen_clip_seconds:
            rest = shot.duration_seconds - shot.gen_clip_seconds
            rule = f"the clip ends {rest:g} seconds before its shot: its last frame is held, as no strategy is named"
            yield Finding((*place, "edit_extend_strategy"), shot.edit_extend_strategy.value, rule)
        dialogue = shot.audio.dialogue
        if shot.audio.type is AudioType.DIALOGUE and dialogue is None:
            yield Finding(
                (*place, "audio"), shot.audio.description, "no dialogue.line: a narrator speaks the description"
            )
        if dialogue is not None and shot.audio.type not in _SPOKEN:
            yield Finding(
                (*place, "audio", "dialogue", "line"), dialogue.line, f"not heard: the shot is {shot.audio.type}"
            )
        elif dialogue is not None and dialogue.speaker not in cast | {NARRATOR}:
            rule = "no character of the series bible: the voice may differ between episodes"
            yield Finding((*place, "audio", "dialogue", "speaker"), dialogue.speaker, rule)


def _reading_order(finding: Finding) -> tuple[tuple[int, int, str], ...]:
    """Fields in the order in which a script has them, lists by number, the rest by name."""
    return tuple(
        (0, step, "") if isinstance(step, int) else (1, _FIELD_ORDER.get(step, len(_FIELD_ORDER)), step)
        for step in finding.place
    )


_IN_ORDER = (
    "medium", "title", "logline", "genre", "arc", "series_bible", "shots", "episodes", "narration_voice_id",
    "poster_spec", LEGACY_POSTER_KEY,
)  # fmt: skip
_FIELD_ORDER = {field: place for place, field in enumerate(_IN_ORDER)}
