from __future__ import annotations

import asyncio
import math
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path
from subprocess import run as run_program

import av
import numpy as np
import numpy.typing as npt
import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.music import FADE_OUT_S
from moltpipe.media.offload import offload
from moltpipe.media.pcm import write_wav
from moltpipe.media.probe import decode, probe
from moltpipe.media.reel import container_options
from moltpipe.media.runner import run, url
from moltpipe.media.sound import Cue, CueKind, measure, mix, normalise_line
from moltpipe.media.stitch import stitch
from moltpipe.studio.finish import Finish
from moltpipe_tests.media.material import P, samples, scene, source

Samples = npt.NDArray[np.float32]


def _voice(room: Path, seconds: float = 1.5, volume: float = 1.0) -> Path:
    args = f"-f lavfi -i sine=f=300:d={seconds}:sample_rate=22050 -af volume={volume}"
    return source(room / f"voice {seconds} {volume}.wav", args)


def _stroke(room: Path) -> Path:
    """A sweep that correlates with itself at one place only, 100 ms long."""
    chirp = "0.5*sin(2*PI*(400*t+20000*t*t))*sin(PI*t/0.1)"
    return source(room / "stroke.wav", f"-f lavfi -i aevalsrc={chirp}:s=48000:d=0.1 -ac 2 -c:a pcm_s16le")


def _decoded(path: Path) -> Samples:
    """What a player hears, samples by channels; its first sample is the one at time 0."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].pts == 0
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).T


def _places(heard: Samples, stroke: Path, count: int) -> list[int]:
    """Where the sweep begins in the sound, by cross-correlation."""
    sweep = np.array(samples(stroke), dtype=np.float64)
    sound = heard[:, 0].astype(np.float64)
    size = len(sound) + len(sweep)
    likeness = np.fft.irfft(np.fft.rfft(sound, size) * np.conj(np.fft.rfft(sweep, size)), size)[: len(sound)]
    places = []
    for _ in range(count):
        place = int(likeness.argmax())
        places.append(place)
        likeness[max(0, place - 4800) : place + 4800] = 0
    return sorted(places)


def _power(heard: Samples, begin_s: float, end_s: float) -> float:
    part = heard[round(begin_s * 48_000) : round(end_s * 48_000), 0]
    return float(np.sqrt((part.astype(np.float64) ** 2).mean()))


def _above_2_khz(heard: Samples) -> Samples:
    spectrum = np.fft.rfft(heard, axis=0)
    spectrum[np.fft.rfftfreq(len(heard), 1 / 48_000) < 2_000] = 0
    return np.asarray(np.fft.irfft(spectrum, len(heard), axis=0), dtype=np.float32)


STARTS = (0.0, 1.0, 2.3456789, 4.02, 6.9)


def test_every_cue_lies_where_it_belongs_to_the_sample_in_the_decoded_aac(room: Path) -> None:
    stroke = _stroke(room)
    mix([Cue(stroke, at, CueKind.CLIP) for at in STARTS], seconds=7.4, target=room / "track.m4a")
    assert _places(_decoded(room / "track.m4a"), stroke, 5) == [round(at * 48_000) for at in STARTS]


def test_a_limited_and_ducked_soundtrack_is_as_exact(room: Path) -> None:
    stroke = _stroke(room)
    cues = [Cue(stroke, at, CueKind.VOICE) for at in STARTS]
    cues.append(Cue(source(room / "bed.wav", "-f lavfi -i anoisesrc=d=7:a=0.02:c=pink -ac 2"), 0, CueKind.MUSIC))
    made = mix(cues, seconds=7.4, target=room / "track.m4a", finish=Finish(ceiling_dbtp=-9))
    assert made.loudness.before_dbfs is not None
    assert made.loudness.before_dbfs + made.loudness.gain_db > -8
    assert _places(_decoded(room / "track.m4a"), stroke, 5) == [round(at * 48_000) for at in STARTS]


def _copied_by_ffmpeg(film: Path, track: Path, target: Path) -> None:
    inputs = ["-i", url(film), "-i", url(track), "-map", "0:v", "-map", "1:a", "-c", "copy"]
    run([*inputs, *container_options(), "-f", "mp4", url(target)], timeout_s=60)


def _stitched(film: Path, track: Path, target: Path) -> None:
    stitch([film], track, target, profile=P)


@pytest.mark.parametrize("lay_under", [_copied_by_ffmpeg, _stitched])
def test_it_stays_in_step_when_its_packets_are_copied_under_a_picture(
    room: Path, lay_under: Callable[[Path, Path, Path], None]
) -> None:
    stroke, film = _stroke(room), scene(room / "film.mp4", frames=150)
    seconds = 150 / 24
    made = mix([Cue(stroke, at, CueKind.CLIP) for at in STARTS[:4]], seconds=seconds, target=room / "track.m4a")
    lay_under(film, made.file, room / "joined.mp4")
    found = decode(room / "joined.mp4", strict=True)
    assert (found.frames, found.samples, found.sound_starts_at_s) == (150, made.samples, 0.0)
    assert abs(made.samples / 48_000 - seconds) <= 512 / 48_000
    assert _places(_decoded(room / "joined.mp4"), stroke, 4) == [round(at * 48_000) for at in STARTS[:4]]


@pytest.mark.parametrize("frames", [1, 61, 143, 307])
def test_a_soundtrack_has_the_whole_packets_nearest_to_its_seconds(room: Path, frames: int) -> None:
    seconds = frames / 24
    cue = Cue(_voice(room, 0.03 if frames == 1 else 1.0), 0.0, CueKind.VOICE)
    for number, cues in enumerate(([], [cue])):
        made = mix(cues, seconds=seconds, target=room / f"{number}.m4a")
        assert made.samples % 1024 == 0
        assert abs(made.samples - seconds * 48_000) <= 512 or made.samples == 1024
        assert len(_decoded(made.file)) == made.samples
        found = probe(made.file).audio
        assert found is not None
        assert (found.codec, found.rate, found.channels, found.samples) == ("aac", 48_000, 2, made.samples)


@pytest.mark.parametrize("target", [-14.0, -16.0, -23.0])
@pytest.mark.parametrize("volume", [0.2, 1.0, 8.0])
def test_what_is_decoded_lands_on_its_loudness_under_its_ceiling(room: Path, target: float, volume: float) -> None:
    cues = [
        Cue(_voice(room, 1.5, volume), 0.5, CueKind.VOICE),
        Cue(_voice(room, 1.5, volume), 3.0001, CueKind.VOICE),
        Cue(source(room / "bed.mp3", f"-f lavfi -i anoisesrc=d=9:a=0.1 -ac 2 -af volume={volume}"), 0, CueKind.MUSIC),
    ]
    made = mix(cues, seconds=8.0, target=room / "track.m4a", finish=Finish(loudness_lufs=target, ceiling_dbtp=-1.5))
    lufs, dbtp = _by_the_program(made.file)
    assert lufs == pytest.approx(target, abs=0.5)
    assert dbtp <= -1.5
    assert made.loudness.after_lufs == pytest.approx(lufs, abs=0.1)
    assert made.loudness.after_dbtp == pytest.approx(dbtp, abs=0.1)
    assert made.loudness.aim_lufs == target
    assert not made.loudness.silent


def _by_the_program(sound: Path) -> tuple[float, float]:
    """The figures that FFmpeg prints at its end, not those that it hands to a library."""
    said = run(
        ["-loglevel", "info", "-i", url(sound), "-af", "ebur128=peak=true:framelog=quiet", "-f", "null", "-"],
        timeout_s=60,
    ).stderr
    found = dict(line.split(":")[:2] for line in said.splitlines() if line.strip().startswith(("I:", "Peak:")))
    figures = {name.strip(): float(text.split()[0]) for name, text in found.items()}
    return figures["I"], figures["Peak"]


@pytest.mark.parametrize("sound", ["sine=f=997:d=4", "sine=f=60:d=1.234,volume=0.01", "anoisesrc=d=3:a=0.7"])
def test_the_meter_says_what_ffmpeg_prints(room: Path, sound: str) -> None:
    file = source(room / "sound.wav", f"-f lavfi -i {sound} -ac 2 -c:a pcm_f32le -ar 48000")
    assert measure(file) == pytest.approx(_by_the_program(file), abs=0.1)


SHARP = {
    "clicks": "0.02*sin(2*PI*440*t)+0.95*lt(mod(t\\,0.5)\\,0.0005)",
    "cymbals": "0.05*sin(2*PI*440*t)+0.8*(random(0)-random(1))*exp(-mod(t\\,0.25)/0.02)",
}


@pytest.mark.parametrize("sound", SHARP)
def test_sharp_peaks_are_held_under_the_ceiling_and_still_reach_the_loudness(room: Path, sound: str) -> None:
    sharp = source(room / "sharp.wav", f"-f lavfi -i aevalsrc={SHARP[sound]}:d=4:s=48000 -ac 2")
    made = mix([Cue(sharp, 0, CueKind.AMBIENCE)], seconds=4, target=room / "track.m4a")
    lufs, dbtp = _by_the_program(made.file)
    assert dbtp <= -1.0
    assert made.loudness.aim_lufs is not None
    assert lufs == pytest.approx(made.loudness.aim_lufs, abs=0.5)


def test_the_noise_of_an_empty_room_is_not_made_into_a_storm(room: Path) -> None:
    loudness = mix([Cue(_voice(room, 1.5, 0.01), 0.5, CueKind.VOICE)], seconds=3.0, target=room / "t.m4a").loudness
    assert loudness.gain_db == 30
    assert loudness.after_lufs is not None
    assert loudness.after_lufs < -20
    assert loudness.aim_lufs == loudness.after_lufs


@pytest.mark.parametrize("kind", [CueKind.MUSIC, CueKind.CLIP, CueKind.AMBIENCE])
def test_everything_else_steps_back_while_somebody_speaks(room: Path, kind: CueKind) -> None:
    # The bed is a high tone, the voice a low one: what is left above 2 kHz is the bed.
    bed = source(room / "bed.wav", "-f lavfi -i sine=f=5000:d=6")
    mix([Cue(_voice(room), 2.0, CueKind.VOICE), Cue(bed, 0, kind)], seconds=6, target=room / "track.m4a")
    heard = _decoded(room / "track.m4a")
    high = _above_2_khz(heard)
    alone, under, afterwards = _power(high, 0.5, 1.5), _power(high, 2.4, 3.3), _power(high, 5.0, 5.9)
    assert under < alone / 2
    assert afterwards == pytest.approx(alone, rel=0.1)


def test_music_is_quieter_than_a_voice_of_the_same_level(room: Path) -> None:
    tone = source(room / "tone.wav", "-f lavfi -i sine=f=300:d=2 -ac 2")
    cues = [Cue(tone, 0, CueKind.VOICE), Cue(tone, 3, CueKind.MUSIC)]
    mix(cues, seconds=6, target=room / "track.m4a")
    heard = _decoded(room / "track.m4a")
    assert _power(heard, 3.5, 4.5) == pytest.approx(_power(heard, 0.5, 1.5) * 10 ** (-12 / 20), rel=0.1)


def test_lines_that_overlap_are_both_heard_in_full(room: Path) -> None:
    # Three quiet voices at three pitches: a sum that averaged would give each a third where all three speak.
    voices = [
        source(room / f"{pitch}.wav", f"-f lavfi -i sine=f={pitch}:d={length} -af volume=-12dB -ac 2")
        for pitch, length in ((300, 6), (700, 3), (1100, 3))
    ]
    mix([Cue(one, 0, CueKind.VOICE) for one in voices], seconds=6, target=room / "track.m4a")
    heard = _decoded(room / "track.m4a")[:, 0]

    def at_300_hz(begin_s: float) -> float:
        part = heard[round(begin_s * 48_000) :][:48_000]
        return float(abs(np.fft.rfft(part)[300]))

    assert at_300_hz(1) == pytest.approx(at_300_hz(4), rel=0.02)


def test_a_cue_is_cut_and_faded_as_it_is_asked(room: Path) -> None:
    tone = source(room / "tone.wav", "-f lavfi -i sine=f=1000:d=6 -ac 2")
    cue = Cue(tone, 1.0, CueKind.CLIP, seconds=3.0, fade_in_s=1.0, fade_out_s=0.5)
    mix([cue], seconds=6, target=room / "track.m4a")
    heard = _decoded(room / "track.m4a")
    full = _power(heard, 2.2, 3.3)
    assert _power(heard, 0, 0.9) < full / 1000
    assert _power(heard, 1.0, 1.1) < full / 5
    assert _power(heard, 1.45, 1.55) == pytest.approx(full * math.sin(math.pi / 4), rel=0.05)
    assert _power(heard, 3.72, 3.78) == pytest.approx(full * math.sin(math.pi / 4), rel=0.05)
    assert _power(heard, 4.1, 6) < full / 1000


def test_music_that_loops_is_heard_to_the_end_of_the_soundtrack_and_fades_there(room: Path) -> None:
    score = source(room / "score.wav", "-f lavfi -i anoisesrc=d=5:a=0.2:seed=4:r=48000 -ac 2")
    for seconds in (3.0, 20.0):
        mix([Cue(score, 0.5, CueKind.MUSIC, looped=True)], seconds=seconds, target=room / "track.m4a")
        heard = _decoded(room / "track.m4a")
        assert _power(heard, 0, 0.48) < _power(heard, 0.6, 1.1) / 1000
        even_s = seconds - min(FADE_OUT_S, (seconds - 0.5) / 4)
        tenths = [_power(heard, tenth / 10, (tenth + 1) / 10) for tenth in range(6, int(10 * even_s))]
        assert tenths == pytest.approx([np.median(tenths)] * len(tenths), rel=0.25)
        assert _power(heard, seconds - 0.02, seconds) < _power(heard, 0.6, 1.1) / 20
    assert _names(room) == ["score.wav", "track.m4a"]


def test_nothing_to_hear_stays_nothing(room: Path) -> None:
    still = source(room / "still.wav", "-f lavfi -i anullsrc -t 1")
    for number, cues in enumerate(([], [Cue(still, 0.5, CueKind.VOICE)])):
        loudness = mix(cues, seconds=2.0, target=room / f"{number}.m4a").loudness
        assert loudness.silent
        assert loudness.aim_lufs is None
        assert not _decoded(room / f"{number}.m4a").any()


def test_the_same_cues_make_the_same_bytes(room: Path) -> None:
    cues = [
        Cue(_voice(room), 1.0, CueKind.VOICE),
        Cue(source(room / "bed.wav", "-f lavfi -i anoisesrc=d=3:seed=1:a=0.1"), 0, CueKind.MUSIC),
    ]
    first, second = (mix(cues, seconds=3.0, target=room / f"{name}.m4a") for name in "ab")
    assert first.file.read_bytes() == second.file.read_bytes()
    assert first.loudness == second.loudness


def test_one_file_may_be_heard_twice_even_at_once(room: Path) -> None:
    stroke = _stroke(room)
    mix([Cue(stroke, at, CueKind.CLIP) for at in (1.0, 1.0, 1.5)], seconds=2.0, target=room / "track.m4a")
    heard = _decoded(room / "track.m4a")
    assert _places(heard, stroke, 2) == [48_000, 72_000]
    assert _power(heard, 1.0, 1.1) == pytest.approx(2 * _power(heard, 1.5, 1.6), rel=0.05)


def test_a_voice_is_never_cut_off_in_silence(room: Path) -> None:
    with pytest.raises(MediaError, match="would be cut off"):
        mix([Cue(_voice(room), 1.0, CueKind.VOICE)], seconds=2.0, target=room / "track.m4a")
    assert not (room / "track.m4a").exists()


@pytest.mark.parametrize("starts_at_s", [-0.5, 2.0, math.nan])
def test_a_cue_outside_the_soundtrack_is_refused(room: Path, starts_at_s: float) -> None:
    with pytest.raises(MediaError, match=r"outside a soundtrack of 2\.000 s"):
        mix([Cue(_voice(room), starts_at_s, CueKind.MUSIC)], seconds=2.0, target=room / "track.m4a")


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_soundtrack_without_a_length_is_refused(room: Path, seconds: float) -> None:
    with pytest.raises(MediaError, match="expected a length"):
        mix([], seconds=seconds, target=room / "track.m4a")


def test_a_cue_that_holds_less_than_it_announces_is_an_error_and_no_silence(room: Path) -> None:
    voice = source(room / "voice.wav", "-f lavfi -i sine=d=2:sample_rate=48000 -c:a pcm_s16le")
    voice.write_bytes(voice.read_bytes()[:96_000])
    with pytest.raises(MediaError, match=r"voice\.wav ends 1\.000 s before what it announces"):
        mix([Cue(voice, 0, CueKind.VOICE)], seconds=3, target=room / "track.m4a")
    assert not (room / "track.m4a").exists()


LONG = """
import resource, sys
from pathlib import Path
from moltpipe.media.sound import Cue, CueKind, mix

folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
cues = [Cue(folder / "score.wav", 0, CueKind.MUSIC, looped=True)]
for number in range(int(minutes * 15)):
    cues.append(Cue(folder / "line.wav", 4 * number + 0.25, CueKind.VOICE))
    cues.append(Cue(folder / "bed.flac", 4 * number, CueKind.CLIP, seconds=4))
made = mix(cues, seconds=minutes * 60, target=folder / f"long-{minutes}.m4a")
assert abs(made.loudness.after_lufs + 14) < 0.5, made
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_maxrss / 1024, used.ru_utime)
"""


def test_a_long_timeline_takes_no_more_memory_and_only_as_much_more_time(room: Path) -> None:
    source(room / "score.wav", "-f lavfi -i aevalsrc=0.2*sin(440*t)+0.2*sin(2000*t)|0.3*sin(550*t):d=30:s=48000")
    source(room / "line.wav", "-f lavfi -i sine=f=300:d=2.5:sample_rate=48000 -c:a pcm_s16le")
    source(room / "bed.flac", "-f lavfi -i anoisesrc=d=5:a=0.05:c=pink:r=48000 -ac 2")
    (short_mib, short_s), (long_mib, long_s) = (_in_a_child(room, minutes) for minutes in (0.5, 2))
    assert long_mib < short_mib + 15
    assert long_s < 1.5 * 4 * short_s


def test_a_sound_that_the_limiter_keeps_from_its_loudness_is_as_loud_as_that_allows(room: Path) -> None:
    at = np.arange(8 * 48_000) / 48_000
    strokes = np.clip(np.sin(2 * np.pi * 2.3 * at), 0, 1) ** 12 * np.sin(2 * np.pi * 700 * at)
    write_wav([np.repeat((0.4 * strokes)[:, np.newaxis], 2, axis=1).astype(np.float32)], room / "strokes.wav")
    made = mix(
        [Cue(room / "strokes.wav", 0, CueKind.VOICE)],
        seconds=8,
        target=room / "track.m4a",
        finish=Finish(loudness_lufs=-9),
    )
    lufs, dbtp = measure(made.file)
    assert made.loudness.aim_lufs is not None
    assert made.loudness.aim_lufs < -9.5
    assert lufs == pytest.approx(made.loudness.aim_lufs, abs=0.1)
    assert dbtp is not None
    assert dbtp <= -0.5


def _in_a_child(room: Path, minutes: float) -> tuple[float, float]:
    done = run_program(
        [sys.executable, "-c", LONG, str(room), str(minutes)], check=True, capture_output=True, text=True, timeout=120
    )
    mib, seconds = done.stdout.split()
    return float(mib), float(seconds)


async def test_a_mix_that_nobody_waits_for_any_more_ends_and_leaves_nothing(room: Path) -> None:
    with wave.open(str(room / "an hour.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(bytes(2 * 48_000 * 3600))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def mixing() -> None:
        loop.call_soon_threadsafe(begun.set)
        mix([Cue(room / "an hour.wav", 0, CueKind.MUSIC)], seconds=3600, target=room / "track.m4a")

    work = asyncio.create_task(offload(mixing))
    await begun.wait()
    cancelled_at = time.monotonic()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    # A second or two of sound may be on its way; the hour would take most of a minute.
    assert time.monotonic() - cancelled_at < 10
    assert _names(room) == ["an hour.wav"]


def _names(room: Path) -> list[str]:
    return sorted(path.name for path in room.iterdir())


def test_the_end_of_a_soundtrack_is_faded_wherever_its_packets_end(room: Path) -> None:
    bed = source(room / "bed.wav", "-f lavfi -i sine=f=500:d=3 -ac 2")
    for number, seconds in enumerate((2.0, 2.01)):
        made = mix([Cue(bed, 0, CueKind.MUSIC)], seconds=seconds, target=room / f"{number}.m4a")
        heard = _decoded(made.file)
        assert abs(heard[-8:]).max() < abs(heard[24_000:72_000]).max() / 20


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
    loud = [number for number, value in enumerate(samples(room / "line.wav")) if abs(value) > 500]
    assert (loud[0] / 48_000, loud[-1] / 48_000) == pytest.approx((0.5, 1.5), abs=0.06)


def test_a_line_that_would_clip_is_held_back(room: Path) -> None:
    hot = source(room / "hot.wav", "-f lavfi -i sine=f=300:d=1 -af volume=30dB -c:a pcm_f32le")
    normalise_line(hot, room / "line.wav")
    assert 20_000 < max(map(abs, samples(room / "line.wav"))) <= 32_767 * 10 ** (-1 / 20)


def test_a_line_without_sound_is_refused(room: Path) -> None:
    silent_film = source(room / "film.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v libx264")
    with pytest.raises(MediaError, match="holds no sound"):
        normalise_line(silent_film, room / "line.wav")
