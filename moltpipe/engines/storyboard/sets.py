"""Sets: the place of a shot as a backdrop, planes of silhouettes in front of it, and lights.

Here: what a sea, a city, a hall are made of. Not here: the figure (`figures`), how a set moves (`card`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from moltpipe.engines.storyboard.figures import THINGS, Pen, Stand, draw_figure, stand_of
from moltpipe.engines.storyboard.ink import MARGIN_X, Field, Sheet, Stencil, blurred, clouds, ridge
from moltpipe.engines.storyboard.looks import Look
from moltpipe.engines.storyboard.palette import Colour, Palette, mix
from moltpipe.engines.storyboard.vocabulary import Air, Figure, Framing, Hour, Scene, Setting

FIGURE_DEPTH = 1.0
_LEFT, _RIGHT = -MARGIN_X - 0.02, 1 + MARGIN_X + 0.02
_INDOORS = frozenset({Setting.ROOM, Setting.HALL, Setting.WORKS})


@dataclass(frozen=True)
class Plane:
    """A layer of shapes. Depth 0 is infinitely far, 1 the figure's place, more is nearer."""

    mask: Image.Image
    depth: float
    tone: float
    """0 is the colour of the haze, 1 that of the shadows."""
    colour: Colour | None = None
    """A colour of its own, for light that lies in the air."""


@dataclass(frozen=True)
class Light:
    """A lamp in the picture: a place in shares, a radius as a length, at a depth."""

    x: float
    y: float
    radius: float
    depth: float
    colour: Colour


@dataclass(frozen=True)
class Backdrop:
    """Everything behind the planes, painted once, and where its light comes from."""

    image: Image.Image
    light_x: float
    light_y: float


@dataclass
class FilmSet:
    """A built set."""

    backdrop: Backdrop
    behind: list[Plane] = field(default_factory=list)
    before: list[Plane] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    stand: Stand = field(default_factory=lambda: Stand(0.5, 0.8, 0.5))
    figure: Image.Image | None = None
    """The figure's mask on a whole sheet, None where there is none."""


@dataclass
class _Site:
    """What a builder works with."""

    sheet: Sheet
    dice: random.Random
    scene: Scene
    palette: Palette
    horizon: float
    light_x: float
    planes: list[tuple[Stencil, float, float]] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)

    def plane(self, depth: float, tone: float) -> Stencil:
        stencil = self.sheet.stencil()
        self.planes.append((stencil, depth, tone))
        return stencil

    def lamp(self, x: float, y: float, radius: float, depth: float) -> None:
        self.lights.append(Light(x, y, radius, depth, self.palette.accent))

    @property
    def aspect(self) -> float:
        return self.sheet.aspect


def build_set(
    sheet: Sheet, scene: Scene, palette: Palette, look: Look, dice: random.Random, *, horizon: float, tilt: float
) -> FilmSet:
    """Build a set; everything that is random in it comes from the dice."""
    near = scene.framing in (Framing.CLOSE, Framing.MACRO)
    light_x = dice.choice((dice.uniform(0.16, 0.36), dice.uniform(0.64, 0.84)))
    figure_x = dice.uniform(0.60, 0.68) if light_x < 0.5 else dice.uniform(0.32, 0.40)  # noqa: PLR2004 - light on one side, the figure on the other
    if scene.figure in THINGS and near:
        figure_x = 0.5
    site = _Site(sheet, dice, scene, palette, horizon, light_x)
    _BUILDERS[scene.setting](site)
    backdrop = _paint_backdrop(site, look)
    stand = stand_of(scene.figure, scene.framing, min(0.86, horizon + 0.17), figure_x)

    built = FilmSet(backdrop=backdrop, lights=site.lights, stand=stand)
    softness = look.defocus / 100 + (0.012 if near else 0.0)
    for stencil, depth, tone in site.planes:
        blur = softness * min(1.6, abs(depth - FIGURE_DEPTH) * 1.6)
        mask = _tilted(stencil.mask(blur), tilt)
        (built.before if depth > FIGURE_DEPTH else built.behind).append(Plane(mask, depth, tone))
    if scene.figure is not Figure.NONE:
        pen = Pen(sheet.stencil(), sheet, stand)
        if scene.setting is Setting.SEA and not near and scene.figure not in (*THINGS, Figure.SHIP):
            _rock(pen.stencil, stand, sheet.aspect, dice)
        draw_figure(scene.figure, pen)
        built.figure = _tilted(pen.stencil.mask(), tilt)
        built.lights += [Light(x, y, radius, FIGURE_DEPTH, palette.accent) for x, y, radius in pen.lights]
        if scene.figure is Figure.LIGHTHOUSE and pen.lights:
            built.behind.append(_beam(sheet, pen.lights[0], palette.light, tilt))
    return built


def _tilted(mask: Image.Image, tilt: float) -> Image.Image:
    return mask.rotate(tilt, Image.Resampling.BICUBIC) if tilt else mask


def _rock(stencil: Stencil, stand: Stand, aspect: float, dice: random.Random) -> None:
    width = stand.height * aspect * 0.62
    steps = 14
    outline = [(stand.x - width * 1.5, 1.3)]
    for step in range(steps + 1):
        share = step / steps
        swell = math.sin(math.pi * share) ** 0.55
        outline.append(
            (stand.x + width * (2 * share - 1), stand.foot + 0.10 - 0.115 * swell + dice.uniform(-0.010, 0.012))
        )
    stencil.polygon([*outline, (stand.x + width * 1.5, 1.3)])


def _beam(sheet: Sheet, lamp: tuple[float, float, float], colour: Colour, tilt: float) -> Plane:
    x, y, _ = lamp
    stencil = sheet.stencil()
    for side in (-1, 1):
        stencil.polygon(((x, y - 0.004), (x + side * 1.4, y - 0.20), (x + side * 1.4, y + 0.02), (x, y + 0.004)))
    mask = stencil.mask(blur=0.012)
    across, _ = sheet.grid()
    fade = Image.fromarray((np.clip(0.62 - np.abs(across - x) * 0.62, 0.08, 1) * 255).astype(np.uint8), "L")
    faded = Image.composite(fade.resize(mask.size), Image.new("L", mask.size), mask)
    return Plane(_tilted(faded, tilt), FIGURE_DEPTH, 0.0, colour)


# The backdrop --------------------------------------------------------------------------------------------------------


def _paint_backdrop(site: _Site, look: Look) -> Backdrop:
    palette, scene, sheet = site.palette, site.scene, site.sheet
    across, down = sheet.grid()
    small = (across.shape[1], across.shape[0])
    inside = scene.setting in _INDOORS
    covered = scene.air in (Air.RAIN, Air.FOG, Air.SNOW)

    top, low, sun, light_y, strength = _sky(site)
    share = np.clip((down + 0.05) / max(0.2, site.horizon + 0.05), 0, 1)[..., None]
    share = share * share * (3 - 2 * share)
    picture = _rgb(top) * (1 - share) + _rgb(low) * share

    away = np.sqrt(((across - site.light_x) / sheet.aspect) ** 2 + (down - light_y) ** 2)
    wide = np.exp(-((away / 0.55) ** 2))[..., None] * strength
    picture = picture * (1 - 0.75 * wide) + _rgb(sun) * 0.75 * wide
    core = np.exp(-((away / 0.16) ** 2))[..., None] * strength
    picture = picture * (1 - 0.6 * core) + _rgb(mix(sun, (255, 250, 238), 0.35)) * 0.6 * core

    if not inside and scene.setting is not Setting.SPACE:
        cloud = clouds(small, site.dice, grain=5, stretch=3.4)
        cover = np.clip((cloud - (0.42 if covered else 0.56)) * 2.6, 0, 0.75)[..., None] * np.clip(1.15 - share, 0, 1)
        lit = mix(mix(low, palette.shadow, 0.35), sun, 0.25)
        picture = picture * (1 - cover) + (_rgb(lit) * (0.8 + 0.5 * wide)) * cover
        if scene.hour is Hour.NIGHT and not covered:
            picture += _stars(small, site.dice, 0.0012) * np.clip(1 - share * 1.1, 0, 1) * (1 - cover)
        if not covered:
            disc = 0.042 if scene.hour is Hour.NIGHT else 0.062
            edge = np.clip((disc - away) / 0.0035, 0, 1)[..., None]
            picture = picture * (1 - edge * 0.9) + _rgb(mix(palette.light, (255, 252, 244), 0.4)) * edge * 0.9
    picture = _SPECIALS.get(scene.setting, _as_it_is)(site, picture, across, down)

    if look.rays:
        picture = _shafts(site, picture, across, down, strength=look.rays, light_y=light_y)
    if look.wash:
        picture = _washed(site, picture, away, across, look.wash)
    if look.haze:
        veil = (0.25 + 0.75 * np.clip(1.1 - np.abs(down - site.horizon) * 1.6, 0, 1))[..., None] * look.haze * 0.8
        picture = picture * (1 - veil) + _rgb(mix(palette.haze, palette.light, 0.15)) * veil
    if look.ink:
        grey = picture.mean(axis=2, keepdims=True)
        picture = picture * 0.45 + grey * 0.55
        picture = 255 / (1 + np.exp(-(picture - 105) / 26))
        bars = _bars(site, across, down)[..., None]
        picture = picture * (1 - 0.62 * bars * look.ink)
    noise = np.random.default_rng(site.dice.getrandbits(32))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8), "RGB")
    near = scene.framing in (Framing.CLOSE, Framing.MACRO)
    image = image.resize(sheet.size, Image.Resampling.BICUBIC)
    image = blurred(image, (look.defocus / 100 + (0.010 if near else 0)) * sheet.height)
    # Grain after all else: it keeps smooth skies from banding in eight bits.
    grain = noise.normal(0, 2.0, (sheet.size[1], sheet.size[0], 1)).astype(np.float32)
    grained = np.clip(np.asarray(image, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
    return Backdrop(Image.fromarray(grained, "RGB"), site.light_x, light_y)


def _sky(site: _Site) -> tuple[Colour, Colour, Colour, float, float]:
    """Colours of the zenith, the horizon and the light, the light's height, and its strength."""
    palette, horizon = site.palette, site.horizon
    if site.scene.setting in _INDOORS:
        return (
            mix(palette.shadow, palette.deep, 0.6), mix(palette.deep, palette.middle, 0.35),
            mix(palette.accent, palette.light, 0.35), 0.36, 0.55,
        )  # fmt: skip
    if site.scene.setting is Setting.SPACE:
        return palette.shadow, mix(palette.shadow, palette.deep, 0.7), palette.accent, 0.30, 0.35
    covered = 0.6 if site.scene.air in (Air.RAIN, Air.FOG, Air.SNOW) else 1.0
    match site.scene.hour:
        case Hour.NIGHT:
            return (
                mix(palette.shadow, palette.deep, 0.35), mix(palette.deep, palette.middle, 0.62),
                mix(palette.haze, palette.light, 0.55), horizon * 0.36, 0.55 * covered,
            )  # fmt: skip
        case Hour.DAY:
            return (
                mix(palette.middle, palette.haze, 0.25), mix(palette.haze, palette.light, 0.55),
                palette.light, horizon * 0.30, 0.8 * covered,
            )  # fmt: skip
        case Hour.DAWN:
            return (
                mix(palette.deep, palette.middle, 0.7), mix(palette.haze, palette.light, 0.45),
                mix(palette.accent, palette.light, 0.5), horizon - 0.10, 0.95 * covered,
            )  # fmt: skip
        case Hour.DUSK:
            return (
                mix(palette.deep, palette.middle, 0.30), mix(palette.middle, palette.accent, 0.55),
                mix(palette.accent, palette.light, 0.30), horizon - 0.07, 1.0 * covered,
            )  # fmt: skip


def _rgb(colour: Colour) -> Field:
    return np.asarray(colour, dtype=np.float32)


def _stars(size: tuple[int, int], dice: random.Random, density: float) -> Field:
    noise = np.random.default_rng(dice.getrandbits(32))
    points = noise.random((size[1], size[0]), dtype=np.float32)
    bright = np.where(points < density, 90 + 165 * noise.random(points.shape, dtype=np.float32) ** 2, 0)
    return bright.astype(np.float32)[..., None]


def _shafts(site: _Site, picture: Field, across: Field, down: Field, *, strength: float, light_y: float) -> Field:
    """Shafts of light from the backdrop's light downwards, as fog makes them visible."""
    angle = np.arctan2((across - site.light_x) / site.aspect, down - light_y + 0.25)
    rays = np.zeros_like(across)
    for count in (9, 17, 31):
        rays += np.cos(angle * count + site.dice.uniform(0, 6.28)) / 3
    away = np.sqrt(((across - site.light_x) / site.aspect) ** 2 + (down - light_y) ** 2)
    shine = np.clip(rays, 0, 1) * np.exp(-away / 0.9) * np.clip(1.2 - np.abs(angle) / 1.6, 0, 1) * strength
    return picture * (1 - 0.6 * shine[..., None]) + _rgb(site.palette.light) * 0.6 * shine[..., None]


def _washed(site: _Site, picture: Field, away: Field, across: Field, strength: float) -> Field:
    """Coloured air: the accent around the light, and its complement on the other side."""
    accent = site.palette.accent
    other = mix(mix((255 - accent[0], 255 - accent[1], 255 - accent[2]), site.palette.middle, 0.45), (0, 0, 0), 0.15)
    warm = np.exp(-((away / 0.75) ** 2))[..., None] * strength
    cold = np.clip(np.abs(across - site.light_x) * 1.5 - 0.35, 0, 1)[..., None] * strength * 0.8
    bright = picture.mean(axis=2, keepdims=True) / 255
    picture = picture * (1 - warm) + _rgb(accent) * (0.35 + 1.1 * bright) * warm
    washed: Field = picture * (1 - cold) + _rgb(other) * (0.25 + 1.3 * bright) * cold
    return washed


def _bars(site: _Site, across: Field, down: Field) -> Field:
    """Slanting shadows, as of blinds, over the side that is away from the light."""
    slope = 0.30 if site.light_x < 0.5 else -0.30  # noqa: PLR2004 - the side of the light
    stripe = np.sin((down + across * slope) * 34)
    side = np.clip(np.abs(across - site.light_x) * 1.9 - 0.25, 0, 1)
    bars: Field = np.clip(stripe * 4, 0, 1) * side
    return bars


def _as_it_is(_site: _Site, picture: Field, _across: Field, _down: Field) -> Field:
    return picture


def _sea_surface(site: _Site, picture: Field, across: Field, down: Field) -> Field:
    palette = site.palette
    depth = np.clip((down - site.horizon) / 0.4, 0, 1)[..., None]
    below = (down > site.horizon)[..., None]
    water = _rgb(mix(palette.middle, palette.deep, 0.35)) * (1 - depth) + _rgb(palette.shadow) * depth
    ripples = clouds((across.shape[1], across.shape[0]), site.dice, grain=58, stretch=5, octaves=2)
    path = np.exp(-(((across - site.light_x) / (0.035 + 0.20 * depth[..., 0])) ** 2))
    glitter = np.clip((ripples - 0.50) * 4.5, 0, 1) * (0.10 + 0.90 * path)
    glitter *= np.clip(1.2 - depth[..., 0], 0, 1)
    water = water * (0.88 + 0.24 * ripples[..., None])
    water = (
        water * (1 - 0.7 * glitter[..., None])
        + _rgb(mix(palette.light, palette.accent, 0.3)) * 0.7 * glitter[..., None]
    )
    edge = np.clip((down - site.horizon) / 0.004, 0, 1)[..., None]
    return np.where(below, picture * (1 - edge) + water * edge, picture)


def _deep_space(site: _Site, picture: Field, across: Field, down: Field) -> Field:
    palette = site.palette
    size = (across.shape[1], across.shape[0])
    cloud = np.clip(clouds(size, site.dice, grain=3, stretch=1.6, octaves=5) * 1.7 - 0.72, 0, 1)[..., None]
    other = np.clip(clouds(size, site.dice, grain=4, stretch=1.3, octaves=5) * 1.8 - 0.95, 0, 1)[..., None]
    picture = picture + _rgb(palette.middle) * cloud * 0.75 + _rgb(palette.accent) * other * 0.45
    picture = picture + _stars(size, site.dice, 0.0035) + _stars(size, site.dice, 0.0006) * 0.8
    # A planet, lit from the side of the light.
    x, y, radius = 1.02 - site.light_x, site.dice.uniform(0.60, 0.80), site.dice.uniform(0.34, 0.52)
    dx, dy = (across - x) / site.aspect / radius, (down - y) / radius
    inside = np.clip((1 - np.sqrt(dx**2 + dy**2)) * radius / 0.004, 0, 1)[..., None]
    height = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    towards = -0.75 if site.light_x < x else 0.75
    lit = np.clip(dx * towards - dy * 0.45 + height * 0.25, 0, 1)[..., None]
    bands = clouds(size, site.dice, grain=18, stretch=7, octaves=3)[..., None]
    ball = _rgb(palette.shadow) * 0.6 + (_rgb(palette.haze) * (0.6 + 0.6 * bands)) * lit
    rim = (
        np.exp(-(((np.sqrt(dx**2 + dy**2) - 1) / 0.05) ** 2))[..., None]
        * np.clip(dx * towards - dy * 0.45 + 0.4, 0, 1)[..., None]
    )
    picture = picture * (1 - inside) + ball * inside
    return picture * (1 - 0.7 * rim) + _rgb(palette.light) * 0.7 * rim


def _lit_wall(site: _Site, picture: Field, across: Field, down: Field) -> Field:
    """A wall with a tall window, its light on the floor."""
    palette = site.palette
    plaster = clouds((across.shape[1], across.shape[0]), site.dice, grain=9, stretch=1.5)[..., None]
    picture = picture * (0.82 + 0.30 * plaster)
    floor = np.clip((down - site.horizon) / 0.02, 0, 1)[..., None]
    boards = 0.8 + 0.2 * np.clip(np.cos((across - 0.5) / np.clip(down - site.horizon + 0.12, 0.05, 2) * 9) * 3, -1, 1)
    picture = picture * (1 - floor) + (_rgb(mix(palette.deep, palette.shadow, 0.35)) * boards[..., None]) * floor
    left, right, top, bottom = site.light_x - 0.085, site.light_x + 0.085, 0.12, site.horizon - 0.10
    dx = np.clip(np.maximum(left - across, across - right), 0, 2) / site.aspect
    dy = np.clip(np.maximum(top - down, down - bottom), 0, 2)
    spill = np.exp(-((np.sqrt(dx**2 + dy**2) / 0.14) ** 2))[..., None]
    picture = picture * (1 - 0.5 * spill) + _rgb(mix(palette.accent, palette.light, 0.4)) * 0.5 * spill
    pane = ((dx <= 0) & (dy <= 0)).astype(np.float32)
    cross = (np.abs(across - site.light_x) < 0.003) | (np.abs((down - top) % ((bottom - top) / 4)) < 0.006)  # noqa: PLR2004 - the width of a glazing bar
    pane = pane * np.where(cross, 0.15, 1.0)
    outside = (
        _rgb(mix(palette.light, (255, 250, 240), 0.35))
        * (0.72 + 0.28 * np.clip((bottom - down) / (bottom - top), 0, 1))[..., None]
    )
    picture = picture * (1 - pane[..., None]) + outside * pane[..., None]
    lean = 0.55 if site.light_x < 0.5 else -0.55  # noqa: PLR2004 - the light falls into the room
    fallen = np.abs(across - site.light_x - lean * (down - site.horizon) - lean * 0.15)
    patch = (
        np.clip((0.10 - fallen) / 0.02, 0, 1)
        * np.clip((down - site.horizon) / 0.03, 0, 1)
        * np.clip((site.horizon + 0.30 - down) / 0.1, 0, 1)
    )
    return picture + _rgb(palette.accent) * 0.42 * patch[..., None]


def _vanishing_light(site: _Site, picture: Field, across: Field, down: Field) -> Field:
    palette = site.palette
    away = np.sqrt(((across - 0.5) / site.aspect) ** 2 + ((down - site.horizon + 0.10) * 0.8) ** 2)
    glow = np.exp(-((away / 0.30) ** 2))[..., None]
    core = np.exp(-((away / 0.10) ** 2))[..., None]
    picture = picture * (1 - 0.75 * glow) + _rgb(mix(palette.haze, palette.accent, 0.45)) * 0.75 * glow
    picture = picture * (1 - 0.8 * core) + _rgb(palette.light) * 0.8 * core
    floor = np.clip((down - site.horizon) / 0.3, 0, 1)[..., None]
    shine = np.exp(-(((across - 0.5) / (0.05 + 0.25 * floor[..., 0])) ** 2))[..., None]
    return picture * (1 - 0.55 * floor) + _rgb(palette.accent) * 0.18 * floor * shine


_SPECIALS: Mapping[Setting, Callable[[_Site, Field, Field, Field], Field]] = {
    Setting.SEA: _sea_surface,
    Setting.SPACE: _deep_space,
    Setting.ROOM: _lit_wall,
    Setting.HALL: _vanishing_light,
    Setting.WORKS: _vanishing_light,
}


# The planes ----------------------------------------------------------------------------------------------------------


def _sea(site: _Site) -> None:
    dice, horizon = site.dice, site.horizon
    land = site.plane(0.30, 0.22)
    side = 1 if site.light_x < 0.5 else 0  # noqa: PLR2004 - land lies away from the light
    start = [(side + (1 if side else -1) * MARGIN_X, horizon + 0.004)]
    for step in range(12):
        share = step / 11
        x = side - (1 if side else -1) * share * 0.42 + (1 if side else -1) * MARGIN_X * (1 - share)
        start.append((x, horizon + 0.004 - 0.085 * (1 - share) ** 0.8 * dice.uniform(0.7, 1.1)))
    land.polygon([*start, (side - (1 if side else -1) * 0.44, horizon + 0.006)])
    for depth, level, height, tone in ((0.62, 0.13, 0.012, 0.55), (0.85, 0.22, 0.02, 0.72)):
        wave = site.plane(depth, tone)
        phase = dice.uniform(0, 6)
        crest = [
            (
                x,
                horizon + level - height * (abs(math.sin(x * 9 / depth + phase)) + 0.5 * math.sin(x * 23 + phase * 2)),
            )
            for x in (_LEFT + (_RIGHT - _LEFT) * step / 140 for step in range(141))
        ]
        wave.polygon([*crest, (_RIGHT, 1.5), (_LEFT, 1.5)])
    rocks = site.plane(1.55, 1.0)
    for side_x in (dice.uniform(-0.08, 0.06), dice.uniform(0.94, 1.08)):
        for _ in range(4):
            x, size = side_x + dice.uniform(-0.10, 0.10), dice.uniform(0.05, 0.13)
            rocks.polygon(
                [
                    (
                        x + size * site.aspect * 1.5 * math.cos(a) * dice.uniform(0.8, 1.2),
                        1.02 - size * math.sin(a) * dice.uniform(0.8, 1.2),
                    )
                    for a in (math.pi * step / 7 for step in range(8))
                ]
                + [(x - 0.1, 1.4), (x + 0.1, 1.4)]
            )
        rocks.box(side_x - 0.15, 1.01, side_x + 0.15, 1.4)


def _city(site: _Site) -> None:
    dice, ground = site.dice, site.horizon + 0.14
    for depth, tone, width, low, high in ((0.32, 0.25, 0.055, 0.16, 0.40), (0.58, 0.58, 0.085, 0.10, 0.52)):
        row = site.plane(depth, tone)
        row.box(_LEFT, ground - 0.04, _RIGHT, 1.5)
        x = _LEFT
        while x < _RIGHT:
            across = width * dice.uniform(0.6, 1.5)
            # The middle of the nearer row stays low: there the sky is seen, and the figure.
            room = 1.0 if tone < 0.5 else min(1.0, 0.25 + abs(x + across / 2 - 0.5) * 2.2)  # noqa: PLR2004 - the nearer row
            top = ground - dice.uniform(low, high) * room
            row.box(x, top, x + across * 0.94, 1.5)
            match dice.randrange(4):
                case 0:
                    row.line(((x + across * 0.5, top), (x + across * 0.5, top - 0.07)), 0.004)
                case 1:
                    row.box(x + across * 0.2, top - 0.025, x + across * 0.6, top)
                case 2:
                    row.polygon(((x, top), (x + across * 0.47, top - 0.045), (x + across * 0.94, top)))
                case _:
                    pass
            self_lit = dice.uniform(0.10, 0.42)
            pitch_x, pitch_y = 0.011, 0.026
            for column in range(1, int(across * 0.9 / pitch_x)):
                for line in range(1, int((ground - top) / pitch_y)):
                    if dice.random() < self_lit:
                        left, up = x + column * pitch_x, top + line * pitch_y
                        row.box(left, up, left + pitch_x * 0.45, up + pitch_y * 0.45, cut=True)
                        if tone > 0.5 and dice.random() < 0.035:  # noqa: PLR2004 - a few windows of the nearer row glow
                            site.lamp(left + pitch_x * 0.2, up + pitch_y * 0.2, 0.030, depth)
            x += across
    street = site.plane(0.9, 0.80)
    street.box(_LEFT, ground + 0.055, _RIGHT, 1.5)
    near = site.plane(1.6, 1.0)
    post = 0.07 if site.light_x > 0.5 else 0.93  # noqa: PLR2004 - away from the light
    turn = 1 if post < 0.5 else -1  # noqa: PLR2004 - its arm reaches into the picture
    near.line(((post, 1.4), (post, 0.17), (post + turn * 0.035, 0.125)), 0.014)
    near.line(((post + turn * 0.03, 0.125), (post + turn * 0.075, 0.125)), 0.022)
    site.lamp(post + turn * 0.06, 0.15, 0.20, 1.6)
    near.line(((_LEFT, 0.03), (0.5, 0.085), (_RIGHT, 0.02)), 0.004)
    near.line(((_LEFT, 0.09), (0.5, 0.13), (_RIGHT, 0.055)), 0.003)


def _forest(site: _Site) -> None:
    dice, ground = site.dice, site.horizon + 0.12
    for depth, tone, count, thick in ((0.30, 0.22, 26, 0.012), (0.50, 0.45, 16, 0.022)):
        trunks = site.plane(depth, tone)
        trunks.polygon(ridge(dice, ground - 0.01, 0.03, rough=0.3))
        for _ in range(count):
            x = dice.uniform(_LEFT, _RIGHT)
            lean = dice.uniform(-0.02, 0.02)
            width = thick * dice.uniform(0.6, 1.4) * site.aspect
            trunks.polygon(
                (
                    (x - width, ground + 0.05),
                    (x - width * 0.6 + lean, -0.25),
                    (x + width * 0.6 + lean, -0.25),
                    (x + width, ground + 0.05),
                )
            )
            for _ in range(3):
                y = dice.uniform(0.0, 0.45)
                reach = dice.choice((-1, 1)) * dice.uniform(0.03, 0.08)
                trunks.line(((x + lean * (1 - y), y), (x + reach, y - dice.uniform(0.03, 0.08))), thick * 0.35)
    firs = site.plane(0.78, 0.68)
    firs.polygon(ridge(dice, ground + 0.05, 0.04, rough=0.4))
    for x in (dice.uniform(-0.15, 0.04), dice.uniform(0.06, 0.22), dice.uniform(0.78, 0.94), dice.uniform(0.96, 1.15)):
        tall = dice.uniform(0.42, 0.75)
        for tier in range(7):
            y = ground + 0.08 - tall * tier / 7.5
            reach = (0.15 - tier * 0.018) * tall * site.aspect * 1.6
            firs.polygon(
                (
                    (x - reach, y),
                    (x, y - tall * 0.30),
                    (x + reach, y),
                    (x + reach * 0.4, y - 0.012),
                    (x - reach * 0.4, y - 0.012),
                )
            )
    near = site.plane(1.6, 1.0)
    near.polygon(ridge(dice, 1.0, 0.05, rough=0.6))
    for x, width in ((dice.uniform(-0.06, 0.02), 0.10), (dice.uniform(0.98, 1.06), 0.08)):
        near.polygon(
            (
                (x - width * 0.7, 1.4),
                (x - width * 0.42, 0.5),
                (x - width * 0.5, -0.3),
                (x + width * 0.45, -0.3),
                (x + width * 0.36, 0.55),
                (x + width * 0.7, 1.4),
            )
        )
        for _ in range(3):
            y, reach = dice.uniform(0.0, 0.25), (1 if x < 0.5 else -1) * dice.uniform(0.12, 0.26)  # noqa: PLR2004 - into the picture
            near.line(((x, y + 0.10), (x + reach * 0.6, y + 0.02), (x + reach, y - 0.05)), 0.016)
            for leaf in range(7):
                near.disc(
                    x + reach * (0.5 + leaf * 0.09),
                    y + 0.02 - leaf * 0.010 + dice.uniform(-0.03, 0.03),
                    dice.uniform(0.012, 0.026),
                )


def _mountain(site: _Site) -> None:
    dice, horizon = site.dice, site.horizon
    site.plane(0.22, 0.20).polygon(ridge(dice, horizon - 0.03, 0.30, rough=0.9, lumps=5))
    site.plane(0.42, 0.45).polygon(ridge(dice, horizon + 0.04, 0.20, rough=0.85, lumps=7))
    site.plane(0.72, 0.66).polygon(ridge(dice, horizon + 0.12, 0.09, rough=0.6, lumps=6))
    site.plane(0.95, 0.84).polygon(ridge(dice, horizon + 0.20, 0.035, rough=0.5))
    site.plane(1.6, 1.0).polygon(ridge(dice, 1.0, 0.10, rough=0.8, lumps=4))


def _desert(site: _Site) -> None:
    dice, horizon = site.dice, site.horizon
    site.plane(0.22, 0.18).polygon(ridge(dice, horizon - 0.01, 0.07, rough=0.2, lumps=3))
    site.plane(0.45, 0.34).polygon(ridge(dice, horizon + 0.05, 0.09, rough=0.0, lumps=3))
    site.plane(0.72, 0.52).polygon(ridge(dice, horizon + 0.13, 0.09, rough=0.0, lumps=2))
    site.plane(0.95, 0.70).polygon(ridge(dice, horizon + 0.21, 0.06, rough=0.0, lumps=2))
    near = site.plane(1.6, 1.0)
    near.polygon(ridge(dice, 1.03, 0.07, rough=0.1, lumps=3))
    _grass(near, dice, 26, 0.10)


def _hills(site: _Site) -> None:
    dice, horizon = site.dice, site.horizon
    site.plane(0.22, 0.20).polygon(ridge(dice, horizon - 0.02, 0.12, rough=0.25, lumps=4))
    site.plane(0.45, 0.42).polygon(ridge(dice, horizon + 0.05, 0.10, rough=0.2, lumps=4))
    third = site.plane(0.72, 0.62)
    third.polygon(ridge(dice, horizon + 0.13, 0.06, rough=0.2, lumps=3))
    site.plane(0.95, 0.80).polygon(ridge(dice, horizon + 0.21, 0.04, rough=0.2, lumps=2))
    near = site.plane(1.6, 1.0)
    near.polygon(ridge(dice, 1.03, 0.05, rough=0.4))
    _grass(near, dice, 90, 0.16)


def _grass(near: Stencil, dice: random.Random, count: int, tall: float) -> None:
    for _ in range(count):
        x = dice.uniform(_LEFT, _RIGHT)
        side = abs(x - 0.5) * 1.5 + 0.25
        height, lean = tall * dice.uniform(0.4, 1.0) * side, dice.uniform(-0.03, 0.03)
        near.polygon(((x - 0.0025, 1.1), (x + lean, 1.0 - height), (x + 0.0025, 1.1)))


def _room(site: _Site) -> None:
    dice, floor = site.dice, site.horizon
    away = 0.78 if site.light_x < 0.5 else 0.22  # noqa: PLR2004 - furniture stands away from the window
    shelf = site.plane(0.55, 0.62)
    left, right, top = away - 0.13, away + 0.13, floor - 0.44
    shelf.box(left, top, right, floor + 0.02)
    for board in range(4):
        y = top + 0.02 + board * 0.11
        shelf.box(left + 0.008, y, right - 0.008, y + 0.09, cut=True)
        x = left + 0.012
        while x < right - 0.02:
            width = dice.uniform(0.005, 0.013)
            tall = dice.uniform(0.045, 0.08)
            if dice.random() < 0.86:  # noqa: PLR2004 - a gap here and there
                shelf.box(x, y + 0.09 - tall, x + width, y + 0.09)
            x += width + 0.0015
    table = site.plane(0.8, 0.80)
    middle = 1 - away + (0.06 if away > 0.5 else -0.06)  # noqa: PLR2004 - the table stands under the window
    table.box(middle - 0.15, floor + 0.06, middle + 0.15, floor + 0.085)
    for x in (middle - 0.135, middle + 0.125):
        table.box(x, floor + 0.08, x + 0.012, floor + 0.30)
    table.polygon(
        (
            (middle - 0.035, floor + 0.06),
            (middle - 0.018, floor - 0.005),
            (middle + 0.022, floor - 0.005),
            (middle + 0.04, floor + 0.06),
        )
    )
    table.box(middle + 0.07, floor + 0.005, middle + 0.092, floor + 0.06)
    near = site.plane(1.55, 1.0)
    edge = _LEFT if away < 0.5 else _RIGHT  # noqa: PLR2004 - the frame of a door on the dark side
    inner = 0.05 if edge < 0 else 0.95
    near.box(min(edge, inner), -0.3, max(edge, inner), 1.4)
    near.polygon(((_LEFT, -0.3), (_RIGHT, -0.3), (_RIGHT, 0.0), (_LEFT, 0.03)))
    bulb = 0.5 + (0.12 if away < 0.5 else -0.12)  # noqa: PLR2004 - the lamp hangs on the free side
    near.line(((bulb, -0.3), (bulb, 0.13)), 0.004)
    near.polygon(((bulb - 0.028, 0.17), (bulb - 0.010, 0.125), (bulb + 0.010, 0.125), (bulb + 0.028, 0.17)))
    site.lamp(bulb, 0.185, 0.16, 1.55)


def _hall(site: _Site) -> None:
    dice, floor = site.dice, site.horizon
    shelves = dice.random() < 0.5  # noqa: PLR2004 - a coin: shelves or columns
    for depth, tone, reach in ((0.30, 0.34, 0.13), (0.48, 0.50, 0.19), (0.72, 0.68, 0.28), (0.98, 0.84, 0.40)):
        frame = site.plane(depth, tone)
        height = reach * 1.28
        foot = floor + reach * 0.34
        frame.box(_LEFT, -0.4, _RIGHT, foot)
        arch = [(0.5 - reach, foot)]
        arch += [
            (0.5 - reach * math.cos(a), floor - height * 0.62 - height * 0.55 * math.sin(a))
            for a in (math.pi * step / 20 for step in range(21))
        ]
        frame.polygon([*arch, (0.5 + reach, foot)], cut=True)
        frame.polygon(
            (
                (_LEFT, foot - 0.002),
                (0.5 - reach, foot - 0.002),
                (0.5 - reach * 1.08, foot + 0.015),
                (_LEFT, foot + 0.25),
            )
        )
        frame.polygon(
            (
                (_RIGHT, foot - 0.002),
                (0.5 + reach, foot - 0.002),
                (0.5 + reach * 1.08, foot + 0.015),
                (_RIGHT, foot + 0.25),
            )
        )
        for side in (-1, 1):
            if shelves:
                for board in range(6):
                    y = foot - reach * 0.15 - board * reach * 0.24
                    frame.box(0.5 + side * reach * 1.10, y, 0.5 + side * reach * 1.34, y + reach * 0.15, cut=True)
                    for _ in range(5):
                        x = 0.5 + side * reach * dice.uniform(1.11, 1.32)
                        frame.box(x, y + reach * 0.15 * dice.uniform(0, 0.4), x + reach * 0.03, y + reach * 0.155)
            else:
                column = 0.5 + side * reach * 1.02
                frame.box(column - reach * 0.07, floor - height, column + reach * 0.07, foot + 0.02)
                frame.box(column - reach * 0.11, foot - reach * 0.03, column + reach * 0.11, foot + reach * 0.05)
        if depth < 0.9:  # noqa: PLR2004 - the nearest arch has no lamp: it would hang before the slate
            y = floor - height * 0.66
            frame.line(((0.5, floor - height * 1.3), (0.5, y)), 0.003)
            frame.disc(0.5, y, reach * 0.035)
            site.lamp(0.5, y, reach * 0.55, depth)
    near = site.plane(1.5, 1.0)
    for x in (-0.06, 1.06):
        near.box(x - 0.12, -0.4, x + 0.12, 1.5)


def _space(site: _Site) -> None:
    dice = site.dice
    # Small ones fly on both sides of the picture, the large ones above and below it, clear of the figure.
    small, large = ((0.0, 0.5), (0.5, 1.05)), ((-0.10, 0.0), (0.98, 1.10))
    for depth, tone, count, size, heights in (
        (0.45, 0.55, 9, 0.022, small), (0.8, 0.80, 5, 0.05, small), (1.6, 1.0, 3, 0.15, large),
    ):  # fmt: skip
        belt = site.plane(depth, tone)
        for _ in range(count):
            x = dice.choice((dice.uniform(-0.2, 0.28), dice.uniform(0.72, 1.2)))
            y = dice.uniform(*dice.choice(heights))
            radius = size * dice.uniform(0.6, 1.4)
            belt.polygon(
                [
                    (
                        x + radius * site.aspect * math.cos(a) * dice.uniform(0.7, 1.15),
                        y + radius * 0.8 * math.sin(a) * dice.uniform(0.7, 1.15),
                    )
                    for a in (2 * math.pi * step / 13 for step in range(13))
                ]
            )


def _works(site: _Site) -> None:
    dice, floor = site.dice, site.horizon + 0.15
    tanks = site.plane(0.35, 0.36)
    tanks.box(_LEFT, floor - 0.02, _RIGHT, 1.5)
    for _ in range(9):
        x, width, top = dice.uniform(_LEFT, _RIGHT), dice.uniform(0.03, 0.07), dice.uniform(0.15, 0.42)
        tanks.box(x - width, top, x + width, floor)
        tanks.disc(x, top, width / site.aspect, flat=0.35)
        tanks.line(((x, top), (x, top - 0.2), (x + 0.15, top - 0.2)), 0.010)
    gears = site.plane(0.68, 0.62)
    gears.box(_LEFT, floor + 0.03, _RIGHT, 1.5)
    for x in (dice.uniform(-0.05, 0.14), dice.uniform(0.20, 0.28), dice.uniform(0.76, 0.84), dice.uniform(0.90, 1.06)):
        height = dice.uniform(0.22, 0.46)
        wheel = Pen(gears, site.sheet, Stand(x, floor + 0.06 - dice.uniform(0, 0.2), height))
        draw_figure(Figure.GEAR, wheel)
    for x in (0.16, 0.30, 0.71, 0.88):
        site.lamp(x + dice.uniform(-0.03, 0.03), floor - dice.uniform(0.02, 0.25), 0.06, 0.68)
    site.plane(0.92, 0.84).box(_LEFT, floor + 0.10, _RIGHT, 1.5)
    near = site.plane(1.55, 1.0)
    near.line(((_LEFT, 0.03), (_RIGHT, 0.05)), 0.05)
    near.line(((_LEFT, 0.11), (0.2, 0.11), (0.24, 0.06), (_RIGHT, 0.08)), 0.014)
    for x in (-0.02, 1.03):
        near.box(x - 0.05, -0.3, x + 0.035, 1.4)
    for _ in range(4):
        x = dice.uniform(0.1, 0.9)
        sag = dice.uniform(0.10, 0.24)
        near.line([(x + (step / 16 - 0.5) * 0.34, 0.03 + sag * (1 - (step / 8 - 1) ** 2)) for step in range(17)], 0.005)


_BUILDERS: Mapping[Setting, Callable[[_Site], None]] = {
    Setting.SEA: _sea,
    Setting.CITY: _city,
    Setting.FOREST: _forest,
    Setting.MOUNTAIN: _mountain,
    Setting.DESERT: _desert,
    Setting.ROOM: _room,
    Setting.HALL: _hall,
    Setting.SPACE: _space,
    Setting.WORKS: _works,
    Setting.HILLS: _hills,
}
