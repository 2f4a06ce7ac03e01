"""Colours of a drawing: the poster's palette, sorted into the parts that colours play in a picture.

Here: parsing, parts, mixing. Not here: which part is used where (`sets`, `slate`, `poster`).
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""

_HEX = re.compile(r"^#?([0-9a-fA-F]{6}|[0-9a-fA-F]{3})$")

_BY_GENRE: Mapping[str, tuple[str, ...]] = {
    "action": ("#14161c", "#3a4653", "#d9482b", "#f2c14e"),
    "adventure": ("#1b2b2a", "#3f6d5e", "#d99a3d", "#f3e3bd"),
    "comedy": ("#2b2350", "#4f7cac", "#f26b5b", "#ffe39b"),
    "drama": ("#1d1f2b", "#54556b", "#b5764a", "#eadccb"),
    "thriller": ("#0d1418", "#24444c", "#c8a951", "#d7e0dd"),
    "horror": ("#0c0a0d", "#2e2430", "#8e1c22", "#c9bfae"),
    "sci_fi": ("#0a1024", "#1f4b6e", "#33c3c9", "#f2efe4"),
    "fantasy": ("#191532", "#4a3f7a", "#d8a7e0", "#f6ecc9"),
    "romance": ("#2a1726", "#7d4a63", "#ef8f7a", "#fbe6d6"),
    "crime": ("#101114", "#353b45", "#a8873f", "#dcd6c8"),
}
_PLAIN = ("#12182a", "#3c5a78", "#e0944a", "#f3ead8")
_BY_STYLE: Mapping[str, tuple[str, ...]] = {
    "noir": ("#08090b", "#2c3036", "#8d9299", "#efeae0"),
    "neon": ("#0b0820", "#2d1b69", "#ff2e88", "#4df3ff"),
    "vintage": ("#241a12", "#7a5a3a", "#c8813b", "#f1deb6"),
    "minimalist": ("#20242b", "#6f7b86", "#e2624c", "#f5f3ee"),
}


@dataclass(frozen=True)
class Palette:
    """Six parts, from the darkest to the lightest, and the one colour that stands out."""

    shadow: Colour
    deep: Colour
    middle: Colour
    haze: Colour
    light: Colour
    accent: Colour

    def mapped(self, *, saturation: float = 1.0, gain: float = 1.0) -> Palette:
        """The palette with every colour's saturation and brightness multiplied."""
        return Palette(*(_tuned(one, saturation, gain) for one in self.parts()))

    def parts(self) -> tuple[Colour, ...]:
        """All six."""
        return self.shadow, self.deep, self.middle, self.haze, self.light, self.accent


def parse_colour(text: str) -> Colour | None:
    """`#rrggbb` or `#rgb` as a colour, None for anything else."""
    match = _HEX.match(text.strip())
    if match is None:
        return None
    digits = match[1] if len(match[1]) == 6 else "".join(2 * one for one in match[1])  # noqa: PLR2004 - hex digits
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def palette_of(colours: Iterable[str], style: str = "", genre: str = "") -> Palette:
    """The palette of a poster spec. Without a usable colour it comes from the style's name, then from the genre."""
    usable = [colour for text in colours if (colour := parse_colour(text)) is not None]
    if not usable:
        named = next((known for name, known in _BY_STYLE.items() if name in style.lower()), None)
        chosen = named or _BY_GENRE.get(genre.lower(), _PLAIN)
        usable = [colour for text in chosen if (colour := parse_colour(text)) is not None]
    by_light = sorted(usable, key=luminance)
    darkest, lightest = by_light[0], by_light[-1]
    if luminance(darkest) > 0.10:  # noqa: PLR2004 - a palette of light colours has no shadow of its own
        darkest = _tuned(darkest, 1.1, 0.22)
    if luminance(lightest) < 0.45:  # noqa: PLR2004 - and one of dark colours no light
        lightest = mix(lightest, (255, 246, 228), 0.75)
    accent = max(usable, key=lambda one: _vividness(one) * (0.25 + luminance(one)))
    while luminance(accent) < 0.15:  # noqa: PLR2004 - an accent that is nearly black does not stand out
        accent = _tuned(mix(accent, lightest, 0.35), 1.3, 1.1)
    between = [one for one in by_light if one not in (by_light[0], accent, by_light[-1])]
    middle = between[len(between) // 2] if between else mix(darkest, accent, 0.35)
    deep = mix(darkest, middle, 0.38)
    return Palette(
        shadow=mix(darkest, (0, 0, 0), 0.45),
        deep=deep,
        middle=mix(middle, lightest, 0.12),
        haze=mix(middle, lightest, 0.42),
        light=lightest,
        accent=accent,
    )


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Between two colours; `share` 0 is the first, 1 the other."""
    keep = 1 - share
    return (
        round(one[0] * keep + other[0] * share),
        round(one[1] * keep + other[1] * share),
        round(one[2] * keep + other[2] * share),
    )


def luminance(colour: Colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2, IEC 61966-2-1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]  # noqa: PLR2004 - the standard's constants
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _vividness(colour: Colour) -> float:
    return (max(colour) - min(colour)) / 255


def _tuned(colour: Colour, saturation: float, gain: float) -> Colour:
    hue, sat, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    red, green, blue = colorsys.hsv_to_rgb(hue, min(1.0, sat * saturation), min(1.0, value * gain))
    return round(red * 255), round(green * 255), round(blue * 255)
