"""The poster of a series.

Here: a composition from the poster spec's own words, with the title, the logline and who made it. Not here: storing
it (`production.posters`).
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from moltpipe.engines.storyboard import lettering
from moltpipe.engines.storyboard.ink import MARGIN_X, MARGIN_Y, Sheet, glow
from moltpipe.engines.storyboard.lettering import TEXT, TITLE
from moltpipe.engines.storyboard.looks import PLAIN, Look
from moltpipe.engines.storyboard.palette import Colour, Palette, mix, palette_of
from moltpipe.engines.storyboard.sets import build_set
from moltpipe.engines.storyboard.slate import accent_on_dark
from moltpipe.engines.storyboard.vocabulary import read_scene
from moltpipe.studio.screenplay import PosterSpec

SIZE = (600, 900)
_PAPER: Colour = (247, 243, 233)
_LOOK_WORDS = (
    (("noir", "shadow", "contrast"), Look("ink", ink=0.8, saturation=0.55)),
    (("fog", "mist", "dream", "melanchol", "ethereal", "quiet"), Look("fog", haze=0.25, rays=0.6)),
    (("neon", "vivid", "electric", "joy", "playful"), Look("vivid", saturation=1.35)),
)


def draw_poster(
    title: str, logline: str, genre: str, spec: PosterSpec, *, credit: str = "", size: tuple[int, int] = SIZE
) -> Image.Image:
    """Draw the poster, always the same for the same words. `credit` is the agent or studio that made the series."""
    words = f"{spec.style} {spec.mood or ''}".lower()
    look = next((look for known, look in _LOOK_WORDS if any(word in words for word in known)), PLAIN)
    palette = palette_of(spec.palette, spec.style, genre).mapped(saturation=look.saturation)
    digest = hashlib.sha256(f"{title}\n{spec.key_visual}".encode("utf-8", "replace")).digest()
    dice = random.Random(digest)  # noqa: S311 - it draws pictures, it guards nothing
    picture = _picture(size, spec, hint=f"{logline} {spec.mood or ''}", palette=palette, look=look, dice=dice)
    _shade(picture, palette)
    _letter(picture, palette, title=title, logline=logline, genre=genre, credit=credit)
    return picture


def _picture(
    size: tuple[int, int], spec: PosterSpec, *, hint: str, palette: Palette, look: Look, dice: random.Random
) -> Image.Image:
    # The set is built upright and wide, and the part around the figure is taken: sets are made for wide pictures.
    sheet = Sheet(round(size[1] * 4 / 3), size[1])
    scene = read_scene("medium", spec.key_visual, hint)
    built = build_set(sheet, scene, palette, look, dice, horizon=0.58, tilt=0)
    stand = built.stand
    left = round((stand.x + MARGIN_X) * sheet.width - size[0] * 0.5)
    top = round(MARGIN_Y * sheet.height)
    box = (left, top, left + size[0], top + size[1])
    screen = built.backdrop.image.crop(box)

    def paint(tone: float) -> Colour:
        black = mix(palette.shadow, (4, 5, 7), 0.5)
        hazy = mix(mix(palette.haze, palette.middle, 0.45), black, min(1.0, 0.25 + 0.75 * tone))
        return mix(hazy, (3, 3, 5), 0.6 * tone) if look.ink else hazy

    for plane in built.behind:
        screen.paste(plane.colour or paint(plane.tone), (0, 0), plane.mask.crop(box))
    if built.figure is not None:
        mask = built.figure.crop(box)
        screen.paste(paint(0.92), (0, 0), mask)
        towards = 3 if built.backdrop.light_x < stand.x else -3
        rim = ImageChops.subtract(mask, ImageChops.offset(mask, towards, 2))
        screen.paste(mix(palette.accent, palette.light, 0.5), (0, 0), rim)
    for plane in built.before:
        screen.paste(paint(plane.tone), (0, 0), plane.mask.crop(box))
    for light in built.lights:
        mask = glow(max(2, round(light.radius * sheet.height)))
        x = round((light.x + MARGIN_X) * sheet.width - left - mask.width / 2)
        y = round((light.y + MARGIN_Y) * sheet.height - top - mask.height / 2)
        screen.paste(
            mix(light.colour, (255, 246, 224), 0.35), (x, y), mask.point([round(one * 0.85) for one in range(256)])
        )
    return screen


def _shade(picture: Image.Image, palette: Palette) -> None:
    """Darken head and foot, where the lettering stands."""
    down = np.linspace(0, 1, picture.height, dtype=np.float32)
    cover = np.clip((down - 0.60) / 0.24, 0, 1) ** 1.2 * 0.90 + np.clip((0.16 - down) / 0.16, 0, 1) * 0.55
    column = Image.fromarray((np.clip(cover, 0, 1) * 255).astype(np.uint8)[:, None], "L")
    picture.paste(mix(palette.shadow, (5, 6, 8), 0.6), (0, 0), column.resize(picture.size, Image.Resampling.NEAREST))


def _letter(picture: Image.Image, palette: Palette, *, title: str, logline: str, genre: str, credit: str) -> None:
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    unit = height / 900
    margin = round(48 * unit)
    accent = accent_on_dark(palette)
    middle = width / 2

    foot = height - round(38 * unit)
    line = " \u00b7 ".join(
        part
        for part in ("A LIMITED SERIES IN FIVE EPISODES", lettering.legible(genre.replace("_", " ").upper(), TITLE))
        if part
    )
    face = lettering.font(TITLE, round(15 * unit), 400)
    _spaced(draw, (middle, round(52 * unit)), line, face, colour=mix(_PAPER, palette.haze, 0.25), space=1.6 * unit)
    if credit.strip():
        made = lettering.wrapped(lettering.legible(f"A STORY BY {credit.upper()}", TITLE), face, width - 2 * margin, 1)
        _spaced(draw, (middle, foot), made[0], face, colour=accent, space=1.2 * unit)
    rows_face, rows = lettering.fitted(
        lettering.legible(logline, TEXT),
        TEXT,
        430,
        width=width - 2 * margin,
        sizes=range(round(20 * unit), round(14 * unit), -1),
        lines=4,
    )
    step = round(rows_face.size * 1.38)
    bottom = foot - round(44 * unit)
    for number, row in enumerate(reversed(rows)):
        draw.text(
            (middle, bottom - number * step), row, font=rows_face, fill=mix(_PAPER, palette.haze, 0.12), anchor="ms"
        )
    bottom -= len(rows) * step + round(8 * unit)
    draw.rectangle((middle - 26 * unit, bottom - 2 * unit, middle + 26 * unit, bottom + unit), fill=accent)
    bottom -= round(30 * unit)
    family = lettering.family_for(title, TITLE)
    shown = lettering.legible(title.upper(), family)
    title_face, lines = lettering.fitted(
        shown, family, 600, width=width - 2 * margin, sizes=range(round(112 * unit), round(34 * unit), -2), lines=3
    )
    for number, row in enumerate(reversed(lines)):
        draw.text(
            (middle, bottom - number * round(title_face.size * 1.12)), row, font=title_face, fill=_PAPER, anchor="ms"
        )


def _spaced(
    draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, face: lettering.Face, *, colour: Colour, space: float
) -> None:
    """A line of small capitals, letterspaced around its middle."""
    middle, base = at
    x = middle - (sum(face.getlength(one) for one in text) + space * (len(text) - 1)) / 2
    for one in text:
        draw.text((x, base), one, font=face, fill=colour, anchor="ls")
        x += face.getlength(one) + space
