"""Drawing tools: stencils with smooth edges, clouds of noise, glows.

Here: how a shape becomes a mask. Not here: which shapes (`sets`, `figures`).

Places are in shares of the picture: x from 0 (left) to 1 (right), y from 0 (top) to 1 (bottom). Every sheet is larger
than the picture by `MARGIN_X` and `MARGIN_Y` on each side, for the camera to go there. Lengths are in shares of
the picture's height.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Point = tuple[float, float]
Field = npt.NDArray[Any]
"""A number, or a colour, for every second pixel of a sheet; all are float32."""

MARGIN_X, MARGIN_Y = 0.25, 0.2
_FINER = 2
"""Stencils are cut this much larger and then reduced: Pillow draws hard edges."""


@dataclass(frozen=True)
class Sheet:
    """The size of the picture in pixels, and of everything drawn for it."""

    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of a whole sheet in pixels, margins included."""
        return round(self.width * (1 + 2 * MARGIN_X)), round(self.height * (1 + 2 * MARGIN_Y))

    @property
    def aspect(self) -> float:
        """Height over width: turns a length into a share of the width."""
        return self.height / self.width

    def stencil(self) -> Stencil:
        """An empty stencil."""
        return Stencil(self)

    def grid(self) -> tuple[Field, Field]:
        """Both coordinates of every second pixel of the sheet, for fields that are smooth."""
        width, height = self.size
        across = np.linspace(-MARGIN_X, 1 + MARGIN_X, width // 2, dtype=np.float32)
        down = np.linspace(-MARGIN_Y, 1 + MARGIN_Y, height // 2, dtype=np.float32)
        return np.broadcast_to(across, (len(down), len(across))), np.broadcast_to(
            down[:, None], (len(down), len(across))
        )


class Stencil:
    """A mask in the making."""

    def __init__(self, sheet: Sheet) -> None:
        width, height = sheet.size
        self._sheet = sheet
        self._image = Image.new("L", (width * _FINER, height * _FINER))
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, point: Point) -> Point:
        return (
            (point[0] + MARGIN_X) * self._sheet.width * _FINER,
            (point[1] + MARGIN_Y) * self._sheet.height * _FINER,
        )

    def polygon(self, points: Sequence[Point], *, cut: bool = False) -> None:
        """Fill a polygon, or cut it out of what is there."""
        self._draw.polygon([self._at(point) for point in points], fill=0 if cut else 255)

    def box(self, left: float, top: float, right: float, bottom: float, *, cut: bool = False) -> None:
        """Fill an upright rectangle."""
        self.polygon(((left, top), (right, top), (right, bottom), (left, bottom)), cut=cut)

    def disc(self, x: float, y: float, radius: float, *, cut: bool = False, flat: float = 1.0) -> None:
        """Fill a disc; `flat` below 1 makes it lie down."""
        left, top = self._at((x - radius * self._sheet.aspect, y - radius * flat))
        right, bottom = self._at((x + radius * self._sheet.aspect, y + radius * flat))
        self._draw.ellipse((left, top, right, bottom), fill=0 if cut else 255)

    def line(self, points: Sequence[Point], thickness: float, *, cut: bool = False) -> None:
        """Draw a line of a thickness."""
        pixels = max(1, round(thickness * self._sheet.height * _FINER))
        self._draw.line([self._at(point) for point in points], fill=0 if cut else 255, width=pixels, joint="curve")

    def mask(self, blur: float = 0.0) -> Image.Image:
        """The stencil as a mask of the sheet's size, blurred by a length."""
        mask = self._image.reduce(_FINER)
        return blurred(mask, blur * self._sheet.height)


def blurred(image: Image.Image, radius: float) -> Image.Image:
    """The image blurred by a radius in pixels. Wide blurs are made small: nobody sees it, and they take a tenth."""
    if radius < 0.3:  # noqa: PLR2004 - less than a third of a pixel is not seen
        return image
    shrink = max(1, int(radius // 4))
    if shrink == 1:
        return image.filter(ImageFilter.GaussianBlur(radius))
    small = image.reduce(shrink).filter(ImageFilter.GaussianBlur(radius / shrink))
    return small.resize(image.size, Image.Resampling.BICUBIC)


def clouds(
    size: tuple[int, int], dice: random.Random, *, grain: float, stretch: float = 2.0, octaves: int = 4
) -> Field:
    """Soft noise, 0 to 1. `grain` is how many lumps go over the height, `stretch` how much wider than high they are."""
    noise = np.random.default_rng(dice.getrandbits(32))
    width, height = size
    total = np.zeros((height, width), dtype=np.float32)
    weight = 1.0
    for _ in range(octaves):
        rows = max(2, round(grain))
        columns = max(2, round(grain * width / height / stretch))
        lumps = Image.fromarray((noise.random((rows, columns)) * 255).astype(np.uint8), "L")
        total += weight * np.asarray(lumps.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
        weight /= 2
        grain *= 2
    total -= total.min()
    return total / max(float(total.max()), 1e-6)


def ridge(dice: random.Random, base: float, height: float, *, rough: float, lumps: int = 5) -> list[Point]:
    """A line of hills from beyond the left edge to beyond the right one, closed below. `rough` 0 is round, 1 jagged."""
    steps = 160
    total = [0.0] * (steps + 1)
    amplitude, count = 1.0, lumps
    for octave in range(6):
        knots = [dice.uniform(-1, 1) for _ in range(count + 2)]
        for step in range(steps + 1):
            place = step / steps * count
            at, between = int(place), place - int(place)
            if octave == 0 or rough < 0.5:  # noqa: PLR2004 - round hills are joined by curves, jagged ones by lines
                between = between * between * (3 - 2 * between)
            total[step] += amplitude * (knots[at] * (1 - between) + knots[at + 1] * between)
        amplitude *= 0.22 + 0.28 * rough
        count *= 2
    left, right = -MARGIN_X - 0.05, 1 + MARGIN_X + 0.05
    line = [
        (left + (right - left) * step / steps, base - height * 0.6 * (total[step] + 0.4)) for step in range(steps + 1)
    ]
    return [*line, (right, 1.5), (left, 1.5)]


def glow(radius: int) -> Image.Image:
    """A round mask that fades from its middle to nothing, of a radius in pixels."""
    span = np.linspace(-1, 1, 2 * radius + 1, dtype=np.float32)
    away = np.sqrt(span[None, :] ** 2 + span[:, None] ** 2)
    light = np.clip(1 - away, 0, 1) ** 2.2
    return Image.fromarray((light * 255).astype(np.uint8), "L")
