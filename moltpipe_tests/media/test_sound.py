from __future__ import annotations

import math
from pathlib import Path

import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.probe import probe
from moltpipe.media.sound import Cue, CueKind, measure, mix, normalise_line
from moltpipe_tests.media.material import samples, source


def _voice(room: Path, seconds: float = 1.5, volume: float = 1.0) -> Path:
    args = f"-f lavfi -i sine=f=300:d={seconds}:sample_rate=22050 -af volume={volume}"
    return source(room / f"voice {seconds} {volume}.wav", args)


def _heard(path: Path, threshold: int = 0) -> tuple[int, int]:
    loud = [number for number, value in enumerate(samples(path)) if abs(value) > threshold]
    return loud[0], loud[-1]


def test_a_cue_begins_and_ends_to_the_sample(room: Path) -> None:
    mix([Cue(_voice(room), 1.0, CueKind.VOICE)], seconds=4.0, target=room / "track.wav")
    first, last = _heard(room / "track.wav")
    assert first == pytest.approx(48_000, abs=10)
    assert last == pytest.approx(48_000 + 72_000 - 1, abs=10)


def test_limiting_moves_nothing(room: Path) -> None:
    # A quiet, long bed and one loud stroke: the gain for the bed drives the stroke into the limiter.
    bed = source(room / "bed.wav", "-f lavfi -i sine=f=200:d=8 -af volume=-16dB")
    stroke = source(room / "stroke.wav", "-f lavfi -i aevalsrc=0.9*lt(t\\,0.001):d=0.1")
    cues = [Cue(bed, 0, CueKind.AMBIENCE), Cue(stroke, 4.0, CueKind.AMBIENCE)]
    loudness = mix(cues, seconds=8.0, target=room / "track.wav")
    assert loudness.before_dbtp is not None
    assert loudness.before_dbtp + loudness.gain_db > 0
    heard = samples(room / "track.wav")
    loudest = max(range(len(heard)), key=lambda number: abs(heard[number]))
    assert loudest == pytest.approx(4.0 * 48_000 + 24, abs=48)


@pytest.mark.parametrize("frames", [1, 61, 143, 909])
def test_a_soundtrack_has_exactly_the_samples_of_its_seconds(room: Path, frames: int) -> None:
    seconds = frames / 24
    cue = Cue(_voice(room, 0.03), 0.0, CueKind.VOICE)
    for number, cues in enumerate(([], [cue])):
        target = room / f"{number}.wav"
        mix(cues, seconds=seconds, target=target)
        assert len(samples(target)) == round(seconds * 48_000)


@pytest.mark.parametrize("volume", [0.2, 1.0, 8.0])
def test_a_mix_lands_on_its_loudness_under_its_ceiling(room: Path, volume: float) -> None:
    cues = [
        Cue(_voice(room, 1.5, volume), 0.5, CueKind.VOICE),
        Cue(_voice(room, 1.5, volume), 3.0001, CueKind.VOICE),
        Cue(source(room / "bed.mp3", f"-f lavfi -i anoisesrc=d=9:a=0.1 -ac 2 -af volume={volume}"), 0, CueKind.MUSIC),
    ]
    loudness = mix(cues, seconds=8.0, target=room / "track.wav")
    assert loudness.after_lufs == pytest.approx(-14.0, abs=0.5)
    assert loudness.after_dbtp is not None
    assert loudness.after_dbtp <= -1.0
    assert measure(room / "track.wav") == (loudness.after_lufs, loudness.after_dbtp)
    assert not loudness.silent


def test_the_noise_of_an_empty_room_is_not_made_into_a_storm(room: Path) -> None:
    loudness = mix([Cue(_voice(room, 1.5, 0.01), 0.5, CueKind.VOICE)], seconds=3.0, target=room / "track.wav")
    assert loudness.gain_db == 30
    assert loudness.after_lufs is not None
    assert loudness.after_lufs < -20


def test_sharp_peaks_are_held_under_the_ceiling(room: Path) -> None:
    clicks = source(room / "clicks.wav", "-f lavfi -i aevalsrc=0.02*sin(2*PI*440*t)+0.95*lt(mod(t\\,0.5)\\,0.0005):d=4")
    loudness = mix([Cue(clicks, 0, CueKind.AMBIENCE)], seconds=4, target=room / "track.wav")
    assert loudness.after_dbtp is not None
    assert loudness.after_dbtp <= -1.0


def test_music_steps_back_while_somebody_speaks(room: Path) -> None:
    # The music is a high tone, the voice a low one: what is left above 2 kHz is the music.
    music = source(room / "music.wav", "-f lavfi -i sine=f=5000:d=6")
    mix([Cue(_voice(room), 2.0, CueKind.VOICE), Cue(music, 0, CueKind.MUSIC)], seconds=6, target=room / "track.wav")
    high = samples(
        source(room / "high.wav", f"-i {_plain_copy(room)} -af highpass=f=3000:poles=2,highpass=f=3000:poles=2")
    )
    alone, under = _power(high, 0.5, 1.5), _power(high, 2.4, 3.3)
    assert under < alone / 2
    # The two tones are of one level in their files: even where nobody speaks, music is the quieter of the two.
    assert alone < _power(samples(room / "track.wav"), 2.4, 3.3) / 2


def _plain_copy(room: Path) -> Path:
    copy = room.parent / "scratch-track.wav"
    copy.write_bytes((room / "track.wav").read_bytes())
    return copy


def _power(values: list[int], begin_s: float, end_s: float) -> float:
    part = values[round(begin_s * 48_000) : round(end_s * 48_000)]
    return math.sqrt(sum(value * value for value in part) / len(part))


def test_nothing_to_hear_stays_nothing(room: Path) -> None:
    still = source(room / "still.wav", "-f lavfi -i anullsrc -t 1")
    for number, cues in enumerate(([], [Cue(still, 0.5, CueKind.VOICE)])):
        target = room / f"{number}.wav"
        assert mix(cues, seconds=2.0, target=target).silent
        assert not any(samples(target))


def test_one_file_may_be_heard_twice_even_at_once(room: Path) -> None:
    cue = Cue(_voice(room, 0.5), 1.0, CueKind.VOICE)
    mix([cue, cue], seconds=2.0, target=room / "track.wav")
    assert _heard(room / "track.wav")[0] == pytest.approx(48_000, abs=10)


def test_a_voice_is_never_cut_off_in_silence(room: Path) -> None:
    with pytest.raises(MediaError, match="would be cut off"):
        mix([Cue(_voice(room), 1.0, CueKind.VOICE)], seconds=2.0, target=room / "track.wav")
    assert not (room / "track.wav").exists()


@pytest.mark.parametrize("starts_at_s", [-0.5, 2.0])
def test_a_cue_outside_the_soundtrack_is_refused(room: Path, starts_at_s: float) -> None:
    with pytest.raises(MediaError, match=r"outside a soundtrack of 2\.000 s"):
        mix([Cue(_voice(room), starts_at_s, CueKind.MUSIC)], seconds=2.0, target=room / "track.wav")


def test_a_line_keeps_its_silence_and_its_length(room: Path) -> None:
    line = source(
        room / "line.mp3",
        "-f lavfi -i sine=f=300:d=1:sample_rate=24000 -af adelay=500,apad=pad_dur=0.4 -ac 2 -b:a 128k",
    )
    seconds = normalise_line(line, room / "line.wav")
    found = probe(room / "line.wav").audio
    assert found is not None
    assert (found.codec, found.rate, found.channels) == ("pcm_s16le", 48_000, 1)
    assert seconds == found.duration_seconds == pytest.approx(1.9, abs=0.05)
    first, last = _heard(room / "line.wav", threshold=500)
    assert (first / 48_000, last / 48_000) == pytest.approx((0.5, 1.5), abs=0.06)


def test_a_line_that_would_clip_is_held_back(room: Path) -> None:
    hot = source(room / "hot.wav", "-f lavfi -i sine=f=300:d=1 -af volume=30dB -c:a pcm_f32le")
    normalise_line(hot, room / "line.wav")
    assert 20_000 < max(map(abs, samples(room / "line.wav"))) <= 32_767 * 10 ** (-1 / 20)


def test_a_line_without_sound_is_refused(room: Path) -> None:
    silent_film = source(room / "film.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v libx264")
    with pytest.raises(MediaError, match="holds no sound"):
        normalise_line(silent_film, room / "line.wav")
