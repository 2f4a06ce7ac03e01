"""Camera terms and motion terms as movement.

Here: where the camera is at every moment of a shot, and how the figure moves in it. Not here: the drawing. A
view's x and y are in shares of the picture's width and height, the way that things at the figure's distance go;
layers farther away or nearer go less or more far (`card`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moltpipe.engines.storyboard.looks import Look


@dataclass(frozen=True)
class View:
    """Where the camera is: its place, and how near it has come."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 1.0


Path = Callable[[float, float], View]
"""From the share of the shot that is over (0 to 1) and the second to the camera's place."""


@dataclass(frozen=True)
class Move:
    """A camera term in pictures: its way, the tilt that the set is built with, and where the horizon lies."""

    path: Path
    tilt: float = 0.0
    """Degrees."""
    horizon: float = 0.62
    """From the top, as a share of the height."""


def _ease(share: float) -> float:
    """A start and a stop that are soft but short: most of the way goes at an even speed."""
    return share + 0.35 * math.sin(2 * math.pi * (share - 0.5)) / (2 * math.pi)


def _slide(
    from_x: float, to_x: float, from_y: float, to_y: float, from_zoom: float = 1.0, to_zoom: float = 1.0
) -> Path:
    def path(share: float, _: float) -> View:
        way = _ease(share)
        return View(
            from_x + (to_x - from_x) * way, from_y + (to_y - from_y) * way, from_zoom + (to_zoom - from_zoom) * way
        )

    return path


def _handheld(_: float, second: float) -> View:
    return View(
        0.011 * math.sin(2.3 * second) + 0.006 * math.sin(5.9 * second + 1) + 0.002 * math.sin(13.1 * second),
        0.013 * math.sin(1.9 * second + 2) + 0.008 * math.sin(6.7 * second) + 0.003 * math.sin(11.3 * second + 1),
        1.03 + 0.008 * math.sin(1.1 * second),
    )


def _aerial(share: float, _: float) -> View:
    way = _ease(share)
    # Rising while it turns: planes slide sideways and down at their own speeds. A rolled picture would cost three
    # times as much to draw, and aerial shots that bank are another term's business.
    return View(-0.045 + 0.09 * way, 0.06 - 0.13 * way, 1.12 - 0.09 * way)


_STILL = Move(_slide(0, 0, 0, 0))
_DRIFT = Move(_slide(-0.02, 0.02, 0, -0.01, 1.0, 1.03))
MOVES: Mapping[str, Move] = {
    "wide_establishing": Move(_slide(-0.015, 0.015, 0, 0, 1.0, 1.05), horizon=0.66),
    "medium_shot": Move(_slide(-0.012, 0.012, 0, 0, 1.0, 1.03)),
    "close_up": Move(_slide(0, 0, 0, 0, 1.0, 1.08)),
    "extreme_close_up": Move(_slide(0.01, -0.01, 0.01, -0.01, 1.0, 1.12)),
    "macro": Move(_slide(-0.03, 0.03, 0.01, -0.01, 1.02, 1.08)),
    "slow_dolly_in": Move(_slide(0, 0, 0, 0, 1.0, 1.24)),
    "slow_dolly_out": Move(_slide(0, 0, 0, 0, 1.24, 1.0)),
    "slow_pan_left": Move(_slide(0.07, -0.07, 0, 0)),
    "slow_pan_right": Move(_slide(-0.07, 0.07, 0, 0)),
    "slow_tilt_up": Move(_slide(0, 0, 0.08, -0.08)),
    "slow_tilt_down": Move(_slide(0, 0, -0.08, 0.08)),
    "tracking_shot": Move(_slide(-0.11, 0.11, 0, 0, 1.02, 1.02)),
    "static": _STILL,
    "handheld": Move(_handheld),
    "aerial": Move(_aerial, horizon=0.46),
    "low_angle": Move(_slide(0, 0, 0.02, -0.03, 1.0, 1.05), horizon=0.80),
    "high_angle": Move(_slide(0, 0, -0.02, 0.02, 1.06, 1.0), horizon=0.36),
    "dutch_angle": Move(_slide(-0.025, 0.025, 0, 0, 1.0, 1.05), tilt=7.0),
}
_KEYWORDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("handheld", "hand-held", "shak", "gimbal", "pov"), "handheld"),
    (("dutch", "canted", "tilted frame"), "dutch_angle"),
    (("dolly out", "pull", "zoom out", "push out", "dolly back", "reveal"), "slow_dolly_out"),
    (("dolly", "push", "zoom", "creep"), "slow_dolly_in"),
    (("tilt down", "pedestal down", "boom down"), "slow_tilt_down"),
    (("tilt", "pedestal", "boom", "crane"), "slow_tilt_up"),
    (("track", "truck", "orbit", "arc", "follow", "lateral", "steadicam"), "tracking_shot"),
    (("pan left", "whip left"), "slow_pan_left"),
    (("pan", "sweep", "whip"), "slow_pan_right"),
    (("aerial", "drone", "bird", "overhead", "top-down", "flyover"), "aerial"),
    (("low",), "low_angle"),
    (("high",), "high_angle"),
    (("macro",), "macro"),
    (("extreme close",), "extreme_close_up"),
    (("close", "portrait", "insert"), "close_up"),
    (("wide", "establish", "long shot", "panorama"), "wide_establishing"),
    (("medium", "two-shot", "over the shoulder"), "medium_shot"),
    (("static", "locked", "fixed", "still", "tripod"), "static"),
)


def move_of(camera: str) -> Move:
    """The move of a camera term; an unknown term is searched for known words, and else is a slow drift."""
    term = "_".join(camera.lower().split())
    if term in MOVES:
        return MOVES[term]
    spoken = camera.lower().replace("_", " ")
    name = next((name for words, name in _KEYWORDS if any(word in spoken for word in words)), None)
    return MOVES[name] if name else _DRIFT


def through(look: Look, view: View, share: float) -> View:
    """The same moment in a variant's look: its energy lengthens the way, its push goes nearer all along."""
    return View(
        view.x * look.energy,
        view.y * look.energy,
        1 + (view.zoom - 1) * look.energy + look.push * _ease(share),
    )


@dataclass(frozen=True)
class Gesture:
    """Where the figure is apart from its place, in shares of its height, and how bright the lights are (0 to 1)."""

    x: float = 0.0
    y: float = 0.0
    size: float = 1.0
    glow: float = 0.8
    sway: float = 0.0
    """Of the nearest plane, as a share of the picture's width."""


def _walking(share: float, second: float) -> Gesture:
    return Gesture(x=0.9 * (share - 0.5), y=-0.018 * abs(math.sin(2 * math.pi * second * 0.9)))


def _running(share: float, second: float) -> Gesture:
    return Gesture(x=2.2 * (share - 0.5), y=-0.045 * abs(math.sin(2 * math.pi * second * 1.6)))


def _flying(share: float, second: float) -> Gesture:
    return Gesture(x=1.6 * (share - 0.5), y=-0.25 + 0.10 * math.sin(2 * math.pi * second / 3))


def _floating(_: float, second: float) -> Gesture:
    return Gesture(x=0.03 * math.sin(2 * math.pi * second / 5), y=-0.07 + 0.06 * _breath(second))


def _pulsing(_: float, second: float) -> Gesture:
    return Gesture(glow=0.55 + 0.45 * math.sin(2 * math.pi * second / 1.6), size=1 + 0.006 * _breath(second))


def _breathing(_: float, second: float) -> Gesture:
    return Gesture(size=1 + 0.025 * _breath(second), glow=0.75 + 0.15 * _breath(second))


def _mechanical(_: float, second: float) -> Gesture:
    """Two steps a second, each with a quick start and a long halt, four to one side and four back."""
    step = math.floor(second * 2)
    done = step + min(1.0, (second * 2 - step) * 5)
    return Gesture(x=0.035 * (4 - abs(4 - done % 8)), glow=0.6 + 0.4 * (step % 2))


def _swaying(_: float, second: float) -> Gesture:
    return Gesture(x=0.02 * _breath(second), sway=0.012 * math.sin(2 * math.pi * second / 5))


def _still(_share: float, _second: float) -> Gesture:
    return Gesture()


def _subtle(_: float, second: float) -> Gesture:
    breath = _breath(second)
    return Gesture(y=-0.006 * (1 + breath), size=1 + 0.004 * breath, glow=0.75 + 0.08 * breath, sway=0.002 * breath)


def _breath(second: float) -> float:
    return math.sin(2 * math.pi * second / 4)


_GESTURES: tuple[tuple[tuple[str, ...], Callable[[float, float], Gesture]], ...] = (
    (("walk", "march", "step"), _walking),
    (("run", "rush", "chase", "sprint"), _running),
    (("fly", "soar", "glid"), _flying),
    (("float", "hover", "drift by"), _floating),
    (("puls", "flicker", "blink", "glow"), _pulsing),
    (("breath",), _breathing),
    (("mechan", "tick", "turn"), _mechanical),
    (("sway", "organic", "wave"), _swaying),
    (("static", "still", "none"), _still),
)


def gesture(motion: str, share: float, second: float) -> Gesture:
    """The motion term at one moment. Words that are no term are searched for one; otherwise a subtle motion."""
    said = motion.lower().replace("_", " ")
    return next((acts for words, acts in _GESTURES if any(word in said for word in words)), _subtle)(share, second)
