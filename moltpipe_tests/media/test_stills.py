from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageStat

from moltpipe.media.errors import MediaError
from moltpipe.media.reel import encode_frames
from moltpipe.media.stills import contact_sheet, frame_at, thumbnail
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


def test_a_contact_sheet_has_a_picture_for_every_shot(room: Path) -> None:
    shots = [ramp(room / f"{number}.mp4", 12 + 8 * number) for number in range(5)]
    contact_sheet(shots, room / "sheet.png")
    with Image.open(room / "sheet.png") as sheet:
        assert sheet.size == (4 * 324 + 4, 2 * 184 + 4)
        corners = [(4 + 324 * (number % 4), 4 + 184 * (number // 4)) for number in range(5)]
        cells = [sheet.crop((left, top, left + 320, top + 180)).convert("L") for left, top in corners]
    greys = [ImageStat.Stat(cell).mean[0] for cell in cells]
    assert greys == sorted(greys)
    assert greys[0] > DARKEST


def test_a_contact_sheet_of_nothing_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match="at least one video"):
        contact_sheet([], room / "sheet.png")
