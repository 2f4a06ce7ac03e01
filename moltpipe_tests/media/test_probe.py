from __future__ import annotations

import json
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from moltpipe.media.conform import natural_frames
from moltpipe.media.errors import MediaError
from moltpipe.media.meter import Level
from moltpipe.media.probe import decode, probe
from moltpipe.media.runner import run, url
from moltpipe_tests.media.material import P, ramp, source


def test_a_probe_counts_frames_and_samples(room: Path) -> None:
    sources = "-f lavfi -i testsrc2=s=160x90:r=30000/1001 -f lavfi -i sine=sample_rate=44100"
    found = probe(source(room / "a.mkv", f"{sources} -t 2 -c:v libx264 -c:a pcm_s16le"))
    assert found.video is not None
    assert found.audio is not None
    assert (found.video.frames, found.video.rate) == (60, Fraction(30000, 1001))
    assert (found.audio.samples, found.audio.rate, found.audio.duration_seconds) == (88200, 44100, 2.0)
    assert json.loads(json.dumps(found.as_json()))["video"]["rate"] == "30000/1001"


def test_a_variable_rate_is_measured_by_its_own_times(room: Path) -> None:
    thinned = "-f lavfi -i testsrc2=s=160x90:r=30:d=3 -vf select=lt(n\\,30)+not(mod(n\\,10)) -fps_mode vfr -c:v libx264"
    found = probe(source(room / "thin.mp4", thinned))
    assert found.video is not None
    assert found.video.frames == 36
    assert found.video.duration_seconds == pytest.approx(3.0, abs=0.35)
    assert natural_frames(found, P) == pytest.approx(72, abs=8)
    assert not found.video.constant_rate


@pytest.mark.parametrize(
    ("suffix", "rate"), [("mp4", "24"), ("mkv", "30000/1001"), ("mkv", "24000/1001"), ("avi", "25"), ("ts", "60")]
)
def test_a_rate_is_constant_however_its_times_are_rounded(room: Path, suffix: str, rate: str) -> None:
    file = source(room / f"take.{suffix}", f"-f lavfi -i testsrc2=s=64x64:r={rate}:d=3 -c:v libx264")
    found = probe(file).video
    assert found is not None
    assert found.constant_rate
    assert found.rate == Fraction(rate)


def test_a_probe_tells_how_loud_a_sound_is_where_somebody_asks(room: Path) -> None:
    file = source(room / "tone.wav", "-f lavfi -i sine=f=1000:r=48000:d=3 -af volume=6.02dB -ac 2")
    sound = probe(file, loudness=True).audio
    assert sound is not None
    assert sound.level is not None
    # An amplitude of 1/4, less 3 dB on its way from mono to stereo. A stereo sine of 1 kHz is as loud in LUFS as its
    # peak is in dBFS (ITU-R BS.1770).
    assert sound.level.dbtp == pytest.approx(-15.05, abs=0.1)
    assert sound.level.lufs == pytest.approx(-15.05, abs=0.2)
    unasked = probe(file).audio
    assert unasked is not None
    assert unasked.level is None


def test_silence_has_no_loudness(room: Path) -> None:
    sound = probe(source(room / "none.flac", "-f lavfi -i anullsrc -t 2"), loudness=True).audio
    assert sound is not None
    assert sound.level == Level(lufs=None, dbtp=None)


def test_samples_counted_by_their_packets_are_close_to_those_decoded(room: Path) -> None:
    file = source(room / "tone.m4a", "-f lavfi -i sine=r=48000:d=3 -c:a aac")
    decoded, counted = probe(file).audio, probe(file, decode_sound=False).audio
    assert decoded is not None
    assert counted is not None
    assert abs(decoded.samples - counted.samples) <= 2 * 1024


def test_a_probe_counts_the_streams_of_each_kind(room: Path) -> None:
    script = room / "lines.srt"
    script.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    file = room / "all.mkv"
    inputs = ["-f", "lavfi", "-i", "testsrc2=s=64x64:d=1", "-f", "lavfi", "-i", "sine=d=1", "-i", url(script)]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "1:a", "-map", "2:s"]
    run([*inputs, *maps, "-c:v", "libx264", "-c:a", "flac", url(file)], timeout_s=30)
    assert probe(file).streams == {"video": 1, "audio": 2, "subtitle": 1}


def test_a_phone_that_was_held_upright_is_told(room: Path) -> None:
    flat = source(room / "flat.mp4", "-f lavfi -i testsrc2=s=64x48:d=1 -c:v libx264")
    upright = room / "upright.mp4"
    run(["-display_rotation", "90", "-i", url(flat), "-c", "copy", url(upright)], timeout_s=30)
    found = probe(upright).video
    assert found is not None
    assert (found.rotation, found.width, found.height) == (90, 64, 48)


def test_a_take_is_as_long_as_its_picture_not_as_its_sound(room: Path) -> None:
    film = "-f lavfi -i testsrc2=s=160x90:r=25:d=2 -f lavfi -i sine=d=5 -c:v libx264 -c:a aac"
    assert natural_frames(probe(source(room / "film.mp4", film)), P) == 48


def test_a_sound_file_with_a_cover_has_no_picture(room: Path) -> None:
    cover = room.parent / "cover.png"
    Image.new("RGB", (64, 64), "red").save(cover)
    tune = source(room / "tune.wav", "-f lavfi -i sine=d=1")
    both = room / "tune.mp3"
    run(["-i", url(tune), "-i", url(cover), "-map", "0:a", "-map", "1:v", "-c:v", "copy", url(both)], timeout_s=30)
    assert probe(both).video is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm"])
def test_a_truncated_file_is_refused(room: Path, suffix: str) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    flags = "-movflags +faststart" if suffix == "mp4" else ""
    whole = source(room / f"whole.{suffix}", f"-f lavfi -i testsrc2=s=160x90:d=4 -c:v {codec} {flags}")
    assert decode(whole, strict=False).frames == 100
    half = room / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"half\."):
        decode(half, strict=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<html>502 Bad Gateway</html>" * 50, "cannot be read as video or audio"),
        (b"#EXTM3U\n#EXTINF:1,\nother.ts\n", "cannot be read as video or audio"),
        (b"ffconcat version 1.0\nfile other.mp4\n", "cannot be read as video or audio"),
    ],
)
def test_what_is_not_media_is_named_as_such(room: Path, content: bytes, said: str) -> None:
    # What the scripts name is there and could be read (a plain folder helps them): they are refused for what they are.
    ramp(room.parent / "other.mp4", 5)
    file = room.parent / "take.mp4"
    file.write_bytes(content)
    for look in (probe, partial(decode, strict=False)):
        with pytest.raises(MediaError, match=said):
            look(file)


def test_an_absent_file_is_not_an_empty_one(room: Path) -> None:
    with pytest.raises(MediaError, match="is not a file"):
        probe(room / "absent.mp4")
