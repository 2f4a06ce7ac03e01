from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from moltpipe.media.conform import conform, conforms, fingerprint, house_fingerprint
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import probe, verify_decodes
from moltpipe.media.reel import encode_frames, h264_level
from moltpipe.media.runner import run, url
from moltpipe.media.stills import frame_at
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.media.material import P, frame_numbers, pictures, ramp, source

SOURCES = {
    "24.mp4": "-f lavfi -i testsrc2=s=320x180:r=24:d=2 -c:v libx264",
    "25-odd.mkv": "-f lavfi -i testsrc2=s=321x241:r=25:d=2.3 -c:v libx264 -pix_fmt yuv444p",
    "ntsc-sound.mp4": "-f lavfi -i testsrc2=s=640x360:r=30000/1001:d=5 -f lavfi -i sine=d=4 -c:v libx264 -c:a aac",
    "30-tall.webm": "-f lavfi -i testsrc2=s=200x400:r=30:d=1 -c:v libvpx",
    "full-range.mov": "-f lavfi -i testsrc2=s=320x240:r=25:d=2 -pix_fmt yuvj420p -c:v mjpeg",
    "late.mp4": "-f lavfi -i sine=d=2 -itsoffset 0.7 -f lavfi -i testsrc2=s=320x180:r=24:d=1 -c:v libx264 -c:a aac",
    "60.mp4": "-f lavfi -i testsrc2=s=1280x720:r=60:d=0.5 -c:v libx264 -preset ultrafast -g 5",
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_becomes_house_film_of_the_exact_length(room: Path, name: str) -> None:
    target = room / "conformed.mp4"
    conform(source(room / name, SOURCES[name]), P, target, frames=61)
    found = probe(target)
    assert fingerprint(target) == house_fingerprint(P)
    assert conforms(found, P)
    assert verify_decodes(target).frames == 61


@pytest.mark.parametrize("profile", ["180p25", "180p30", "240p24"])
def test_film_of_another_profile_does_not_conform(room: Path, profile: str) -> None:
    other = ramp(room / "other.mp4", 12, parse_profile(profile))
    assert conforms(probe(other), parse_profile(profile))
    assert not conforms(probe(other), P)


def test_a_clip_with_its_own_sound_does_not_conform(room: Path) -> None:
    silent = ramp(room / "silent.mp4", 24)
    loud = room / "loud.mp4"
    run(["-i", url(silent), "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", url(loud)], timeout_s=30)
    assert not conforms(probe(loud), P)


def test_a_drawn_reel_is_house_film_at_once_whatever_it_shows(room: Path) -> None:
    size = P.width * P.height * 3
    for number, frame in enumerate((bytes(size), bytes([255]) * size, bytes(range(240)) * (size // 240))):
        drawn = room / f"drawn-{number}.mp4"
        encode_frames([frame] * 5, P, drawn)
        assert conforms(probe(drawn), P)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_clip_comes_out_upright(room: Path, turn: int) -> None:
    flat = source(room / "flat.mp4", "-f lavfi -i smptebars=s=180x320:d=1 -c:v libx264 -colorspace bt709")
    turned = room / "turned.mp4"
    run(["-display_rotation", str(turn), "-i", url(flat), "-c", "copy", url(turned)], timeout_s=30)
    conform(turned, P, room / "upright.mp4", frames=24)
    expected = frame_at(turned, 0.5)
    expected.thumbnail((P.width, P.height))
    shown = frame_at(room / "upright.mp4", 0.5)
    left, top = (shown.width - expected.width) // 2, (shown.height - expected.height) // 2
    for x, y in ((0.1, 0.2), (0.9, 0.2), (0.1, 0.9), (0.9, 0.9)):
        dx, dy = int(expected.width * x), int(expected.height * y)
        pairs = zip(_pixel(expected, dx, dy), _pixel(shown, left + dx, top + dy), strict=True)
        assert all(abs(one - other) < 40 for one, other in pairs)


def _pixel(picture: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = picture.convert("RGB").resize((1, 1), box=(x, y, x + 1, y + 1)).tobytes()
    return red, green, blue


def test_a_square_picture_gets_bars_and_keeps_its_shape(room: Path) -> None:
    conform(source(room / "s.mp4", "-f lavfi -i color=white:s=100x100:d=1 -c:v libx264"), P, room / "c.mp4", frames=24)
    row = pictures(room / "c.mp4")[12].convert("L").crop((0, 90, 320, 91)).tobytes()
    white = [x for x, grey in enumerate(row) if grey > 128]
    assert (white[0], white[-1]) == pytest.approx((70, 249), abs=2)


def test_an_anamorphic_picture_gets_its_true_shape(room: Path) -> None:
    wide = source(room / "w.mp4", "-f lavfi -i color=white:s=90x100:d=1 -vf setsar=2 -c:v libx264")
    conform(wide, P, room / "c.mp4", frames=24)
    row = pictures(room / "c.mp4")[12].convert("L").crop((0, 90, 320, 91)).tobytes()
    assert sum(grey > 128 for grey in row) == pytest.approx(320, abs=2)


def test_colours_survive_conforming(room: Path) -> None:
    red = source(
        room / "red.mp4", "-f lavfi -i color=0xC81E3C:s=320x180:d=1 -vf scale=out_color_matrix=bt601 -c:v libx264"
    )
    conform(red, P, room / "c.mp4", frames=24)
    shown = _pixel(pictures(room / "c.mp4")[3], 160, 90)
    assert shown == pytest.approx((0xC8, 0x1E, 0x3C), abs=8)


def test_a_picture_that_begins_late_loses_its_wait(room: Path) -> None:
    late = room / "late.mkv"
    reel = ramp(room / "reel.mp4", 24)
    sound = ("-f", "lavfi", "-i", "sine=d=2")
    run([*sound, "-itsoffset", "0.5", "-i", url(reel), "-c:v", "copy", url(late)], timeout_s=30)
    conform(late, P, room / "c.mp4", frames=24)
    assert frame_numbers(room / "c.mp4") == pytest.approx(range(24), abs=0.7)


def test_a_longer_take_is_cut_and_a_shorter_one_holds_its_last_frame(room: Path) -> None:
    take = ramp(room / "take.mp4", 24)
    conform(take, P, room / "short.mp4", frames=10)
    conform(take, P, room / "long.mp4", frames=40)
    assert frame_numbers(room / "short.mp4") == pytest.approx(range(10), abs=0.7)
    assert frame_numbers(room / "long.mp4")[24:] == pytest.approx([23] * 16, abs=0.7)


def test_a_take_without_a_picture_is_refused_and_leaves_nothing(room: Path) -> None:
    sound = source(room / "sound.mp4", "-f lavfi -i sine=d=1 -c:a aac")
    with pytest.raises(MediaError, match="no picture"):
        conform(sound, P, room / "target.mp4", frames=24)
    assert not (room / "target.mp4").exists()


def test_frames_of_a_wrong_size_are_refused_and_leave_nothing(room: Path) -> None:
    for frames, said in (([bytes(7)], "frame 0 has 7 bytes, expected 172800"), ([], "no frame")):
        with pytest.raises(MediaError, match=said):
            encode_frames(frames, P, room / "target.mp4")
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("180p24", "3.0"),
        ("360p24", "3.0"),
        ("720p24", "3.1"),
        ("720p30", "3.1"),
        ("1080p24", "4.0"),
        ("1080p60", "4.2"),
        ("2160p30", "5.1"),
    ],
)
def test_the_level_is_the_lowest_that_carries_the_profile(name: str, level: str) -> None:
    assert h264_level(parse_profile(name)) == level
