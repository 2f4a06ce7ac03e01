"""Synthetic ambience: what is heard around a shot, made from the words that describe it.

Here: the beds that this house can make and the words that ask for them. Not here: when a bed is heard
(`production.soundtracks`), how it steps back under speech (`media.sound_timeline`), the noise and tones themselves
(`media.soundscape`).

It is to sound what the animatic is to picture: free, local, the same every time, and good enough to judge a cut by.
A recorded library would sound better and would have to be shipped, licensed and searched. Only what goes on and on is
made. A door that slams needs its moment in the picture, and no description says when that is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from moltpipe.media.errors import MediaError
from moltpipe.media.loudness import Meter
from moltpipe.media.offload import heed
from moltpipe.media.pcm import SAMPLE_RATE, Block, write_wav
from moltpipe.media.soundscape import Chirps, Clicks, Layer, Tones, Wash, layered

BED_LUFS = -30.0
"""What a described bed has in its file: some 10 LU under a voice as engines deliver it."""
ROOM_LUFS = -50.0
"""Room tone: hardly heard, but after the mix still above what counts as silent (`media.screening`)."""
SCENES_AT_ONCE = 3
AUDITION_S = 20
"""Seconds of a scene that are listened to in order to set its level. Always the same, however long the bed is."""
_QUIET_DB = -20.0
"""At this level the synthesis, whose noise has a root mean square of 1, is listened to."""
_DENIED = frozenset({"no", "not", "without", "never"})
"""`no hum, no surf` asks for neither."""


@dataclass(frozen=True)
class Scene:
    """A kind of place, the words that ask for it, and what it is made of."""

    words: str
    layers: tuple[Layer, ...]
    lufs: float = BED_LUFS


_RUMBLE = ((20, -8), (50, -1), (100, 0), (250, -9), (1000, -24), (4000, -42), (12000, -60))
_LEAVES = ((200, -30), (1000, -12), (3000, 0), (7000, -5), (12000, -20), (18000, -50))
_RAIN = ((80, -26), (400, -14), (1500, -3), (4000, 0), (8000, -5), (13000, -20), (18000, -50))
_ROOM = ((20, -8), (60, 0), (200, -5), (1000, -16), (4000, -28), (12000, -46))
_GUSTS = Wash(((20, -6), (90, 0), (300, -5), (1000, -17), (4000, -34), (12000, -54)), swing_db=6, periods_s=(2.5, 9))
_HOWL = Wash(((150, -50), (350, -12), (520, 0), (720, -12), (1500, -50)), level_db=-9, swing_db=10, periods_s=(3, 8))
_DROPS = Clicks(per_second=22, hertz=(1800, 6500), decay_s=0.004, level_db=4)

ROOM_TONE = Scene("", (Wash(_ROOM, swing_db=0.7, periods_s=(4, 15)),), lufs=ROOM_LUFS)
SCENES = (
    Scene("wind winds windy breeze breezes gust gusts gale gales draught", (_GUSTS, _HOWL)),
    Scene(
        "rain rains raining rainfall rainy drizzle downpour",
        (Wash(_RAIN, swing_db=1.2, periods_s=(3, 9)), _DROPS),
    ),
    Scene(
        "storm storms stormy thunder thunderstorm tempest lightning",
        (
            Wash(_RAIN, swing_db=2.5, periods_s=(3, 9)),
            _DROPS,
            _GUSTS,
            Wash(((15, -6), (35, 0), (90, -3), (250, -22), (1000, -48)), level_db=3, swing_db=11, periods_s=(5, 13)),
        ),
    ),
    Scene(
        "sea ocean wave waves surf shore beach tide harbour harbor coast breakers",
        (
            Wash(((30, -8), (120, 0), (500, -3), (1500, -9), (5000, -22), (12000, -46)), swing_db=7, periods_s=(7, 11)),
            Wash(((500, -30), (1800, -6), (4000, 0), (9000, -9), (15000, -40)), -7, swing_db=11, periods_s=(6, 10)),
        ),
    ),
    Scene(
        "water stream river brook creek fountain waterfall rapids",
        (
            Wash(
                ((150, -30), (500, -6), (1200, 0), (3000, -5), (8000, -17), (15000, -44)),
                swing_db=1.5,
                periods_s=(1, 4),
            ),
            Wash(((300, -30), (700, 0), (1400, -6), (3000, -30)), -4, swing_db=7, periods_s=(0.08, 0.3)),
            Chirps(per_second=9, hertz=(450, 1500), glide=1.5, lasts_s=(0.02, 0.06), level_db=-1),
        ),
    ),
    Scene(
        "fire fireplace campfire bonfire flame flames blaze hearth embers",
        (
            Wash(((25, -6), (70, 0), (250, -6), (900, -20), (4000, -38), (12000, -60)), swing_db=4, periods_s=(0.5, 3)),
            Clicks(per_second=9, hertz=(1500, 7000), decay_s=0.003, level_db=13, spread_db=9),
        ),
    ),
    Scene(
        "city street streets traffic car cars road roads highway avenue urban downtown",
        (
            Wash(_RUMBLE, swing_db=2, periods_s=(5, 15)),
            Wash(((120, -20), (350, 0), (900, -3), (2500, -18), (8000, -44)), -8, swing_db=10, periods_s=(5, 12)),
        ),
    ),
    Scene(
        "train trains railway tram subway metro underground rails carriage",
        (
            Wash(_RUMBLE, swing_db=3, periods_s=(3, 9)),
            Wash(((300, -20), (900, 0), (2000, -6), (6000, -30)), -12, swing_db=4, periods_s=(1, 4)),
            Clicks(every_s=0.72, hertz=(180, 420), decay_s=0.03, level_db=10, spread_db=2),
        ),
    ),
    Scene(
        "crowd crowds market marketplace chatter murmur murmurs murmuring cafe bar tavern restaurant audience people"
        " bustle applause",
        (
            Wash(
                ((90, -24), (220, -3), (500, 0), (1200, -10), (3000, -22), (9000, -46)), swing_db=1.5, periods_s=(2, 6)
            ),
            Wash(((250, -30), (450, 0), (750, -30)), -2, swing_db=7, periods_s=(0.18, 0.6)),
            Wash(((600, -30), (1000, 0), (1500, -30)), -7, swing_db=8, periods_s=(0.16, 0.5)),
            Wash(((1500, -30), (2200, 0), (3200, -30)), -13, swing_db=9, periods_s=(0.14, 0.45)),
        ),
    ),
    Scene(
        "forest woods woodland trees leaves bird birds birdsong garden meadow jungle park foliage",
        (
            Wash(_LEAVES, swing_db=4, periods_s=(3, 9)),
            Wash(_ROOM, level_db=-4, swing_db=2, periods_s=(5, 12)),
            Chirps(per_second=1.1, hertz=(2600, 5400), glide=1.35, lasts_s=(0.05, 0.14), level_db=3, song=4),
        ),
    ),
    Scene(
        "insects cricket crickets cicada cicadas frogs swamp grasshoppers",
        (
            Wash(_ROOM, swing_db=1, periods_s=(4, 12)),
            Tones(((4150, 0), (4420, -3)), level_db=-6, pulse_hz=27, swing_db=5, periods_s=(0.7, 2.2)),
            Tones(((3350, 0), (5100, -5)), level_db=-10, pulse_hz=17, swing_db=8, periods_s=(1.1, 3.1)),
        ),
    ),
    Scene(
        "machine machines machinery engine engines motor motors generator factory servo servos spaceship starship"
        " spacecraft rocket reactor ventilation ventilator fan fans drone droning rumble rumbling grinding",
        (
            Tones(((54, 0), (81, -4), (108, -5), (162, -10), (216, -12), (324, -18), (432, -22)), 3, swing_db=1.2),
            Wash(((30, -10), (80, 0), (220, -4), (700, -16), (2500, -30), (9000, -50)), swing_db=1.2, periods_s=(1, 5)),
        ),
    ),
    Scene(
        "hum hums humming buzz buzzing electric electrical electricity fluorescent neon transformer server servers"
        " refrigerator",
        (
            Tones(((100, 0), (200, -6), (300, -9), (400, -17), (500, -16), (700, -24), (1100, -32)), 3, swing_db=0.6),
            Wash(_ROOM, level_db=-6, swing_db=0.7, periods_s=(4, 12)),
        ),
    ),
    Scene(
        "static radio interference hiss hissing transmission crackle crackling",
        (
            Wash(
                ((150, -40), (350, -4), (1200, 0), (3200, -3), (5000, -20), (9000, -50)), swing_db=3, periods_s=(0.3, 4)
            ),
            Clicks(per_second=14, hertz=(900, 3800), decay_s=0.002, level_db=8, spread_db=7),
        ),
    ),
    Scene(
        "clock clocks clockwork tick ticks ticking pendulum metronome",
        (
            Wash(_ROOM, level_db=-14, swing_db=0.7, periods_s=(4, 12)),
            Clicks(every_s=0.5, hertz=(2300, 3400), decay_s=0.006, level_db=14, spread_db=1),
            Clicks(every_s=0.5, hertz=(420, 560), decay_s=0.02, level_db=8, spread_db=1),
        ),
        lufs=-38.0,
    ),
)


def scenes_of(description: str | None) -> tuple[Scene, ...]:
    """What a description asks to be heard, in the order of its words; room tone where it names nothing that we know."""
    found: list[Scene] = []
    before = ""
    for word in re.findall(r"[a-z]+", (description or "").casefold()):
        scene = next((one for one in SCENES if word in one.words.split()), None)
        if scene is not None and before not in _DENIED and scene not in found:
            found.append(scene)
        before = word
    return tuple(found[:SCENES_AT_ONCE]) or (ROOM_TONE,)


def bed(description: str | None, *, seconds: float, seed: int, target: Path) -> None:
    """Write ambience as a stereo WAV of `round(seconds * 48000)` samples.

    The same words, length and seed give the same bytes. It never repeats. A described bed has about -30 LUFS, room
    tone -50, whatever it is made of.

    Raises:
        MediaError: the length is none.
    """
    if not seconds * SAMPLE_RATE >= 1:
        raise MediaError(f"ambience of {seconds} s: expected a length")
    scenes = scenes_of(description)
    share_db = -10 * math.log10(len(scenes))
    layers = tuple((layer, scene.lufs + share_db - _loudness(scene)) for scene in scenes for layer in scene.layers)
    with closing(layered(layers, samples=round(seconds * SAMPLE_RATE), seed=seed)) as blocks:
        write_wav(_heeding(blocks), target)


@cache
def _loudness(scene: Scene) -> float:
    """The scene's own loudness in LUFS, before it is brought to a level. The same for every seed and length."""
    meter = Meter()
    with closing(
        layered([(layer, _QUIET_DB) for layer in scene.layers], samples=AUDITION_S * SAMPLE_RATE, seed=0)
    ) as blocks:
        for block in _heeding(blocks):
            meter.add(block)
    if meter.lufs is None:
        raise MediaError(f"the scene of {scene.words!r} is silent")
    return meter.lufs - _QUIET_DB


def _heeding(blocks: Generator[Block]) -> Generator[Block]:
    for block in blocks:
        heed()
        yield block
