from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from PIL import Image

from moltpipe.media.conform import natural_frames
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import probe, verify_decodes
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
    assert verify_decodes(whole).frames == 100
    half = room / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"half\."):
        verify_decodes(half)


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
    for look in (probe, verify_decodes):
        with pytest.raises(MediaError, match=said):
            look(file)


def test_an_absent_file_is_not_an_empty_one(room: Path) -> None:
    with pytest.raises(MediaError, match="is not a file"):
        probe(room / "absent.mp4")
