from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moltpipe.media.clip_sound import NOTHING_HEARD_DBFS, SAMPLE_RATE, extract
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import opened, probe
from moltpipe.media.runner import run, url
from moltpipe_tests.media.material import source

PICTURE = "-f lavfi -i testsrc2=s=64x64:r=24:d=2"
CLICK = "if(between(t,1,1.01),0.5*sin(2*PI*1000*t),0)"
"""A click of half the full level, one second after the sound begins."""


def _clip(path: Path, sound: str, *, codec: str = "pcm_s16le", before: str = "", between: str = "") -> Path:
    picture, heard = PICTURE.split(), ["-f", "lavfi", "-i", sound]
    run([*before.split(), *picture, *between.split(), *heard, "-c:v", "mpeg4", "-c:a", codec, url(path)], timeout_s=60)
    return path


def _heard(path: Path) -> NDArray[np.int16]:
    """Samples as rows, channels as columns."""
    with opened(path) as container:
        assert container.streams.audio[0].codec_context.rate == SAMPLE_RATE
        return np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)])


def _click_at_s(heard: NDArray[np.int16]) -> float:
    return float(np.flatnonzero(np.abs(heard[:, 0].astype(int)) > 2000)[0]) / SAMPLE_RATE


@pytest.mark.parametrize(
    ("name", "rate", "codec"),
    [("a.mp4", 44_100, "aac"), ("a.mkv", 48_000, "pcm_s16le"), ("a.ts", 48_000, "mp2"), ("a.mov", 8_000, "pcm_s16le")],
)
def test_the_sound_comes_out_in_step_and_at_its_level(room: Path, name: str, rate: int, codec: str) -> None:
    clip = _clip(room / name, f"aevalsrc='{CLICK}':s={rate}:d=2", codec=codec)
    assert extract(clip, room / "sound.flac", seconds=1.5) == 1.5
    heard = _heard(room / "sound.flac")
    assert len(heard) == 72_000
    assert _click_at_s(heard) == pytest.approx(1.0, abs=0.003)
    assert np.abs(heard.astype(int)).max(axis=0) == pytest.approx([16_384, 16_384], rel=0.06)


def test_a_sound_that_begins_late_stays_late_and_a_late_picture_takes_its_sound_along(room: Path) -> None:
    sound = f"aevalsrc='{CLICK}':s=48000:d=2"
    late_sound = _clip(room / "late-sound.mkv", sound, between="-itsoffset 0.5")
    late_picture = _clip(room / "late-picture.mkv", sound, before="-itsoffset 0.5")
    for clip, at_s in ((late_sound, 1.5), (late_picture, 0.5)):
        assert extract(clip, room / "sound.flac", seconds=2.0) == 2.0
        assert _click_at_s(_heard(room / "sound.flac")) == pytest.approx(at_s, abs=0.002)


@pytest.mark.parametrize(("seconds", "samples"), [(0.5, 24_000), (5.0, 240_000), (61 / 24, 122_000)])
def test_it_is_cut_or_filled_with_silence_to_the_length_of_the_picture(
    room: Path, seconds: float, samples: int
) -> None:
    clip = _clip(room / "clip.mov", "sine=f=440:d=2")
    assert extract(clip, room / "sound.flac", seconds=seconds) == samples / SAMPLE_RATE
    heard = _heard(room / "sound.flac")
    assert len(heard) == samples
    assert not heard[96_000:].any()


def test_more_channels_are_mixed_down_to_two(room: Path) -> None:
    around = f"aevalsrc='0|0|0|0|{CLICK}|0':c=5.1:s=48000:d=2"
    assert extract(_clip(room / "clip.mov", around), room / "sound.flac", seconds=2.0) == 2.0
    heard = np.abs(_heard(room / "sound.flac").astype(int)).max(axis=0)
    assert heard[0] > 4000, "what is behind on the left is heard on the left"
    assert heard[1] == 0


@pytest.mark.parametrize("sound", ["anullsrc=d=2", "anoisesrc=a=0.0002:d=2"])
def test_nothing_is_kept_where_nothing_is_heard(room: Path, sound: str) -> None:
    assert extract(_clip(room / "clip.mp4", sound, codec="aac"), room / "sound.flac", seconds=2.0) is None
    assert not (room / "sound.flac").exists()


def test_what_is_just_loud_enough_to_be_heard_is_kept(room: Path) -> None:
    for level_db, kept in ((NOTHING_HEARD_DBFS + 1, True), (NOTHING_HEARD_DBFS - 1, False)):
        clip = _clip(
            room / f"{kept}.mov", f"aevalsrc='{10 ** (level_db / 20)}*sin(2000*t)':s=48000:d=2", codec="pcm_s24le"
        )
        assert (extract(clip, room / f"{kept}.flac", seconds=2.0) is not None) is kept


def test_a_clip_without_sound_has_none(room: Path) -> None:
    clip = source(room / "clip.mp4", f"{PICTURE} -c:v mpeg4")
    assert extract(clip, room / "sound.flac", seconds=2.0) is None
    assert [path.name for path in room.iterdir()] == ["clip.mp4"]


def test_it_is_kept_as_flac_without_anything_beside_it(room: Path) -> None:
    clip = source(room / "clip.mkv", f"{PICTURE} -f lavfi -i sine=d=2 -metadata title=Secret -c:v mpeg4 -c:a mp2")
    assert extract(clip, room / "sound.flac", seconds=1.0) == 1.0
    found = probe(room / "sound.flac")
    assert found.video is None
    assert found.audio is not None
    assert (found.audio.codec, found.audio.rate, found.audio.channels, found.audio.samples) == (
        "flac",
        48_000,
        2,
        48_000,
    )
    assert b"Secret" not in (room / "sound.flac").read_bytes()


def test_a_length_of_nothing_and_a_broken_clip_are_refused_and_leave_nothing(room: Path) -> None:
    broken = room / "clip.mp4"
    broken.write_bytes(b"\0" * 2000)
    with pytest.raises(MediaError, match=r"cannot last 0\.0 s"):
        extract(broken, room / "sound.flac", seconds=0.0)
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        extract(broken, room / "sound.flac", seconds=2.0)
    assert [path.name for path in room.iterdir()] == ["clip.mp4"]
