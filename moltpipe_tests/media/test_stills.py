from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageFilter, ImageStat

from moltpipe.media.errors import MediaError
from moltpipe.media.reel import encode_frames
from moltpipe.media.stills import contact_sheet, frame_at, thumbnail
from moltpipe.studio.asked import Stretch
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.media.material import DARKEST, STEP, P, pictures, ramp, scene


@pytest.mark.parametrize("number", [0, 1, 23, 47, 60])
def test_the_frame_of_a_time_is_the_one_on_the_screen(room: Path, number: int) -> None:
    reel = ramp(room / "reel.mp4", 61)
    for seconds in (number / 24, (number + 0.9) / 24):
        grey = ImageStat.Stat(frame_at(reel, seconds).convert("L")).mean[0]
        assert (grey - DARKEST) / STEP == pytest.approx(number, abs=0.7)


def test_after_the_end_stands_the_last_frame(room: Path) -> None:
    grey = ImageStat.Stat(frame_at(ramp(room / "reel.mp4", 10), 99.0).convert("L")).mean[0]
    assert (grey - DARKEST) / STEP == pytest.approx(9, abs=0.7)


def test_a_thumbnail_shows_the_scene_and_not_the_dark_around_it(room: Path) -> None:
    size = P.width * P.height * 3
    bright = [picture.tobytes() for picture in pictures(scene(room / "scene.mp4", 12))]
    video = room / "video.mp4"
    encode_frames([*[bytes(size)] * 60, *bright, *[bytes(size)] * 24], P, video)
    thumbnail(video, room / "still.jpg", width=200)
    with Image.open(room / "still.jpg") as still:
        assert (still.format, still.size) == ("JPEG", (200, 112))
        assert ImageStat.Stat(still.convert("L")).mean[0] > 40


def test_a_black_video_still_gets_a_thumbnail(room: Path) -> None:
    encode_frames([bytes(P.width * P.height * 3)] * 24, P, room / "black.mp4")
    thumbnail(room / "black.mp4", room / "still.jpg")
    with Image.open(room / "still.jpg") as still:
        assert still.size == (640, 360)


def test_no_thumbnail_is_taken_out_of_a_transition(room: Path) -> None:
    busy = [picture.tobytes() for picture in pictures(scene(room / "scene.mp4", 12))]
    plain = bytes([120, 90, 60]) * (P.width * P.height)
    video = room / "video.mp4"
    encode_frames([*[plain] * 54, *busy, *[plain] * 54], P, video)
    thumbnail(video, room / "double.jpg")
    thumbnail(video, room / "still.jpg", avoid=[Stretch(54 / 24, 66 / 24)])
    assert _detail(room / "double.jpg") > 5
    assert _detail(room / "still.jpg") < 1


def test_where_every_moment_is_a_transition_one_of_them_is_taken(room: Path) -> None:
    thumbnail(scene(room / "scene.mp4", 12), room / "still.jpg", avoid=[Stretch(0, 99)])
    assert _detail(room / "still.jpg") > 5


@pytest.mark.parametrize("box", [(110, 0, 210, 180), (0, 40, 320, 140)], ids=["pillars", "letterbox"])
def test_a_full_frame_is_preferred_to_one_between_bars(room: Path, box: tuple[int, int, int, int]) -> None:
    busy = pictures(scene(room / "scene.mp4", 12))[0]
    barred = Image.new("RGB", busy.size)
    barred.paste(busy.resize((box[2] - box[0], box[3] - box[1])), box[:2])
    plain = Image.blend(busy, Image.new("RGB", busy.size, (90, 120, 60)), 0.9)
    video = room / "video.mp4"
    encode_frames([*[barred.tobytes()] * 60, *[plain.tobytes()] * 12, *[barred.tobytes()] * 48], P, video)
    thumbnail(video, room / "still.jpg")
    with Image.open(room / "still.jpg") as still:
        edges = [still.getpixel(at) for at in ((4, 180), (635, 180), (320, 3), (320, 356))]
    assert all(max(pixel) > 60 for pixel in edges if isinstance(pixel, tuple))


def _detail(file: Path) -> float:
    with Image.open(file) as still:
        return ImageStat.Stat(still.convert("L").filter(ImageFilter.FIND_EDGES)).mean[0]


def test_a_contact_sheet_has_a_picture_for_every_time_in_order(room: Path) -> None:
    sheet = contact_sheet(ramp(room / "reel.mp4", 61), [number * 0.5 for number in range(5)])
    width, height = 168, 95
    assert sheet.size == (4 * (width + 4) + 4, 2 * (height + 4) + 4)
    middles = [(4 + 172 * (number % 4) + 84, 4 + 99 * (number // 4) + 60) for number in range(5)]
    greys = [float(str(sheet.convert("L").getpixel(at))) for at in middles]
    assert [(grey - DARKEST) / STEP for grey in greys] == pytest.approx([0, 12, 24, 36, 48], abs=0.8)


def test_a_contact_sheet_of_very_many_shots_shows_some_of_them_evenly(room: Path) -> None:
    sheet = contact_sheet(ramp(room / "reel.mp4", 61), [number / 40 for number in range(100)])
    assert sheet.size == (4 * 172 + 4, 6 * 99 + 4)


def test_upright_pictures_stand_side_by_side(room: Path) -> None:
    upright = parse_profile("180p24-9x16")
    sheet = contact_sheet(ramp(room / "reel.mp4", 24, upright), [0.1, 0.4, 0.8])
    assert sheet.size == (3 * 98 + 4, 172 + 4)


def test_a_contact_sheet_of_nothing_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match="at least one picture"):
        contact_sheet(ramp(room / "reel.mp4", 3), [])
