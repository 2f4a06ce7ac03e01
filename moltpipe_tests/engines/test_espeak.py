from __future__ import annotations

import sys
import wave
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moltpipe.engines import espeak
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.espeak import Espeak, speaker, timed_words
from moltpipe.engines.protocols import LineRequest, Progress, Recorded
from moltpipe.studio.screenplay import NARRATOR
from moltpipe_tests.engines.orders import order


async def _speak(workdir: Path, text: str, who: str = NARRATOR, style: str | None = None) -> Recorded:
    voice = Espeak(workdir)
    job = await voice.submit(LineRequest(text=text, speaker=who, voice_style=style), order())
    while isinstance(result := await voice.poll(job), Progress):
        pass
    return result


def _seconds(file: Path) -> float:
    with wave.open(str(file)) as recording:
        assert (recording.getnchannels(), recording.getsampwidth()) == (1, 2)
        seconds: float = recording.getnframes() / recording.getframerate()
        return seconds


@pytest.mark.parametrize(
    "text",
    [
        "The tide had kept the letters dry.",
        "In 1999 there were 4,032 of them — nobody, not even Mara, knew why!",
        "Café “Déjà vu”: the naïve façade of señor Übermut. Then she left.",
        # Russian, as escapes: its letters look like Latin ones.
        "\u041c\u043e\u0440\u0435 \u043d\u0435 \u0437\u0430\u0431\u044b\u043b\u043e \u043d\u0438\u0447\u0435.",
        "海は忘れない。誰も知らない夜の声。",
        "🙂 hello 🙂 there 🚀",
        'line one\nline two\t"quoted" $5.99 Dr. Smith, e.g. 12:30',
        " ".join(["word"] * 100),
        "…",
    ],
    ids=["plain", "digits", "accents", "cyrillic", "japanese", "emoji", "layout", "long", "nothing to pronounce"],
)
async def test_word_times_cover_the_text_in_order_and_end_with_the_speech(tmp_path: Path, text: str) -> None:
    recorded = await _speak(tmp_path, text)
    seconds = _seconds(recorded.local)
    assert "".join("".join(word.text for word in recorded.words).split()) == "".join(text.split())
    previous = 0.0
    for word in recorded.words:
        assert previous - 0.001 <= word.start <= word.end <= seconds + 0.001
        previous = word.start
    assert seconds - 0.25 <= recorded.words[-1].end <= seconds


async def test_words_are_timed_where_they_are_heard(tmp_path: Path) -> None:
    # The library counts positions in characters: counted in bytes, every accent would push the words behind it on.
    plain = await _speak(tmp_path, "cafe cafe cafe cafe cafe end")
    accented = await _speak(tmp_path, "café café café café café end")
    assert abs(plain.words[-1].start - accented.words[-1].start) < 0.25
    halves = await _speak(tmp_path, "One two three four. Five six seven eight.")
    assert halves.words[3].end < halves.words[4].start, "there is a pause between two sentences"


def _timbre(file: Path) -> npt.NDArray[np.float64]:
    """The mean spectrum of a recording, of length 1: two recordings of one voice are never the same samples."""
    with wave.open(str(file)) as recording:
        samples = np.frombuffer(recording.readframes(recording.getnframes()), dtype="<i2").astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512] * np.hanning(1024)
    spectrum: npt.NDArray[np.float64] = np.abs(np.fft.rfft(windows)).mean(axis=0)[:250]
    return spectrum / float(np.linalg.norm(spectrum))


async def test_characters_narrator_and_whisper_sound_different(tmp_path: Path) -> None:
    cast = ((NARRATOR, None), ("CHAR_MARA", None), ("CHAR_TOMAS", None), ("CHAR_TOMAS", "whisper"))
    line = "Who goes there, and what do you want?"
    timbres = [_timbre((await _speak(tmp_path, line, who, style)).local) for who, style in cast]
    again = [_timbre((await _speak(tmp_path, line, who, style)).local) for who, style in cast]
    alike = max(float(np.linalg.norm(one - other)) for one, other in zip(timbres, again, strict=True))
    apart = min(float(np.linalg.norm(one - other)) for one, other in combinations(timbres, 2))
    assert apart > 3 * alike


async def test_the_same_speaker_says_the_same_line_at_the_same_pace(tmp_path: Path) -> None:
    one, other = [await _speak(tmp_path, "Who goes there?", "CHAR_MARA", "old, calm") for _ in range(2)]
    assert one.local != other.local
    assert _seconds(one.local) == pytest.approx(_seconds(other.local), abs=0.02)
    assert [word.start for word in one.words] == [word.start for word in other.words]


def test_a_cast_of_six_has_six_voices() -> None:
    cast = ["CHAR_MARA", "CHAR_TOMAS", "CHAR_UNIT_7", "CHAR_THE_TIDE", "CHAR_KEEPER", "CHAR_GULL"]
    assert len({speaker(LineRequest(text="yes", speaker=who)) for who in cast}) == 6


def test_a_voice_style_is_heard_in_pitch_and_pace() -> None:
    plain, deep, young, slow = (
        speaker(LineRequest(text="yes", speaker="CHAR_A", voice_style=style))
        for style in ("male", "deep male", "young male", "slow, calm male")
    )
    assert deep.pitch < plain.pitch < young.pitch
    assert slow.rate < plain.rate < young.rate
    assert "whisper" in speaker(LineRequest(text="yes", speaker="CHAR_A", voice_style="a hushed woman")).voice


def test_a_named_voice_is_taken_and_a_foreign_voice_id_is_not_an_error() -> None:
    assert speaker(LineRequest(text="yes", speaker="CHAR_A", voice_id="en-us+f3")).voice == "en-us+f3"
    foreign = speaker(LineRequest(text="yes", speaker="CHAR_A", voice_id="21m00Tcm4TlvDq8ikWAM"))
    assert foreign == speaker(LineRequest(text="yes", speaker="CHAR_A"))


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00"])
async def test_an_empty_line_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(EngineError, match="nothing to say") as refusal:
        await _speak(tmp_path, text)
    assert refusal.value.error_class is ErrorClass.INVALID_INPUT


async def test_without_the_library_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(espeak, "_open_library", espeak._open_library.__wrapped__)  # noqa: SLF001 - the open one is kept
    with pytest.raises(EngineError, match=r"pip install moltpipe\[local\]"):
        await _speak(tmp_path, "Hello.")


def test_words_without_a_mark_share_the_time_up_to_the_next() -> None:
    words = timed_words("a b c d", ((0, 0.0), (6, 3.0)), np.array([]), 4.0)
    assert [(word.start, word.end) for word in words] == [(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
