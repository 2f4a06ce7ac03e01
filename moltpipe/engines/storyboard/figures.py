"""Figures: the silhouettes that stand, float or lie in the middle of a picture.

Here: their outlines, and the lights that they carry. Not here: which figure a shot has (`vocabulary`), how it moves.

An outline is drawn in a box of its own height: x from -0.5 to 0.5 around the middle, y from 0 at the foot to 1 at the
top.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from moltpipe.engines.storyboard.ink import Point, Sheet, Stencil
from moltpipe.engines.storyboard.vocabulary import Figure, Framing

THINGS = frozenset({Figure.LETTER, Figure.GEAR, Figure.ORB, Figure.CRYSTAL, Figure.BIRD})
"""Figures that are shown whole when they are near, in the middle of the picture, and stand on nothing."""
_FLYING = frozenset({Figure.BIRD, Figure.ORB, Figure.ROCKET})


@dataclass(frozen=True)
class Stand:
    """Where a figure is: the middle of its foot in shares of the picture, its height as a length."""

    x: float
    foot: float
    height: float


@dataclass
class Pen:
    """Draws in the figure's box."""

    stencil: Stencil
    sheet: Sheet
    stand: Stand
    lights: list[tuple[float, float, float]] = field(default_factory=list)
    """x and y in shares of the picture, radius as a length."""

    def _at(self, point: Point) -> Point:
        return (
            self.stand.x + point[0] * self.stand.height * self.sheet.aspect,
            self.stand.foot - point[1] * self.stand.height,
        )

    def shape(self, points: Sequence[Point], *, cut: bool = False) -> None:
        """Fill a polygon."""
        self.stencil.polygon([self._at(point) for point in points], cut=cut)

    def mirrored(self, points: Sequence[Point], *, cut: bool = False) -> None:
        """Fill a polygon given by its right half, from the foot to the top."""
        self.shape([*points, *((-x, y) for x, y in reversed(points))], cut=cut)

    def disc(self, x: float, y: float, radius: float, *, cut: bool = False, flat: float = 1.0) -> None:
        """Fill a disc."""
        across, down = self._at((x, y))
        self.stencil.disc(across, down, radius * self.stand.height, cut=cut, flat=flat)

    def line(self, points: Sequence[Point], thickness: float, *, cut: bool = False) -> None:
        """Draw a line."""
        self.stencil.line([self._at(point) for point in points], thickness * self.stand.height, cut=cut)

    def light(self, x: float, y: float, radius: float) -> None:
        """Put a light there."""
        across, down = self._at((x, y))
        self.lights.append((across, down, radius * self.stand.height))


def stand_of(figure: Figure, framing: Framing, ground: float, x: float) -> Stand:
    """Where a figure stands in a framing, on ground at a share of the picture's height."""
    if figure in THINGS:
        height, middle = {
            Framing.WIDE: (0.13, 0.42),
            Framing.MEDIUM: (0.30, 0.44),
            Framing.CLOSE: (0.50, 0.42),
            Framing.MACRO: (0.85, 0.43),
        }[framing]
        return Stand(x, middle + height / 2, height)
    tall = figure in (Figure.LIGHTHOUSE, Figure.TOWER, Figure.TREE, Figure.SHIP, Figure.ROCKET, Figure.DOOR)
    if framing is Framing.WIDE:
        height = 0.46 if tall else 0.20
        return Stand(x, ground - (0.12 if figure in _FLYING else 0), height)
    if framing is Framing.MEDIUM:
        height = 0.66 if tall else 0.50
        return Stand(x, max(ground, 0.14 + height), height)
    height = 1.25 if framing is Framing.CLOSE else 2.0
    return Stand(x, 0.12 + height, height)


def draw_figure(figure: Figure, pen: Pen) -> None:
    """Draw a figure and note its lights."""
    _OUTLINES[figure](pen)


def _person(pen: Pen) -> None:
    pen.disc(0, 0.925, 0.058, flat=1.22)
    pen.shape(((-0.032, 0.80), (0.032, 0.80), (0.030, 0.90), (-0.030, 0.90)))
    pen.mirrored(((0.17, 0.26), (0.145, 0.50), (0.158, 0.70), (0.150, 0.765), (0.118, 0.800), (0.045, 0.830)))
    pen.mirrored(((0.075, 0.800), (0.060, 0.850), (0.042, 0.865)))
    pen.shape(((-0.15, 0.27), (-0.02, 0.27), (-0.035, 0.02), (-0.03, 0), (-0.13, 0), (-0.12, 0.04)))
    pen.shape(((0.02, 0.27), (0.14, 0.27), (0.13, 0.04), (0.15, 0), (0.05, 0), (0.045, 0.02)))
    pen.shape(((-0.16, 0.74), (-0.20, 0.40), (-0.165, 0.38), (-0.12, 0.70)))
    pen.shape(((0.16, 0.74), (0.205, 0.42), (0.17, 0.40), (0.12, 0.70)))


def _robot(pen: Pen) -> None:
    pen.line(((0.05, 0.92), (0.075, 1.0)), 0.012)
    pen.disc(0.075, 1.0, 0.014)
    pen.mirrored(((0.085, 0.78), (0.10, 0.80), (0.10, 0.915), (0.075, 0.94)))
    pen.mirrored(((0.035, 0.73), (0.035, 0.79)))
    pen.mirrored(((0.12, 0.38), (0.165, 0.46), (0.175, 0.70), (0.14, 0.75)))
    for side in (-1, 1):
        pen.disc(side * 0.195, 0.69, 0.045)
        pen.line(((side * 0.20, 0.68), (side * 0.225, 0.52), (side * 0.20, 0.37)), 0.042)
        pen.disc(side * 0.20, 0.35, 0.036)
        pen.line(((side * 0.075, 0.40), (side * 0.085, 0.20), (side * 0.075, 0.04)), 0.062)
        pen.shape(((side * 0.03, 0), (side * 0.145, 0), (side * 0.12, 0.055), (side * 0.045, 0.055)))
    pen.disc(0.028, 0.865, 0.027, cut=True)
    pen.light(0.028, 0.865, 0.13)


def _lighthouse(pen: Pen) -> None:
    pen.mirrored(((0.135, 0), (0.085, 0.72)))
    pen.mirrored(((0.125, 0.72), (0.125, 0.745)))
    pen.mirrored(((0.062, 0.745), (0.062, 0.865)))
    pen.mirrored(((0.082, 0.865), (0.04, 0.925), (0.012, 0.945)))
    pen.line(((0, 0.94), (0, 1.0)), 0.012)
    for x in (-0.118, -0.08, 0.08, 0.118):
        pen.line(((x, 0.745), (x, 0.785)), 0.006)
    pen.line(((-0.122, 0.785), (0.122, 0.785)), 0.006)
    pen.shape(((-0.045, 0.76), (0.045, 0.76), (0.045, 0.855), (-0.045, 0.855)), cut=True)
    pen.line(((0, 0.76), (0, 0.855)), 0.008)
    for y in (0.18, 0.40, 0.58):
        pen.shape(((-0.013, y), (0.013, y), (0.013, y + 0.045), (-0.013, y + 0.045)), cut=True)
    pen.light(0, 0.81, 0.30)


def _ship(pen: Pen) -> None:
    pen.shape(((-0.44, 0.20), (-0.33, 0.03), (0.30, 0.03), (0.46, 0.24), (0.30, 0.185), (-0.30, 0.185)))
    pen.line(((-0.10, 0.18), (-0.10, 0.98)), 0.016)
    pen.line(((0.17, 0.18), (0.17, 0.84)), 0.014)
    pen.shape(((-0.115, 0.93), (-0.37, 0.30), (-0.115, 0.27)))
    pen.shape(((-0.08, 0.90), (0.10, 0.58), (0.11, 0.30), (-0.08, 0.27)))
    pen.shape(((0.19, 0.80), (0.38, 0.33), (0.19, 0.28)))
    pen.light(0.40, 0.26, 0.10)


def _tower(pen: Pen) -> None:
    pen.mirrored(((0.10, 0), (0.085, 0.45), (0.06, 0.46), (0.05, 0.74), (0.025, 0.76), (0.012, 0.92), (0.004, 1.0)))
    for y in (0.10, 0.20, 0.30, 0.40, 0.55, 0.65):
        pen.line(((-0.03, y), (0.03, y)), 0.012, cut=True)
    pen.light(0, 0.99, 0.12)


def _tree(pen: Pen) -> None:
    pen.mirrored(((0.075, 0), (0.035, 0.12), (0.028, 0.45)))
    for x, y in ((-0.20, 0.62), (0.19, 0.58), (0.07, 0.72), (-0.08, 0.70)):
        pen.line(((0, 0.36), (x, y)), 0.022)
    for x, y, radius in (
        (-0.22, 0.62, 0.15), (0.22, 0.60, 0.15), (-0.10, 0.78, 0.16), (0.12, 0.79, 0.16), (0.0, 0.66, 0.18),
        (0.0, 0.88, 0.12), (-0.33, 0.55, 0.09), (0.34, 0.54, 0.08),
    ):  # fmt: skip
        pen.disc(x, y, radius)


def _door(pen: Pen) -> None:
    outer = [(0.30, 0.0), (0.30, 0.66)]
    outer += [(0.30 * math.cos(a), 0.66 + 0.30 * math.sin(a)) for a in (math.pi * step / 24 for step in range(1, 12))]
    pen.mirrored([*outer, (0.0, 0.97)])
    inner = [(0.21, 0.0), (0.21, 0.66)]
    inner += [(0.21 * math.cos(a), 0.66 + 0.21 * math.sin(a)) for a in (math.pi * step / 24 for step in range(1, 12))]
    pen.mirrored([*inner, (0.0, 0.87)], cut=True)
    pen.shape(((-0.21, 0.0), (-0.10, -0.02), (-0.10, 0.80), (-0.21, 0.72)))
    pen.mirrored(((0.36, 0.0), (0.36, 0.035)))
    pen.light(0.05, 0.42, 0.62)


def _lamp(pen: Pen) -> None:
    pen.mirrored(((0.06, 0), (0.045, 0.05), (0.016, 0.08), (0.013, 0.70)))
    pen.mirrored(((0.035, 0.70), (0.035, 0.72)))
    pen.mirrored(((0.045, 0.72), (0.075, 0.87), (0.09, 0.88), (0.03, 0.95), (0.006, 0.99)))
    pen.mirrored(((0.033, 0.735), (0.057, 0.86)), cut=True)
    pen.light(0, 0.80, 0.34)


def _bird(pen: Pen) -> None:
    pen.shape(((-0.10, 0.44), (0.02, 0.40), (0.15, 0.47), (0.21, 0.52), (0.15, 0.55), (0.02, 0.54), (-0.22, 0.52)))
    pen.shape(((0.0, 0.52), (-0.05, 0.70), (-0.22, 0.86), (-0.46, 0.93), (-0.30, 0.76), (-0.16, 0.58), (-0.08, 0.50)))
    pen.shape(((0.04, 0.52), (0.13, 0.72), (0.28, 0.88), (0.49, 0.90), (0.37, 0.76), (0.22, 0.62), (0.11, 0.50)))


def _beast(pen: Pen) -> None:
    pen.shape(
        (
            (-0.34, 0.50), (-0.10, 0.58), (0.14, 0.57), (0.24, 0.66), (0.26, 0.80), (0.29, 0.93), (0.34, 0.82),
            (0.40, 0.80), (0.50, 0.70), (0.49, 0.66), (0.37, 0.64), (0.32, 0.52), (0.28, 0.38), (-0.24, 0.34),
        )
    )  # fmt: skip
    for x, lean in ((-0.27, -0.03), (-0.16, 0.03), (0.17, -0.02), (0.26, 0.03)):
        pen.shape(((x - 0.05, 0.44), (x + 0.05, 0.44), (x + lean + 0.025, 0), (x + lean - 0.03, 0)))
    pen.shape(((-0.32, 0.50), (-0.30, 0.40), (-0.46, 0.26), (-0.58, 0.34), (-0.62, 0.52), (-0.52, 0.42)))
    pen.disc(0.365, 0.745, 0.014, cut=True)
    pen.light(0.365, 0.745, 0.06)


def _gear(pen: Pen) -> None:
    teeth = 12
    outline: list[Point] = []
    for tooth in range(teeth):
        for part, radius in ((0.0, 0.39), (0.24, 0.39), (0.32, 0.5), (0.62, 0.5), (0.70, 0.39)):
            angle = 2 * math.pi * (tooth + part) / teeth
            outline.append((radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    pen.shape(outline)
    pen.disc(0, 0.5, 0.29, cut=True)
    for spoke in range(5):
        angle = 2 * math.pi * spoke / 5 + 0.3
        pen.line(((0, 0.5), (0.33 * math.cos(angle), 0.5 + 0.33 * math.sin(angle))), 0.05)
    pen.disc(0, 0.5, 0.11)
    pen.disc(0, 0.5, 0.045, cut=True)
    pen.light(0, 0.5, 0.4)


def _letter(pen: Pen) -> None:
    corners = ((-0.52, 0.26), (0.42, 0.16), (0.52, 0.74), (-0.42, 0.84))
    pen.shape(corners)
    fold = (0.02, 0.44)
    pen.line((corners[3], fold, corners[2]), 0.016, cut=True)
    pen.line((corners[0], (-0.14, 0.53)), 0.010, cut=True)
    pen.line((corners[1], (0.19, 0.50)), 0.010, cut=True)
    pen.disc(0.02, 0.45, 0.062, cut=True)
    pen.disc(0.02, 0.45, 0.048)
    pen.light(0.0, 0.5, 0.75)


def _rocket(pen: Pen) -> None:
    pen.mirrored(((0.07, 0.10), (0.115, 0.40), (0.10, 0.68), (0.055, 0.88), (0.0, 1.0)))
    pen.mirrored(((0.21, 0.0), (0.20, 0.20), (0.10, 0.38)))
    pen.mirrored(((0.16, -0.01), (0.0, 0.22)), cut=True)
    pen.mirrored(((0.05, 0.06), (0.06, 0.12)))
    pen.disc(0, 0.66, 0.042, cut=True)
    pen.light(0, 0.02, 0.34)
    pen.light(0, 0.66, 0.10)


def _orb(pen: Pen) -> None:
    pen.disc(0, 0.5, 0.40)
    pen.disc(0.10, 0.60, 0.31, cut=True)
    pen.disc(0.10, 0.60, 0.24)
    pen.light(0.13, 0.62, 0.62)


def _crystal(pen: Pen) -> None:
    for middle, width, low, top, lean in (
        (0.0, 0.13, 0.05, 1.0, 0.02),
        (-0.19, 0.09, 0.03, 0.66, -0.07),
        (0.19, 0.10, 0.03, 0.74, 0.08),
    ):
        pen.shape(
            (
                (middle - width, low), (middle - width + lean, top - 0.17), (middle + lean * 1.4, top),
                (middle + width + lean, top - 0.21), (middle + width, low),
            )
        )  # fmt: skip
        pen.line(
            ((middle - width * 0.2, low + 0.03), (middle - width * 0.2 + lean, top - 0.22), (middle + lean * 1.4, top)),
            0.008,
            cut=True,
        )
    pen.light(0, 0.5, 0.6)


def _nothing(_: Pen) -> None:
    """A picture without a figure."""


_OUTLINES: Mapping[Figure, Callable[[Pen], None]] = {
    Figure.PERSON: _person,
    Figure.ROBOT: _robot,
    Figure.LIGHTHOUSE: _lighthouse,
    Figure.SHIP: _ship,
    Figure.TOWER: _tower,
    Figure.TREE: _tree,
    Figure.DOOR: _door,
    Figure.LAMP: _lamp,
    Figure.BIRD: _bird,
    Figure.BEAST: _beast,
    Figure.GEAR: _gear,
    Figure.LETTER: _letter,
    Figure.ROCKET: _rocket,
    Figure.ORB: _orb,
    Figure.CRYSTAL: _crystal,
    Figure.NONE: _nothing,
}
