"""Looks: how the variants of one shot differ to the eye.

Here: the four treatments and how the words of a style suffix choose one. Not here: the words (`studio.variants`), what
a treatment does to a layer (`sets`, `card`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

VARIANT_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Look:
    """A treatment. Shares 0 to 1 unless said otherwise."""

    name: str
    haze: float = 0.0
    """How far all planes lie in fog."""
    rays: float = 0.0
    """Strength of light shafts."""
    defocus: float = 0.0
    """Blur of what is not the figure, in hundredths of the picture's height."""
    ink: float = 0.0
    """How far planes are black shapes, and how hard the light behind them is."""
    saturation: float = 1.0
    """Factor."""
    wash: float = 0.0
    """How far the accent colours the air around the light, and its complement the other side."""
    energy: float = 1.0
    """Factor on the camera's way."""
    push: float = 0.0
    """A slow dolly added to the camera's own move, as a share of the picture."""


PLAIN = Look("plain")
_LOOKS: Mapping[str, Look] = {
    "fog": Look("fog", haze=0.5, rays=0.75, saturation=0.8),
    "focus": Look("focus", defocus=1.5, push=0.10, saturation=1.05),
    "ink": Look("ink", ink=1.0, saturation=0.4),
    "vivid": Look("vivid", saturation=1.6, wash=0.5, energy=1.7),
}
_WORDS: Mapping[str, tuple[str, ...]] = {
    "fog": ("fog", "volumetric", "mist", "haze"),
    "focus": ("depth of field", "bokeh", "out of focus", "shallow"),
    "ink": ("contrast", "shadow", "silhouette", "noir"),
    "vivid": ("vivid", "dynamic", "saturated", "energy"),
}


def look_of(style_suffix: str, variant_number: int) -> Look:
    """The look that the suffix's words ask for; a suffix without known words takes its variant's turn."""
    suffix = style_suffix.lower()
    if not suffix.strip():
        return PLAIN
    found = {name: sum(word in suffix for word in words) for name, words in _WORDS.items()}
    best = max(found, key=found.__getitem__)
    return _LOOKS[best] if found[best] else tuple(_LOOKS.values())[(variant_number - 1) % len(_LOOKS)]
