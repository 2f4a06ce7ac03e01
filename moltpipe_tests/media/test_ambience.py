from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from moltpipe.media.ambience import BED_LUFS, ROOM_LUFS, SCENES, Scene, bed, scenes_of
from moltpipe.media.errors import MediaError
from moltpipe.media.pcm import decoded
from moltpipe.media.runner import run, url
from moltpipe.media.sound import Cue, CueKind, measure, mix
from moltpipe.studio.finish import Finish
from moltpipe_tests.media.material import source


def _first_words(description: str | None) -> list[str]:
    return [scene.words.partition(" ")[0] for scene in scenes_of(description)]


@pytest.mark.parametrize(
    ("description", "heard"),
    [
        ("thin wind, and a servo that stops in mid-turn", ["wind", "machine"]),
        ("paper tearing far away, then a hush of Waves", ["sea"]),
        ("rain on glass, a clockwork tick, then the hum of the lamp cuts out", ["rain", "clock", "hum"]),
        ("a train passes without stopping, paper flutters, fluorescent hum", ["train", "hum"]),
        ("wind, gusts, a gale and the breeze", ["wind"]),
        ("rain, wind, fire and traffic", ["rain", "wind", "fire"]),
    ],
)
def test_words_ask_for_what_they_name_in_their_order(description: str, heard: list[str]) -> None:
    assert _first_words(description) == heard


@pytest.mark.parametrize(
    "description", [None, "", "room tone", "a full stop: no hum, no surf", "windows", "Ω 雨", "read without inflection"]
)
def test_what_names_nothing_that_goes_on_is_room_tone(description: str | None) -> None:
    assert _first_words(description) == [""]


def test_no_word_asks_for_two_scenes() -> None:
    words = [word for scene in SCENES for word in scene.words.split()]
    assert sorted(words) == sorted(set(words))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: str(scene.words.partition(" ")[0]))
def test_every_scene_has_its_level_and_never_clips(room: Path, scene: Scene) -> None:
    bed(scene.words.partition(" ")[0], seconds=8, seed=5, target=room / "bed.wav")
    lufs, dbtp = measure(room / "bed.wav")
    # The sea comes and goes within ten seconds, so eight of them are louder or softer than their mean.
    assert lufs == pytest.approx(scene.lufs, abs=4)
    assert dbtp is not None
    assert dbtp < -6
    left, right = np.concatenate(list(decoded(room / "bed.wav"))).T
    assert 0.2 < float(np.corrcoef(left, right)[0, 1]) < 0.95


def test_several_scenes_together_are_no_louder_than_one(room: Path) -> None:
    bed("rain and fire in the city", seconds=10, seed=5, target=room / "bed.wav")
    assert measure(room / "bed.wav")[0] == pytest.approx(BED_LUFS, abs=2)


@pytest.mark.parametrize("seconds", [0.01, 0.5, 3.123456, 30.0])
def test_a_bed_is_as_long_as_it_is_asked_to_the_sample(room: Path, seconds: float) -> None:
    bed("rain", seconds=seconds, seed=1, target=room / "bed.wav")
    assert sum(map(len, decoded(room / "bed.wav"))) == round(seconds * 48_000)


@pytest.mark.parametrize("words", [None, "storm", "birds", "fire", "train"])
def test_a_seed_decides_every_sample(room: Path, words: str | None) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        bed(words, seconds=2, seed=seed, target=room / f"{name}.wav")
    first, again, other = ((room / f"{name}.wav").read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_a_bed_never_repeats_and_has_no_hole_where_its_pieces_meet(room: Path) -> None:
    bed("rain", seconds=20, seed=3, target=room / "bed.wav")
    sound = np.concatenate(list(decoded(room / "bed.wav")))[:, 0]
    spectrum = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
    likeness = np.fft.irfft(spectrum)[: len(sound)]
    assert likeness[4_800:].max() < 0.05 * likeness[0]
    powers = (sound.reshape(-1, 2_400) ** 2).mean(axis=1)
    assert powers.min() > np.median(powers) / 3


@pytest.mark.parametrize("lufs", [-14.0, -23.0])
def test_no_shot_falls_silent_over_room_tone(room: Path, lufs: float) -> None:
    bed(None, seconds=12, seed=9, target=room / "bed.wav")
    assert measure(room / "bed.wav")[0] == pytest.approx(ROOM_LUFS, abs=1)
    voice = source(room / "voice.wav", "-f lavfi -i sine=f=300:d=2 -af volume=3dB -ac 2")
    cues = [Cue(voice, 1, CueKind.VOICE), Cue(room / "bed.wav", 0, CueKind.AMBIENCE)]
    made = mix(cues, seconds=12, target=room / "track.m4a", finish=Finish(loudness_lufs=lufs))
    assert made.loudness.after_lufs == pytest.approx(lufs, abs=0.5)
    args = ["-loglevel", "info", "-i", url(room / "track.m4a"), "-af", "silencedetect=n=-60dB:d=0.2", "-f", "null", "-"]
    assert re.findall("silence_start", run(args, timeout_s=60).stderr) == []


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_a_bed_without_a_length_is_refused(room: Path, seconds: float) -> None:
    with pytest.raises(MediaError, match="expected a length"):
        bed("rain", seconds=seconds, seed=1, target=room / "bed.wav")
    assert not (room / "bed.wav").exists()
