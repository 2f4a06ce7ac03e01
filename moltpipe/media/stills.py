"""Stills: pictures out of a video, for the player and for the operator's eyes.

Here: which frame to show, and a sheet of several. Not here: the poster, which is drawn and not filmed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageStat

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import as_image, opened, picture_of
from moltpipe.studio.asked import Stretch

CANDIDATES = (0.5, 0.3, 0.7, 0.2, 0.4, 0.6, 0.8, 0.1, 0.9)
"""Parts of the length at which a frame for the thumbnail is looked for. Of equals the first wins: the middle."""
BLACK_MEAN = 16
"""Mean brightness (0 to 255) up to which a frame is too dark to stand for its episode."""
BAR = 20
"""Brightest value (0 to 255) of a bar that was padded to a picture."""
BAR_PART = 0.04
"""How deep the picture's edges are looked at for bars: a bar that matters is deeper."""
LOOKED_AT = (320, 180)
"""Size at which frames are compared, for pictures as wide as high as well: only their order counts."""
COLUMNS = 4
LARGEST_SHEET = 24
"""Pictures on a sheet: of an episode with more shots, so many are taken evenly."""
CELL_SIDE = 168
"""Longer side of a picture on the sheet, in pixels."""
GAP = 4
PAPER = (24, 24, 28)
LABEL = (235, 235, 235)
LABEL_SIZE = 13


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


def thumbnail(video: Path, target_jpg: Path, *, width: int = 640, avoid: Sequence[Stretch] = ()) -> None:
    """Write the frame with the most detail out of nine over the length, as a JPEG of `width` pixels.

    `avoid` are transitions, whose double pictures have more detail than any of a shot. A dark frame, one between bars
    and one out of a transition is taken only where there is no better one.

    Raises:
        MediaError: the file cannot be read or has no picture.
    """
    length_s = _length_s(video)
    times = [part * length_s for part in CANDIDATES]
    calm = [at_s for at_s in times if not any(one.start_s <= at_s <= one.end_s for one in avoid)]
    best = max((frame_at(video, at_s) for at_s in calm or times), key=_worth)
    height = max(1, round(width * best.height / best.width))
    with landing(target_jpg) as part:
        best.resize((width, height), Image.Resampling.LANCZOS).save(part, "JPEG", quality=85, optimize=True)


def _length_s(video: Path) -> float:
    """By its header, which is enough for looking somewhere into the middle."""
    with opened(video) as container:
        return (container.duration or 0) / av.time_base


def _worth(picture: Image.Image) -> tuple[bool, bool, float]:
    small = picture.convert("L").resize(LOOKED_AT)
    # The outermost pixels of FIND_EDGES are the picture's own, not edges.
    edges = small.filter(ImageFilter.FIND_EDGES).crop((1, 1, LOOKED_AT[0] - 1, LOOKED_AT[1] - 1))
    return ImageStat.Stat(small).mean[0] > BLACK_MEAN, not _between_bars(small), ImageStat.Stat(edges).mean[0]


def _between_bars(grey: Image.Image) -> bool:
    """Whether two opposite edges are black from corner to corner."""
    width, height = grey.size
    across, down = round(width * BAR_PART), round(height * BAR_PART)
    pairs = (
        ((0, 0, across, height), (width - across, 0, width, height)),
        ((0, 0, width, down), (0, height - down, width, height)),
    )
    return any(all(_brightest(grey.crop(edge)) <= BAR for edge in pair) for pair in pairs)


def _brightest(grey: Image.Image) -> int:
    return int(ImageStat.Stat(grey).extrema[0][1])


def contact_sheet(video: Path, times_s: Sequence[float]) -> Image.Image:
    """One small numbered picture for each time, in order, row by row; of very many times, some taken evenly.

    Raises:
        MediaError: there is no time, or the video cannot be read.
    """
    if not times_s:
        raise MediaError(f"a contact sheet of {video.name} shows at least one picture")
    step = max(1.0, len(times_s) / LARGEST_SHEET)
    chosen = [int(number * step) for number in range(min(LARGEST_SHEET, len(times_s)))]
    pictures = [frame_at(video, times_s[number]) for number in chosen]
    for picture in pictures:
        picture.thumbnail((CELL_SIDE, CELL_SIDE), Image.Resampling.LANCZOS)
    width, height = pictures[0].size
    columns = min(COLUMNS if width >= height else COLUMNS * 2, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    draw, face = ImageDraw.Draw(sheet), ImageFont.load_default(size=LABEL_SIZE)
    for place, (number, picture) in enumerate(zip(chosen, pictures, strict=True)):
        row, column = divmod(place, columns)
        left, top = GAP + column * (width + GAP), GAP + row * (height + GAP)
        sheet.paste(picture, (left, top))
        draw.text((left + 5, top + 3), str(number + 1), font=face, fill=LABEL, stroke_width=2, stroke_fill=PAPER)
    return sheet
