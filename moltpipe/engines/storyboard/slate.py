"""The slate: what is written on a storyboard card, and where it may be written.

Here: the lines above and below the picture, which never move. Not here: type and its fitting (`lettering`).

Text must be legible over any picture at 360 lines, so it stands on shades that are as dark as they must be, not
as dark as would look well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from moltpipe.engines.protocols import TakeRequest
from moltpipe.engines.storyboard import lettering
from moltpipe.engines.storyboard.lettering import TEXT, TITLE
from moltpipe.engines.storyboard.looks import VARIANT_LETTERS
from moltpipe.engines.storyboard.palette import Colour, Palette, luminance, mix

_PAPER: Colour = (246, 242, 232)
HEAD, FOOT = 0.125, 0.255
"""Shares of the height that belong to the lines above and below."""
_CAPTION_LINES = 3
_UPRIGHT = 1.15
"""How much larger the type of an upright picture is than its width alone would have it: it is seen on a phone."""


@dataclass(frozen=True)
class Strip:
    """A part of the slate: its paint, how much of it covers, and its upper edge in pixels."""

    paint: Image.Image
    mask: Image.Image
    top: int


def slate(request: TakeRequest, palette: Palette) -> tuple[Strip, Strip]:
    """The strips above and below the picture of a shot."""
    return _head(request, palette), _foot(request, palette)


def accent_on_dark(palette: Palette) -> Colour:
    """The palette's accent, made light enough to be read on the slate's shade."""
    colour = palette.accent
    while luminance(colour) < 0.28:  # noqa: PLR2004 - about 5 to 1 against the shade, WCAG's AA
        colour = mix(colour, _PAPER, 0.25)
    return colour


def _unit(request: TakeRequest) -> float:
    """A seven hundred and twentieth of the height, but no more than the width has room for."""
    return min(request.height, request.width * _UPRIGHT) / 720


def _shade(width: int, height: int, palette: Palette, *, falling: bool, most: float) -> tuple[Image.Image, Image.Image]:
    """Paint and mask of a shade that is thickest at the picture's edge."""
    share = np.linspace(1, 0, height) if falling else np.linspace(0, 1, height)
    cover = np.clip(share * 1.7, 0, 1)
    cover = cover * cover * (3 - 2 * cover) * most
    column = Image.fromarray((cover * 255).astype(np.uint8)[:, None], "L")
    return (
        Image.new("RGB", (width, height), mix(palette.shadow, (6, 7, 9), 0.55)),
        column.resize((width, height), Image.Resampling.NEAREST),
    )


def _head(request: TakeRequest, palette: Palette) -> Strip:
    unit = _unit(request)
    width, height = request.width, round(720 * unit * HEAD)
    paint, mask = _shade(width, height, palette, falling=True, most=0.72)
    ink, cover = ImageDraw.Draw(paint), ImageDraw.Draw(mask)
    margin, base = round(36 * unit), round(46 * unit)
    family = lettering.family_for(request.series_title, TITLE)
    title_face = lettering.font(family, max(13, round(23 * unit)), 500)
    small_face = lettering.font(TITLE, max(11, round(18 * unit)), 400)

    def write(x: float, text: str, face: lettering.Face, colour: Colour, anchor: str = "ls") -> None:
        ink.text((x, base), text, font=face, fill=colour, anchor=anchor)
        cover.text((x, base), text, font=face, fill=255, anchor=anchor)

    number = f"E{request.episode_number:02d} \u00b7 S{request.shot_number:02d}/{request.shot_count:02d}"
    accent = accent_on_dark(palette)
    right = width - margin
    if request.style_suffix:
        letter = VARIANT_LETTERS[(request.variant_number - 1) % len(VARIANT_LETTERS)]
        side = round(max(17, 28 * unit))
        left, top = right - side, base - round(side * 0.80)
        badge = (left, top, right, top + side)
        ink.rectangle(badge, fill=accent)
        cover.rectangle(badge, fill=255)
        ink.text(((left + right) / 2, top + side / 2), letter, font=title_face, fill=(12, 12, 14), anchor="mm")
        right = left - round(14 * unit)
    term = lettering.legible(request.prompt.camera.replace("_", " ").upper(), TITLE)
    term = lettering.wrapped(term, small_face, width * 0.30, 1)[0] if term else ""
    write(right, term, small_face, _PAPER, "rs")

    number_width = small_face.getlength(number)
    free = right - small_face.getlength(term) - 36 * unit
    room = min(width * 0.62, free) - margin - number_width
    title = lettering.legible(request.series_title.upper(), family)
    title = lettering.wrapped(title, title_face, room, 1)[0] if title else ""
    write(margin, title, title_face, _PAPER)
    gap = title_face.getlength(title) + (18 * unit if title else 0)
    write(margin + gap, number, small_face, accent)
    return Strip(paint, mask, 0)


def _foot(request: TakeRequest, palette: Palette) -> Strip:
    unit = _unit(request)
    width, height = request.width, round(720 * unit * FOOT)
    paint, mask = _shade(width, height, palette, falling=False, most=0.90)
    ink, cover = ImageDraw.Draw(paint), ImageDraw.Draw(mask)
    margin = round(36 * unit)
    text = lettering.legible(request.prompt.scene, TEXT)
    largest, smallest = round(25 * unit), max(12, round(19 * unit))
    face, rows = lettering.fitted(
        text,
        TEXT,
        470,
        width=width - 2 * margin - 22 * unit,
        sizes=range(max(largest, smallest), smallest - 1, -1),
        lines=_CAPTION_LINES,
    )
    step = round(face.size * 1.34)
    first = height - round(26 * unit) - step * (len(rows) - 1)
    bar = (margin, first - round(face.size * 0.86), margin + max(2, round(4 * unit)), height - round(20 * unit))
    ink.rectangle(bar, fill=accent_on_dark(palette))
    cover.rectangle(bar, fill=255)
    for number, row in enumerate(rows):
        place = (margin + round(22 * unit), first + number * step)
        ink.text(place, row, font=face, fill=_PAPER, anchor="ls")
        cover.text(place, row, font=face, fill=255, anchor="ls")
    return Strip(paint, mask, request.height - height)
