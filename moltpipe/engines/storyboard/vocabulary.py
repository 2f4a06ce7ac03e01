"""What the words of a shot mean to the storyboard artist.

Here: from a prompt to a setting, an hour, weather, a figure and a framing. Not here: how any of these looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar


class Setting(StrEnum):
    """The kind of place that is drawn."""

    SEA = "sea"
    CITY = "city"
    FOREST = "forest"
    MOUNTAIN = "mountain"
    DESERT = "desert"
    ROOM = "room"
    HALL = "hall"
    SPACE = "space"
    WORKS = "works"
    HILLS = "hills"


class Hour(StrEnum):
    """The time of day."""

    NIGHT = "night"
    DUSK = "dusk"
    DAWN = "dawn"
    DAY = "day"


class Air(StrEnum):
    """What is in the air between the layers."""

    CLEAR = "clear"
    RAIN = "rain"
    SNOW = "snow"
    FOG = "fog"
    EMBERS = "embers"
    DUST = "dust"
    FIREFLIES = "fireflies"


class Figure(StrEnum):
    """The silhouette in the middle of the picture."""

    PERSON = "person"
    ROBOT = "robot"
    LIGHTHOUSE = "lighthouse"
    SHIP = "ship"
    TOWER = "tower"
    TREE = "tree"
    DOOR = "door"
    LAMP = "lamp"
    BIRD = "bird"
    BEAST = "beast"
    GEAR = "gear"
    LETTER = "letter"
    ROCKET = "rocket"
    ORB = "orb"
    CRYSTAL = "crystal"
    NONE = "none"


class Framing(StrEnum):
    """How near the figure is."""

    WIDE = "wide"
    MEDIUM = "medium"
    CLOSE = "close"
    MACRO = "macro"


@dataclass(frozen=True)
class Scene:
    """What is to be drawn."""

    setting: Setting
    hour: Hour
    air: Air
    figure: Figure
    framing: Framing


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SETTINGS: Mapping[Setting, frozenset[str]] = {
    Setting.SEA: _words(
        "sea ocean wave surf tide shore coast beach harbour harbor port island ship boat sail water lighthouse reef "
        "underwater whale river lake bay cliff pier dock flood flooded"
    ),
    Setting.CITY: _words(
        "city street skyline rooftop roof neon alley market town avenue skyscraper bridge traffic subway metro "
        "building apartment downtown plaza car sidewalk billboard window village house"
    ),
    Setting.FOREST: _words(
        "forest tree wood jungle grove garden moss leaf root branch fern meadow swamp orchard mushroom vine clearing"
    ),
    Setting.MOUNTAIN: _words(
        "mountain peak summit ridge glacier ice snow valley canyon rock cave volcano alpine tundra arctic slope crater"
    ),
    Setting.DESERT: _words("desert dune sand wasteland oasis savanna plain mesa mirage badlands salt"),
    Setting.ROOM: _words(
        "room kitchen bedroom office studio cabin apartment table desk bed lab laboratory workshop shop cafe bar "
        "diner interior cell attic cockpit stage chair court theater theatre restaurant indoors"
    ),
    Setting.HALL: _words(
        "hall corridor archive library cathedral temple church museum vault tunnel passage hallway shelf shelves "
        "station palace throne ruin basement stair crypt catacomb warehouse bunker"
    ),
    Setting.SPACE: _words(
        "space orbit star planet moon asteroid satellite nebula galaxy cosmos cosmic spaceship spacecraft void comet "
        "orbital starship universe constellation"
    ),
    Setting.WORKS: _words(
        "factory machine engine gear clockwork pipe reactor server circuit cable turbine foundry assembly mechanism "
        "computer terminal mainframe refinery generator data"
    ),
    Setting.HILLS: _words("hill field farm grass countryside path road horizon sky wheat pasture cloud"),
}
_HOURS: Mapping[Hour, frozenset[str]] = {
    Hour.NIGHT: _words("night midnight dark darkness moonlight moonlit star neon nocturnal black shadow lamp candle"),
    Hour.DUSK: _words("dusk sunset evening twilight golden amber orange last ember gloaming"),
    Hour.DAWN: _words("dawn sunrise morning first pale early daybreak pink"),
    Hour.DAY: _words("day noon daylight sunlit sunny bright afternoon sun blue white midday"),
}
_AIRS: Mapping[Air, frozenset[str]] = {
    Air.RAIN: _words("rain rainy storm stormy drizzle downpour wet thunder monsoon"),
    Air.SNOW: _words("snow snowy blizzard frost ice winter glacier arctic flake"),
    Air.FOG: _words("fog foggy mist misty haze hazy steam smoke vapor vapour"),
    Air.EMBERS: _words("fire ember flame burning spark ash lava explosion forge blaze"),
    Air.DUST: _words("dust dusty sand pollen particle mote drift archive attic ruin desert"),
    Air.FIREFLIES: _words("firefly fireflies glow glowing magic magical spirit lantern bioluminescent spore fairy"),
}
_FIGURES: Mapping[Figure, frozenset[str]] = {
    Figure.LIGHTHOUSE: _words("lighthouse beacon"),
    Figure.ROBOT: _words("robot android droid automaton drone mech machine cyborg bot"),
    Figure.ROCKET: _words("rocket spaceship spacecraft starship shuttle probe satellite"),
    Figure.SHIP: _words("ship boat sail vessel ferry raft yacht submarine"),
    Figure.LETTER: _words("letter envelope note paper book page photograph card map scroll postcard"),
    Figure.DOOR: _words("door doorway gate portal entrance arch threshold hatch"),
    Figure.BIRD: _words("bird gull seagull raven crow owl eagle dove hawk swan phoenix"),
    Figure.BEAST: _words("fox cat dog wolf deer horse lion tiger bear beast creature dragon rabbit mouse animal"),
    Figure.GEAR: _words("gear clock watch clockwork mechanism wheel turbine"),
    Figure.TREE: _words("tree oak pine willow sapling"),
    Figure.LAMP: _words("lamp lantern candle streetlight torch lamppost"),
    Figure.TOWER: _words("tower antenna spire castle obelisk monolith skyscraper mast"),
    Figure.CRYSTAL: _words("crystal gem jewel shard diamond relic artifact artefact stone prism"),
    Figure.ORB: _words("orb sphere planet eye bubble egg pearl moon globe core heart"),
    Figure.PERSON: _words(
        "person man woman child girl boy figure detective captain engineer hero stranger traveler traveller soldier "
        "knight king queen he she they her him someone silhouette keeper pilot astronaut scientist chef dancer "
        "friend mother father sister brother crowd people human witch wizard thief sailor doctor"
    ),
}
_FRAMINGS: tuple[tuple[Framing, tuple[str, ...]], ...] = (
    (Framing.MACRO, ("macro", "extreme_close", "extreme close")),
    (Framing.CLOSE, ("close", "portrait", "insert")),
    (Framing.WIDE, ("wide", "establish", "aerial", "long_shot", "drone", "panorama", "high_angle", "crane")),
)

_Meaning = TypeVar("_Meaning", bound=StrEnum)


def read_scene(camera: str, scene: str, *hints: str) -> Scene:
    """What a shot shows: its own words first, then the hints, each counting a quarter of the one before it."""
    texts = (scene, *hints)
    return Scene(
        setting=_meant(texts, _SETTINGS, Setting.HILLS),
        hour=_meant(texts, _HOURS, Hour.DUSK),
        air=_meant(texts[:2], _AIRS, Air.CLEAR),
        figure=_meant(texts[:2], _FIGURES, Figure.NONE),
        framing=next(
            (one for one, names in _FRAMINGS if any(name in camera.lower() for name in names)), Framing.MEDIUM
        ),
    )


def _meant(texts: Iterable[str], words: Mapping[_Meaning, frozenset[str]], otherwise: _Meaning) -> _Meaning:
    """The meaning with most words in the texts; of equals the one whose word comes first."""
    scores: dict[_Meaning, float] = {}
    weight = 1.0
    for text in texts:
        tokens = re.findall(r"[a-z]+", text.lower())
        for place, token in enumerate(tokens):
            for meaning, known in words.items():
                if token in known or token.removesuffix("s") in known or token.removesuffix("es") in known:
                    scores[meaning] = scores.get(meaning, 0) + weight * (1 + 0.3 / (1 + place))
        weight /= 4
    return max(scores, key=scores.__getitem__, default=otherwise)
