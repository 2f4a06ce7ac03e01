"""Stills: pictures out of a video, for the player and for the operator's eyes.

Here: which frame to show, and sheets of several. Not here: the poster, which is drawn and not filmed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFilter, ImageStat

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import as_image, opened, picture_of, probe

CANDIDATES = (0.5, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8, 0.1, 0.9)
"""Parts of the length at which a frame for the thumbnail is looked for. Of equals the first wins: the middle."""
BLACK_MEAN = 16
"""Mean brightness (0 to 255) up to which a frame is too dark to stand for its episode."""
CELL = (320, 180)
COLUMNS = 4
GAP = 4
PAPER = (24, 24, 28)


def frame_at(video: Path, seconds: float) -> Image.Image:
    """The frame that is on the screen at a time, upright, in RGB; after the end, the last one.

    Raises:
        MediaError: the file cannot be read or has no picture.
    """
    with opened(video) as container:
        picture = picture_of(container)
        if picture is None or picture.time_base is None:
            raise MediaError(f"{video.name} has no picture")
        wanted = seconds + 1e-6
        container.seek(max(0, int(seconds / picture.time_base)), stream=picture)
        shown = None
        for frame in container.decode(picture):
            if shown is not None and (frame.time or 0.0) > wanted:
                break
            shown = frame
        if shown is None:
            raise MediaError(f"{video.name} has no frame")
        image = as_image(shown)
        return image.rotate(shown.rotation, expand=True) if shown.rotation else image


def thumbnail(video: Path, target_jpg: Path, *, width: int = 640) -> None:
    """Write the frame with the most detail out of nine over the length, as a JPEG of `width` pixels.

    A dark frame is taken only where there is no other.

    Raises:
        MediaError: the file cannot be read or has no picture.
    """
    length_s = probe(video).duration_seconds
    best = max((frame_at(video, part * length_s) for part in CANDIDATES), key=_worth)
    height = max(1, round(width * best.height / best.width))
    with landing(target_jpg) as part:
        best.resize((width, height), Image.Resampling.LANCZOS).save(part, "JPEG", quality=85, optimize=True)


def _worth(picture: Image.Image) -> tuple[bool, float]:
    small = picture.convert("L").resize(CELL)
    # The outermost pixels of FIND_EDGES are the picture's own, not edges.
    edges = small.filter(ImageFilter.FIND_EDGES).crop((1, 1, CELL[0] - 1, CELL[1] - 1))
    return ImageStat.Stat(small).mean[0] > BLACK_MEAN, ImageStat.Stat(edges).mean[0]


def contact_sheet(videos: Sequence[Path], target_png: Path) -> None:
    """Write one small picture of the middle frame of every video, in order, row by row.

    Raises:
        MediaError: there is no video, or one cannot be read.
    """
    if not videos:
        raise MediaError("a contact sheet shows at least one video")
    columns = min(COLUMNS, len(videos))
    rows = math.ceil(len(videos) / columns)
    width, height = CELL
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for number, video in enumerate(videos):
        frame = frame_at(video, probe(video).duration_seconds / 2)
        frame.thumbnail(CELL, Image.Resampling.LANCZOS)
        row, column = divmod(number, columns)
        left = GAP + column * (width + GAP) + (width - frame.width) // 2
        top = GAP + row * (height + GAP) + (height - frame.height) // 2
        sheet.paste(frame, (left, top))
    with landing(target_png) as part:
        sheet.save(part, "PNG", optimize=True)
