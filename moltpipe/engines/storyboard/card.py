"""The storyboard card of a shot: every frame of it.

Here: how planes, figure, air and slate are laid over one another at each moment. Not here: what they show
(`sets`, `figures`, `slate`), where the camera goes (`moves`), encoding (`media.reel`).

Speed comes from drawing once and moving afterwards. Silhouettes are kept as one-channel masks over a paint that
belongs to the screen, since Pillow resamples one channel in half the time of three; and a layer that has moved
by less than can be seen is not resampled at all.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from moltpipe.engines.protocols import TakeRequest
from moltpipe.engines.storyboard import ink
from moltpipe.engines.storyboard.ink import MARGIN_X, MARGIN_Y, Sheet
from moltpipe.engines.storyboard.looks import Look, look_of
from moltpipe.engines.storyboard.moves import Gesture, View, gesture, move_of, through
from moltpipe.engines.storyboard.palette import Colour, mix, palette_of
from moltpipe.engines.storyboard.sets import FIGURE_DEPTH, Light, Plane, build_set
from moltpipe.engines.storyboard.slate import slate
from moltpipe.engines.storyboard.vocabulary import Air, Figure, Framing, Scene, Setting, read_scene

_BACKDROP_DEPTH = 0.26
_PAINTED_DEPTH = 0.5
"""Planes up to this depth are painted on the backdrop: they would hardly move against it."""
_UNSEEN_PX = 0.5
"""A backdrop that moved by less is left where it was."""
_UNSEEN_EDGE_PX = 0.12
"""The same for planes, which are nearer and sharper."""
_GLOW_STEPS = 12


@dataclass(frozen=True)
class _Place:
    """Where a sheet lies on the screen: x and y of its left upper corner in pixels, and how much larger it is."""

    x: float
    y: float
    zoom: float

    def moved(self, other: _Place, sheet: tuple[int, int]) -> float:
        """The farthest way of any corner, in pixels."""
        right = abs(self.x - other.x + (self.zoom - other.zoom) * sheet[0])
        lower = abs(self.y - other.y + (self.zoom - other.zoom) * sheet[1])
        return max(abs(self.x - other.x), abs(self.y - other.y), right, lower)


@dataclass(frozen=True)
class _Seen:
    """A layer as it lies on the screen: a mask with its left upper corner, and the row below which all is covered."""

    mask: Image.Image
    corner: tuple[int, int]
    covered_from: int


class _Layer:
    """A mask on a sheet over a paint of the picture's size.

    Most planes are a line of hills or roofs with nothing above and everything below: only the rows in between are
    resampled and blended.
    """

    def __init__(self, mask: Image.Image, depth: float, paint: Image.Image | Colour, sheet: Sheet) -> None:
        self._sheet = sheet
        self.depth = depth
        self._paint = paint
        left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
        open_rows = np.flatnonzero(np.asarray(mask).min(axis=1) < 255)  # noqa: PLR2004 - the fullest level of a mask
        self._full_from = int(open_rows[-1]) + 1 if open_rows.size else 0
        self._box = (max(0, left - 2), max(0, top - 2), min(mask.width, right + 2), min(bottom + 2, self._full_from))
        self._full = self._full_from < mask.height
        self._mask = mask.crop(self._box)
        self._last: tuple[_Place, _Seen] | None = None

    def seen(self, place: _Place) -> tuple[_Seen, bool]:
        """The layer at a place, and whether that is another than before."""
        if self._last is not None and self._last[0].moved(place, self._sheet.size) < _UNSEEN_EDGE_PX:
            return self._last[1], False
        seen = self._resampled(place)
        self._last = (place, seen)
        return seen, True

    def lay(self, screen: Image.Image, seen: _Seen) -> None:
        """Paint through the mask, and all that lies below it."""
        mask, (x, y) = seen.mask, seen.corner
        box = (x, y, x + mask.width, y + mask.height)
        screen.paste(self._paint.crop(box) if isinstance(self._paint, Image.Image) else self._paint, box, mask)
        if seen.covered_from < screen.height:
            rest = (0, seen.covered_from, screen.width, screen.height)
            screen.paste(self._paint.crop(rest) if isinstance(self._paint, Image.Image) else self._paint, rest)

    def _resampled(self, place: _Place) -> _Seen:
        left = place.x + self._box[0] * place.zoom
        top = place.y + self._box[1] * place.zoom
        width, height = self._sheet.width, self._sheet.height
        mask, corner = _resampled(self._mask, left, top, place.zoom, (width, height))
        covered = math.floor(top + self._mask.height * place.zoom) if self._full else height
        return _Seen(mask, corner, min(height, max(0, covered)))


def _resampled(
    image: Image.Image, left: float, top: float, zoom: float, screen: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int]]:
    """The part of an image that the screen shows when it lies at a place there, and the corner of that part."""
    from_x, to_x = max(0, math.ceil(left)), min(screen[0], math.floor(left + image.width * zoom))
    from_y, to_y = max(0, math.ceil(top)), min(screen[1], math.floor(top + image.height * zoom))
    if from_x >= to_x or from_y >= to_y:
        return Image.new(image.mode, (1, 1)), (0, 0)
    box = ((from_x - left) / zoom, (from_y - top) / zoom, (to_x - left) / zoom, (to_y - top) / zoom)
    box = (max(0.0, box[0]), max(0.0, box[1]), min(image.width, box[2]), min(image.height, box[3]))
    return image.resize((to_x - from_x, to_y - from_y), Image.Resampling.BILINEAR, box=box), (from_x, from_y)


@dataclass(frozen=True)
class _Drift:
    """How the air moves: flakes per picture, way per second in shares, radius as a length, and how much they cover."""

    count: int
    across: float
    down: float
    radius: float
    cover: float
    wander: float = 0.0
    streak: float = 0.0


_DRIFTS: Mapping[Air, _Drift] = {
    Air.CLEAR: _Drift(14, 0.006, -0.004, 0.0022, 0.35, wander=0.01),
    Air.RAIN: _Drift(110, -0.16, 1.5, 0.001, 0.42, streak=0.045),
    Air.SNOW: _Drift(80, 0.02, 0.11, 0.0045, 0.75, wander=0.015),
    Air.FOG: _Drift(10, 0.01, -0.004, 0.0022, 0.25, wander=0.01),
    Air.EMBERS: _Drift(46, 0.03, -0.14, 0.0032, 0.9, wander=0.02),
    Air.DUST: _Drift(46, 0.012, -0.008, 0.0026, 0.55, wander=0.012),
    Air.FIREFLIES: _Drift(26, 0.008, -0.012, 0.0055, 0.9, wander=0.035),
}
_THICK = _Drift(64, 0.035, -0.020, 0.0032, 0.65, wander=0.02)
"""What the motion term `particle_drift` asks for in clear air."""


class Card:
    """A shot as a moving storyboard card."""

    def __init__(self, request: TakeRequest) -> None:
        self._request = request
        self._sheet = Sheet(request.width, request.height)
        self._look = look_of(request.style_suffix, request.variant_number)
        self._move = move_of(request.prompt.camera)
        self._motion = request.prompt.motion or ""
        self._scene = scene_of(request)
        self.frame_count = max(1, round(request.seconds * request.rate))
        # Takes and variants of a shot share its set: a variant is another look at the same place, a new take of
        # another seed only moves what is in the air.
        dice = random.Random(_place_seed(request))  # noqa: S311 - it draws pictures, it guards nothing
        self._air_dice = random.Random(request.seed)  # noqa: S311 - likewise
        palette = palette_of(request.poster.palette, request.poster.style)
        self._palette = palette.mapped(saturation=self._look.saturation)
        self._set = build_set(
            self._sheet, self._scene, self._palette, self._look, dice, horizon=self._move.horizon, tilt=self._move.tilt
        )
        self._dress()
        self._strips = slate(request, palette)

    # Building ---------------------------------------------------------------------------------------------------------

    def _dress(self) -> None:
        """Turn the set into layers: paints are made here once, for the whole shot."""
        sheet, built = self._sheet, self._set
        vignette = _vignette(sheet, 0.55 if self._look.ink else 0.40)
        painted = [plane for plane in built.behind if plane.depth <= _PAINTED_DEPTH]
        self._backdrop = _shaded(self._painted_backdrop(built.backdrop.image, painted), vignette, sheet)
        self._backdrop_last: tuple[_Place, Image.Image] | None = None
        self._plate: Image.Image | None = None
        self._behind = [self._plane_layer(plane, vignette) for plane in built.behind if plane not in painted]
        self._before = [layer for plane in built.before for layer in self._split_layers(plane, vignette)]
        self._figure = self._rim = None
        if built.figure is not None:
            tone = 0.80 if self._look.haze else 0.90
            paint = self._paint(tone, vignette)
            if self._scene.figure is Figure.LETTER:  # paper is light, and dark paper is not read as a letter
                paint = ImageChops.add(
                    paint, Image.new("RGB", paint.size, mix(self._palette.haze, self._palette.light, 0.5))
                )
            self._figure = _Layer(built.figure, FIGURE_DEPTH, paint, sheet)
            self._rim = _Layer(self._rim_mask(built.figure), FIGURE_DEPTH, self._rim_colour(), sheet)
        self._glows = [(light, *_glow_steps(light, sheet, self._look)) for light in built.lights]
        self._veil = self._fog_layer() if self._look.haze or self._scene.air is Air.FOG else None
        self._flakes = self._throw_flakes()

    def _split_layers(self, plane: Plane, vignette: Image.Image) -> list[_Layer]:
        """A plane as one layer, or as two when it frames the picture and has nothing in its middle."""
        inked = np.asarray(plane.mask).max(axis=0) > 0
        middle = len(inked) // 2
        if inked[middle]:
            return [self._plane_layer(plane, vignette)]
        sides = []
        for part in ((0, 0, middle, plane.mask.height), (middle, 0, plane.mask.width, plane.mask.height)):
            mask = Image.new("L", plane.mask.size)
            mask.paste(plane.mask.crop(part), part)
            if mask.getbbox() is not None:
                sides.append(self._plane_layer(replace(plane, mask=mask), vignette))
        return sides

    def _painted_backdrop(self, backdrop: Image.Image, planes: list[Plane]) -> Image.Image:
        backdrop = backdrop.copy()
        for plane in planes:
            top, foot = self._tones(plane.tone)
            backdrop.paste(_gradient(top, foot, backdrop.size), (0, 0), plane.mask)
        return backdrop

    def _plane_layer(self, plane: Plane, vignette: Image.Image) -> _Layer:
        paint: Image.Image | Colour = plane.colour or self._paint(plane.tone, vignette)
        return _Layer(plane.mask, plane.depth, paint, self._sheet)

    def _paint(self, tone: float, vignette: Image.Image) -> Image.Image:
        """What a plane is painted with, as large as the screen and fixed to it."""
        top, foot = self._tones(tone)
        flat = _gradient(top, foot, (self._request.width, self._request.height))
        return ImageChops.multiply(flat, Image.merge("RGB", [vignette] * 3))

    def _tones(self, tone: float) -> tuple[Colour, Colour]:
        """Colours of a plane above and below: nearer to the haze the farther it is, and hazier at its foot."""
        palette, look = self._palette, self._look
        black = mix(palette.shadow, (4, 5, 7), 0.55)
        far = palette.haze if self._scene.setting is not Setting.SPACE else palette.middle
        if self._scene.setting in (Setting.ROOM, Setting.HALL, Setting.WORKS):
            far = mix(palette.middle, palette.deep, 0.35)
        body = mix(mix(far, palette.middle, 0.4), black, min(1.0, 0.25 + 0.75 * tone))
        if look.haze:
            body = mix(body, mix(palette.haze, palette.light, 0.1), look.haze * (1 - tone) * 0.9 + 0.06)
        if look.ink:
            body = mix(body, (3, 3, 5), 0.35 + 0.6 * tone)
        return mix(body, black, 0.25), mix(body, far, 0.30 * (1 - tone) * (1 - 0.7 * look.ink))

    def _rim_mask(self, figure: Image.Image) -> Image.Image:
        """The edge of the figure on the side of the light."""
        wide = max(1, round(self._sheet.height * (0.004 + 0.004 * min(1.0, self._set.stand.height))))
        towards = wide if self._set.backdrop.light_x < self._set.stand.x else -wide
        inner = ImageChops.offset(figure, towards, max(1, wide // 2))
        return ink.blurred(ImageChops.subtract(figure, inner), 0.0006 * self._sheet.height)

    def _rim_colour(self) -> Colour:
        colour = mix(self._palette.accent, self._palette.light, 0.45)
        return mix(colour, self._palette.haze, 0.4) if self._look.haze else colour

    def _fog_layer(self) -> _Layer:
        width, height = self._sheet.size
        small = (width // 4, height // 4)
        noise = ink.clouds(small, self._air_dice, grain=4, stretch=3.0)
        down = np.linspace(-MARGIN_Y, 1 + MARGIN_Y, small[1], dtype=np.float32)[:, None]
        low = np.exp(-(((down - self._move.horizon - 0.10) / 0.26) ** 2))
        strength = max(self._look.haze, 0.35)
        mask = Image.fromarray((np.clip(noise * 1.5 - 0.35, 0, 1) * low * strength * 235).astype(np.uint8), "L")
        colour = mix(self._palette.haze, self._palette.light, 0.25)
        return _Layer(mask.resize((width, height), Image.Resampling.BICUBIC), 0.9, colour, self._sheet)

    def _throw_flakes(self) -> list[tuple[float, float, float, float, Image.Image]]:
        drift = self._drift()
        dice, height = self._air_dice, self._sheet.height
        flakes = []
        for _ in range(drift.count):
            near = dice.uniform(0.5, 1.6)
            if drift.streak:
                long = max(4, round(drift.streak * height * near))
                lean = round(long * drift.across / drift.down)
                mask = Image.new("L", (abs(lean) + 3, long))
                ImageDraw.Draw(mask).line(
                    ((1 if lean > 0 else abs(lean) + 1, 0), (abs(lean) + 1 if lean > 0 else 1, long)),
                    fill=round(255 * drift.cover * min(1.0, near * 0.8)),
                    width=max(1, round(drift.radius * 2 * height)),
                )
            else:
                radius = max(1, round(drift.radius * height * near * 1.6))
                cover = drift.cover * (0.5 + 0.5 * dice.random())
                mask = ink.glow(radius).point([round(level * cover) for level in range(256)])
            flakes.append((dice.random(), dice.random(), near, dice.uniform(0, 2 * math.pi), mask))
        return flakes

    def _drift(self) -> _Drift:
        drift = _DRIFTS[self._scene.air]
        if "particle" in self._motion.lower() and self._scene.air in (Air.CLEAR, Air.FOG, Air.DUST):
            drift = _THICK
        if self._look.name == "focus" and not drift.streak:
            drift = replace(drift, radius=drift.radius * 4, cover=drift.cover * 0.42)
        return drift

    # Playing ----------------------------------------------------------------------------------------------------------

    def frames(self) -> Iterator[bytes]:
        """Every frame as raw rgb24, drawn when it is asked for."""
        for number in range(self.frame_count):
            yield self.frame(number).tobytes()

    def frame(self, number: int) -> Image.Image:
        """One frame, numbered from 0."""
        share = number / max(1, self.frame_count - 1)
        second = number / self._request.rate
        view = through(self._look, self._move.path(share, second), share)
        acting = gesture(self._motion, share, second)

        screen = self._behind_the_figure(view).copy()
        self._light(screen, view, acting, nearer=False)
        if self._figure is not None and self._rim is not None:
            place = self._figure_place(view, acting)
            for layer in (self._figure, self._rim):
                layer.lay(screen, layer.seen(place)[0])
        if self._veil is not None:
            drifted = replace(view, x=view.x + 0.012 * (second - self._request.seconds / 2))
            self._veil.lay(screen, self._veil.seen(self._place(drifted, self._veil.depth))[0])
        for layer in self._before:
            swayed = replace(view, x=view.x + acting.sway)
            layer.lay(screen, layer.seen(self._place(swayed, layer.depth))[0])
        self._light(screen, view, acting, nearer=True)
        self._air(screen, view, second)
        for strip in self._strips:
            screen.paste(strip.paint, (0, strip.top), strip.mask)
        return screen

    def _behind_the_figure(self, view: View) -> Image.Image:
        """Backdrop and the planes behind the figure, kept for the next frame if the camera stands still."""
        place = self._place(view, _BACKDROP_DEPTH)
        changed = self._plate is None
        size = (self._request.width, self._request.height)
        if self._backdrop_last is None or self._backdrop_last[0].moved(place, self._sheet.size) >= _UNSEEN_PX:
            view_of_it, _ = _resampled(self._backdrop, place.x, place.y, place.zoom, size)
            self._backdrop_last = (place, view_of_it)
            changed = True
        laid = []
        for layer in self._behind:
            seen, moved = layer.seen(self._place(view, layer.depth))
            laid.append((layer, seen))
            changed = changed or moved
        if self._plate is None or changed:
            plate = self._backdrop_last[1].copy()
            for layer, seen in laid:
                layer.lay(plate, seen)
            self._plate = plate
        return self._plate

    def _place(self, view: View, depth: float) -> _Place:
        """Where a sheet at a depth lies; it never goes so far that its edge would be seen."""
        width, height = self._sheet.width, self._sheet.height
        zoom = 1 + (view.zoom - 1) * depth
        sheet_width, sheet_height = self._sheet.size
        x = width / 2 - (sheet_width / 2 + view.x * depth * width) * zoom
        y = height / 2 - (sheet_height / 2 + view.y * depth * height) * zoom
        x = min(0.0, max(width - sheet_width * zoom, x))
        y = min(0.0, max(height - sheet_height * zoom, y))
        return _Place(x, y, zoom)

    def _figure_place(self, view: View, acting: Gesture) -> _Place:
        """The figure's sheet, moved by what the figure does and grown around the figure's middle."""
        place = self._place(view, FIGURE_DEPTH)
        stand = self._set.stand
        near = self._scene.framing in (Framing.CLOSE, Framing.MACRO)
        height = min(stand.height, 0.5 if near else 0.35) * self._sheet.height
        middle_x = (stand.x + MARGIN_X) * self._sheet.width
        middle_y = (stand.foot - stand.height / 2 + MARGIN_Y) * self._sheet.height
        zoom = place.zoom * acting.size
        return _Place(
            place.x + acting.x * height * place.zoom - middle_x * (zoom - place.zoom),
            place.y + acting.y * height * place.zoom - middle_y * (zoom - place.zoom),
            zoom,
        )

    def _light(self, screen: Image.Image, view: View, acting: Gesture, *, nearer: bool) -> None:
        for light, colour, steps in self._glows:
            if (light.depth > FIGURE_DEPTH) is not nearer:
                continue
            of_figure = light.depth == FIGURE_DEPTH
            place = self._figure_place(view, acting) if of_figure else self._place(view, light.depth)
            x = place.x + (light.x + MARGIN_X) * self._sheet.width * place.zoom
            y = place.y + (light.y + MARGIN_Y) * self._sheet.height * place.zoom
            mask = steps[min(_GLOW_STEPS - 1, max(0, round(acting.glow * (_GLOW_STEPS - 1))))]
            screen.paste(colour, _around(mask, x, y), mask)

    def _air(self, screen: Image.Image, view: View, second: float) -> None:
        drift = self._drift()
        width, height = self._sheet.width, self._sheet.height
        warm = self._scene.air in (Air.EMBERS, Air.FIREFLIES)
        colour = self._palette.accent if warm else mix(self._palette.light, (255, 255, 255), 0.3)
        for x, y, near, phase, mask in self._flakes:
            wander = drift.wander * math.sin(second * 0.9 + phase)
            across = (x + drift.across * near * second + wander - view.x * near) % 1.0
            down = (y + drift.down * near * second + wander * 0.6 - view.y * near) % 1.0
            place = _around(mask, across * width * 1.1 - width * 0.05, down * height * 1.1 - height * 0.05)
            screen.paste(colour, place, mask)


def scene_of(request: TakeRequest) -> Scene:
    """What a request's words mean: its scene, then its details, the place that it names, and the series' style."""
    prompt, bible = request.prompt, request.bible
    said = f"{prompt.scene} {prompt.details or ''}".lower()
    places = " ".join(
        anchor.description
        for anchor in bible.location_anchors
        if anchor.id.lower() in said or anchor.id.removeprefix("LOC_").replace("_", " ").lower() in said
    )
    looks = " ".join(
        anchor.appearance
        for anchor in bible.character_anchors
        if anchor.id.lower() in said or anchor.name.lower() in prompt.scene.lower()
    )
    return read_scene(prompt.camera, prompt.scene, f"{looks} {prompt.details or ''}", places, bible.global_style_bible)


def _place_seed(request: TakeRequest) -> int:
    words = f"{request.series_title}\n{request.episode_number}\n{request.shot_number}\n{request.prompt.scene}"
    return int.from_bytes(hashlib.sha256(words.encode("utf-8", "replace")).digest()[:8], "big")


def _vignette(sheet: Sheet, strength: float) -> Image.Image:
    across = np.linspace(-1, 1, 160, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, 90, dtype=np.float32)[:, None]
    away = np.clip(np.sqrt((across * 0.92) ** 2 + (down * 0.80) ** 2) - 0.45, 0, 1)
    shade = 1 - strength * away**1.4
    return Image.fromarray((shade * 255).astype(np.uint8), "L").resize(
        (sheet.width, sheet.height), Image.Resampling.BICUBIC
    )


def _shaded(image: Image.Image, vignette: Image.Image, sheet: Sheet) -> Image.Image:
    """A backdrop, which hardly moves, with the vignette laid on once."""
    full = vignette.resize(sheet.size, Image.Resampling.BICUBIC, box=(0, 0, vignette.width, vignette.height))
    return ImageChops.multiply(image, Image.merge("RGB", [full] * 3))


def _gradient(top: Colour, foot: Colour, size: tuple[int, int]) -> Image.Image:
    share = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    column = np.asarray(top, dtype=np.float32) * (1 - share) + np.asarray(foot, dtype=np.float32) * share
    return Image.fromarray(column[:, None, :].astype(np.uint8), "RGB").resize(size, Image.Resampling.NEAREST)


def _glow_steps(light: Light, sheet: Sheet, look: Look) -> tuple[Colour, list[Image.Image]]:
    """A light's colour, and its mask from dark to bright."""
    radius = max(2, round(light.radius * sheet.height * (1.35 if look.haze else 1.0)))
    mask = ink.glow(radius)
    steps = [
        mask.point([round(level * 0.92 * step / (_GLOW_STEPS - 1)) for level in range(256)])
        for step in range(_GLOW_STEPS)
    ]
    return mix(light.colour, (255, 246, 224), 0.35), steps


def _around(mask: Image.Image, x: float, y: float) -> tuple[int, int]:
    return round(x - mask.width / 2), round(y - mask.height / 2)
