"""The voice called `espeak`: eSpeak NG in this process, free, offline, with word times.

Here: which voice a speaker gets, the calls into the library, and how its word events become word times. Not
here: loudness and the mix (`media.sound`).

The library comes with the wheel `espeakng-loader`, which is GPL-3 and therefore only in the extra `local`. It keeps
its state in globals, so one lock stands around every call of this process.

Source: eSpeak NG's speak_lib.h for the calls, event types and flags.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import re
import threading
import unicodedata
import wave
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.local import Bench, LocalEngine, Stopped
from moltpipe.engines.protocols import LineRequest, Recorded
from moltpipe.engines.voices import Gender, gender
from moltpipe.studio.records import Word
from moltpipe.studio.screenplay import NARRATOR

NAME = "espeak"

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: a call returns when all samples went through the callback; no sound device
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: without it a missing data folder ends the whole process
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_WORD, _LAST = 1, 0

_AUDIBLE = 120
"""Of 32767. What eSpeak NG leaves between words lies below."""
_TAIL_S = 0.15
_GAP_S = 0.12
"""A silence that ends a word. Shorter ones are stops within speech, such as the one in a `t`."""
_PAUSE_S = 0.6
"""How long a line lasts that has nothing to pronounce, such as `...`: a beat of silence, not an error."""


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Speaker:
    """How a speaker sounds. Pitch and range 0 to 99, rate in words per minute."""

    voice: str
    pitch: int
    range: int
    rate: int


@dataclass(frozen=True)
class Spoken:
    """Speech as the library gave it. Marks are (character in the text from 0, seconds)."""

    samples: npt.NDArray[np.int16]
    sample_rate: int
    marks: tuple[tuple[int, float], ...]


class Espeak(LocalEngine[LineRequest, Recorded]):
    """Speaks a line into a 16-bit mono WAV file."""

    name = NAME
    model = "espeak-ng-1"

    def make(self, request: LineRequest, bench: Bench) -> Recorded:
        """Speak.

        Raises:
            EngineError: the library is not installed, or the line is empty.
        """
        text = "".join(" " if unicodedata.category(one) == "Cc" else one for one in request.text)
        if not text.strip():
            raise EngineError(NAME, ErrorClass.INVALID_INPUT, f"there is nothing to say in {request.text!r}")
        spoken = _library().speak(text, speaker(request), bench.stop)
        bench.go_on()

        audible = np.flatnonzero(np.abs(spoken.samples.astype(np.int32)) > _AUDIBLE)
        if audible.size:
            speech_end = (int(audible[-1]) + 1) / spoken.sample_rate
            samples = spoken.samples[: int(audible[-1]) + 1 + round(_TAIL_S * spoken.sample_rate)]
            words = timed_words(text, spoken.marks, audible / spoken.sample_rate, speech_end)
        else:
            samples = np.zeros(round(_PAUSE_S * spoken.sample_rate), dtype=np.int16)
            words = timed_words(text, (), audible, _PAUSE_S)

        file = bench.stem.with_suffix(".wav")
        with wave.open(str(file), "wb") as recording:
            recording.setnchannels(1)
            recording.setsampwidth(2)
            recording.setframerate(spoken.sample_rate)
            recording.writeframes(samples.astype("<i2").tobytes())
        return Recorded(file=file, words=words)


# Who sounds how ------------------------------------------------------------------------------------------------------

_FEMALE = ("f1", "f2", "f3", "f4", "f5", "linda", "steph", "belinda", "Annie", "shelby")
_MALE = ("m1", "m2", "m3", "m4", "m5", "m7", "adam", "benjamin", "david", "quincy", "victor", "michael")
_ACCENTS = ("en-us", "en", "en-gb-x-rp", "en-gb-scotland", "en-029")
_NARRATOR = Speaker(voice="en-gb-x-rp+m3", pitch=38, range=45, rate=152)

_SCRIPTS = {
    "CYRILLIC": "ru",
    "GREEK": "el",
    "ARABIC": "ar",
    "HEBREW": "he",
    "DEVANAGARI": "hi",
    "CJK": "cmn",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}
"""Unicode's name of a script, and the language that its text is read in: an English voice spells such letters out."""

_PALETTES = {Gender.FEMALE: _FEMALE, Gender.MALE: _MALE, None: _FEMALE + _MALE}
_BENDS: tuple[tuple[frozenset[str], int, int, int], ...] = (
    # words, then what they add to pitch, range and rate
    (frozenset({"deep", "low", "baritone", "bass", "gravelly", "gruff", "rumbling", "dark"}), -22, 0, -8),
    (frozenset({"high", "bright", "light", "shrill", "squeaky", "thin"}), 22, 10, 6),
    (frozenset({"young", "child", "childlike", "girl", "boy", "kid", "youthful"}), 20, 12, 10),
    (frozenset({"old", "elderly", "aged", "ancient", "weary", "tired", "grandmother", "grandfather"}), -8, -6, -26),
    (frozenset({"calm", "slow", "soft", "gentle", "measured", "quiet", "patient", "warm", "serene"}), -3, -8, -20),
    (frozenset({"fast", "nervous", "anxious", "urgent", "excited", "quick", "energetic", "restless"}), 6, 16, 28),
    (frozenset({"flat", "monotone", "deadpan", "cold", "mechanical", "synthetic", "emotionless"}), -2, -38, -4),
    (frozenset({"melodic", "theatrical", "expressive", "dramatic", "singsong", "playful"}), 3, 26, 2),
)  # fmt: skip
_WHISPER_WORDS = frozenset({"whisper", "whispers", "whispering", "whispered", "hushed", "breathy"})
_MACHINE_WORDS = frozenset({"robot", "robotic", "mechanical", "synthetic", "machine", "android", "vocoder", "computer"})
_MACHINES = ("robosoft", "robosoft3", "robosoft5", "robosoft7", "UniRobot")


def speaker(request: LineRequest) -> Speaker:
    """The voice of a line: the named one if eSpeak NG has it, else one made from who speaks and how.

    Voice ids of other providers stand in many scripts; they are no error here, they say nothing to this engine.
    """
    chosen = _character(request) if request.speaker != NARRATOR else _styled(_NARRATOR, _style_words(request))
    if request.voice_id:
        # The library knows British English as `en` once a variant follows.
        named = request.voice_id.replace("en-gb+", "en+")
        if _is_voice(named):
            return replace(chosen, voice=named)
    language = _language(request.text)
    if language is None:
        return chosen
    variant = chosen.voice.partition("+")[2]
    return replace(chosen, voice=f"{language}+{variant}")


def _character(request: LineRequest) -> Speaker:
    digest = hashlib.sha256(request.speaker.casefold().encode("utf-8", "replace")).digest()
    words = _style_words(request)
    asked = gender(request.voice_style)
    if words & _MACHINE_WORDS:
        palette: tuple[str, ...] = _MACHINES
    else:
        palette = _PALETTES[asked]
    variant = palette[digest[0] % len(palette)]
    if words & _WHISPER_WORDS:
        variant = "whisper" if asked is Gender.MALE or (digest[0] % 2 and asked is None) else "whisperf"
    plain = Speaker(
        voice=f"{_ACCENTS[digest[1] % len(_ACCENTS)]}+{variant}",
        pitch=40 + digest[2] % 21,
        range=42 + digest[3] % 21,
        rate=152 + digest[4] % 21,
    )
    return _styled(plain, words)


def _style_words(request: LineRequest) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", (request.voice_style or "").casefold()))


def _styled(plain: Speaker, words: frozenset[str]) -> Speaker:
    pitch, spread, rate = plain.pitch, plain.range, plain.rate
    for bend_words, more_pitch, more_range, more_rate in _BENDS:
        if words & bend_words:
            pitch, spread, rate = pitch + more_pitch, spread + more_range, rate + more_rate
    return Speaker(plain.voice, min(99, max(0, pitch)), min(99, max(0, spread)), min(220, max(100, rate)))


def _language(text: str) -> str | None:
    """The language of most letters' script, None where that is Latin or not known here."""
    counts: dict[str | None, int] = {}
    for one in text:
        if one.isalpha():
            language = _SCRIPTS.get(unicodedata.name(one, "").partition(" ")[0].partition("-")[0])
            counts[language] = counts.get(language, 0) + 1
    if "ja" in counts:  # Japanese mixes kana with Han characters, Chinese has no kana
        return "ja"
    return max(counts, key=counts.__getitem__, default=None)


# Word times ----------------------------------------------------------------------------------------------------------

_STOPS = "\u3001\u3002\uff01\uff0c\uff1b\uff1f"
"""Full-width stops, after which Chinese and Japanese lines may break."""
_TOKEN = re.compile(rf"(?:[^\s{_STOPS}]+[{_STOPS}]*|[{_STOPS}]+)(?:\s+[^\w\s]+(?=\s|$))*")
"""What is shown as one word: up to white space, or up to a full-width stop in scripts that have no spaces.

A dash that stands alone goes with the word before it: it is not pronounced and would have no time of its own.
"""


def timed_words(
    text: str, marks: Sequence[tuple[int, float]], audible: npt.NDArray[np.floating | np.integer], speech_end: float
) -> tuple[Word, ...]:
    """The words of the text with their times, in seconds. `audible` are the moments at which there is sound, in order.

    The library marks what it pronounces, which is not what stands there: `1999` has several marks, a dash has
    none. A word starts at its first mark; words without one share the time up to the next that has. A word ends where
    the next starts, or where the pause before that begins; the last one at `speech_end`.
    """
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return ()
    starts_at = [token.start() for token in tokens]
    first: list[float | None] = [None] * len(tokens)
    for position, second in marks:
        index = bisect_right(starts_at, position) - 1
        earlier = first[max(index, 0)]
        first[max(index, 0)] = second if earlier is None else min(earlier, second)

    starts = _interpolated(first, speech_end)
    words = []
    for index, token in enumerate(tokens):
        start = starts[index]
        end = speech_end
        if index + 1 < len(tokens):
            end = starts[index + 1]
            heard = int(np.searchsorted(audible, end))
            if heard and start < audible[heard - 1] < end - _GAP_S:
                end = float(audible[heard - 1])
        words.append(Word(text=token.group(), start=round(start, 3), end=round(max(start, end), 3)))
    return tuple(words)


def _interpolated(first: list[float | None], speech_end: float) -> list[float]:
    """Starts for every word: known ones kept and made monotone, the others spread evenly between their neighbours."""
    known = [(-1, 0.0)] if first[0] is None else []
    for index, second in enumerate(first):
        if second is not None:
            known.append((index, min(speech_end, max(second, known[-1][1] if known else 0.0))))
    known.append((len(first), speech_end))
    starts = [0.0] * len(first)
    for (left, from_s), (right, to_s) in pairwise(known):
        # Before the first mark there is a gap as wide as its words; after a marked word, that word has its share too.
        shares = right - left if left >= 0 else max(1, right)
        offset = 0 if left >= 0 else 1
        for index in range(max(left, 0), right):
            starts[index] = from_s + (to_s - from_s) * (index - left - offset) / shares
    return starts


# The library ---------------------------------------------------------------------------------------------------------


class _Library:
    """The one eSpeak NG of this process, and the lock around it."""

    def __init__(self, library: ctypes.CDLL, sample_rate: int) -> None:
        self._library = library
        self._sample_rate = sample_rate
        self._lock = threading.Lock()

    def has_voice(self, voice: str) -> bool:
        with self._lock:
            return bool(self._library.espeak_SetVoiceByName(voice.encode("utf-8", "replace")) == 0)

    def speak(self, text: str, speaker: Speaker, stop: threading.Event) -> Spoken:
        samples: list[npt.NDArray[np.int16]] = []
        marks: list[tuple[int, float]] = []

        def hear(wav: Any, count: int, events: Any) -> int:  # noqa: ANN401 - ctypes pointers have no public types
            if wav and count > 0:
                samples.append(np.ctypeslib.as_array(wav, shape=(count,)).astype(np.int16, copy=True))
            index = 0
            while events[index].type != _LAST:
                event = events[index]
                if event.type == _WORD:
                    marks.append((max(0, event.text_position - 1), event.audio_position / 1000))
                index += 1
            return int(stop.is_set())

        callback = _Callback(hear)
        encoded = text.encode("utf-8", "replace")
        with self._lock:
            if self._library.espeak_SetVoiceByName(speaker.voice.encode()) != 0:
                raise EngineError(NAME, ErrorClass.PROVIDER_FAULT, f"the installed eSpeak NG has no {speaker.voice}")
            for parameter, setting in ((_RATE, speaker.rate), (_PITCH, speaker.pitch), (_RANGE, speaker.range)):
                self._library.espeak_SetParameter(parameter, setting, 0)
            self._library.espeak_SetSynthCallback(callback)
            status = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        if stop.is_set():
            raise Stopped
        if status != 0:
            raise EngineError(NAME, ErrorClass.PROVIDER_FAULT, f"eSpeak NG refused the line (status {status})")
        joined = np.concatenate(samples) if samples else np.zeros(0, dtype=np.int16)
        return Spoken(joined, self._sample_rate, tuple(marks))


_opening = threading.Lock()


def _library() -> _Library:
    with _opening:
        return _open_library()


@functools.cache
def _open_library() -> _Library:
    """Load and start the library, once per process. It opens no device and writes nothing.

    Raises:
        EngineError: the extra `local` is not installed, or its files do not work here.
    """
    if importlib.util.find_spec("espeakng_loader") is None:
        raise EngineError(
            NAME,
            ErrorClass.INVALID_INPUT,
            "eSpeak NG is not installed: pip install moltpipe[local], or set MOLTPIPE_VOICE to a hosted voice",
        )
    import espeakng_loader  # noqa: PLC0415 - an optional extra: imported only where it is used

    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as failure:
        raise EngineError(NAME, ErrorClass.PROVIDER_FAULT, f"eSpeak NG cannot be loaded: {failure}") from failure
    library.espeak_SetVoiceByName.argtypes = (ctypes.c_char_p,)
    library.espeak_SetSynthCallback.argtypes = (_Callback,)
    library.espeak_SetSynthCallback.restype = None
    library.espeak_Synth.argtypes = (
        *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p),
    )
    data = Path(espeakng_loader.get_data_path())
    sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(data.parent).encode(), _DONT_EXIT)
    if sample_rate <= 0:
        raise EngineError(NAME, ErrorClass.PROVIDER_FAULT, f"eSpeak NG did not start with the data in {data}")
    return _Library(library, sample_rate)


def _is_voice(voice_id: str) -> bool:
    # Names of eSpeak NG look like en-gb+f2: the library itself would also take a path or the name of a language.
    return re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)*(\+[A-Za-z0-9]+)?", voice_id) is not None and _library().has_voice(
        voice_id
    )
