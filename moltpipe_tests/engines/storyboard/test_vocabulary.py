from __future__ import annotations

import pytest

from moltpipe.engines.storyboard.lettering import TEXT, TITLE, family_for, font, legible, wrapped
from moltpipe.engines.storyboard.palette import luminance, palette_of
from moltpipe.engines.storyboard.vocabulary import Air, Figure, Framing, Hour, Setting, read_scene


@pytest.mark.parametrize(
    ("scene", "setting", "hour", "air", "figure"),
    [
        ("A lighthouse over a stormy sea at night", Setting.SEA, Hour.NIGHT, Air.RAIN, Figure.LIGHTHOUSE),
        ("A fox in a misty forest at dawn", Setting.FOREST, Hour.DAWN, Air.FOG, Figure.BEAST),
        ("Neon streets of the city, a detective in the rain", Setting.CITY, Hour.NIGHT, Air.RAIN, Figure.PERSON),
        ("A rocket crosses the nebula", Setting.SPACE, Hour.DUSK, Air.CLEAR, Figure.ROCKET),
        ("Dunes under the noon sun", Setting.DESERT, Hour.DAY, Air.CLEAR, Figure.NONE),
    ],
)
def test_a_scene_is_read_from_its_words(scene: str, setting: Setting, hour: Hour, air: Air, figure: Figure) -> None:
    read = read_scene("medium_shot", scene)
    assert (read.setting, read.hour, read.air, read.figure) == (setting, hour, air, figure)


def test_the_scene_counts_more_than_what_is_said_around_it() -> None:
    assert read_scene("static", "A quiet forest", "sea ocean waves").setting is Setting.FOREST
    assert read_scene("static", "She waits", "", "a forest", "sea").setting is Setting.FOREST
    assert read_scene("extreme_close_up", "x").framing is Framing.MACRO


def test_a_palette_always_has_a_dark_a_light_and_something_between() -> None:
    for colours in ((), ("bad",), ("#ffffff",), ("#000000",), ("#ff0000", "#00ff00"), ("#123",)):
        palette = palette_of(colours, "neon", "horror")
        assert luminance(palette.shadow) < 0.05
        assert luminance(palette.light) > 0.4
        assert luminance(palette.accent) > 0.1


def test_what_the_fonts_lack_is_spelt_or_left_out() -> None:
    assert legible("Café \U0001f642 ok\n", TEXT) == "Café ok"
    assert legible("ひ", TEXT) == "hi"
    assert legible("海", TEXT) == "\u00b7"
    assert family_for("Ωκεανός", TITLE) == TEXT
    assert family_for("\u041c\u043e\u0440\u0435", TITLE) == TITLE


def test_text_never_runs_over_its_width() -> None:
    face = font(TEXT, 16, 400)
    for text in ("word " * 60, "x" * 300, "海" * 80):
        rows = wrapped(text, face, 200, 3)
        assert len(rows) == 3
        assert all(face.getlength(row) <= 200 for row in rows)
        assert rows[-1].endswith("…")
