from __future__ import annotations

import numpy as np

from moltpipe.engines.storyboard.poster import draw_poster
from moltpipe.studio.screenplay import PosterSpec
from moltpipe_tests.engines.conftest import PILOT

_LOGLINE = "A courier owes a city more than it can take back."


def test_a_poster_has_its_size_and_is_the_same_every_time() -> None:
    one, other = (
        draw_poster(PILOT.title, PILOT.logline, PILOT.genre, PILOT.poster_spec, credit="tidewriter") for _ in range(2)
    )
    assert one.size == (600, 900)
    assert one.mode == "RGB"
    assert one.tobytes() == other.tobytes()


def test_title_and_credit_are_written_on_it() -> None:
    spec = PosterSpec(style="cinematic", key_visual="The sea at night")
    named, renamed = (draw_poster(title, _LOGLINE, "crime", spec, credit="a") for title in ("Neon Debt", "Neon Death"))
    credited = draw_poster("Neon Debt", _LOGLINE, "crime", spec, credit="agent-7")
    assert named.tobytes() != renamed.tobytes()
    below = np.abs(np.asarray(named, dtype=int) - np.asarray(credited, dtype=int)).sum(axis=(1, 2))
    assert set(np.flatnonzero(below)) <= set(range(840, 900)), "only the credit line differs"
    assert below.any()


def test_the_palette_of_the_spec_is_seen() -> None:
    def mean(palette: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        spec = PosterSpec(style="cinematic", key_visual="A bird over hills on a sunny day", palette=palette)
        colour: np.ndarray[tuple[int], np.dtype[np.float64]] = np.asarray(
            draw_poster("X", _LOGLINE, "drama", spec), dtype=np.float64
        )[:450].mean(axis=(0, 1))
        return colour

    red, blue = mean(("#3a0508", "#a01418", "#ff4a3d")), mean(("#050a3a", "#142ca0", "#3d7bff"))
    assert red[0] > red[2] + 30
    assert blue[2] > blue[0] + 30


def test_very_long_and_foreign_titles_fit() -> None:
    spec = PosterSpec(style="neon", key_visual="?", palette=("nonsense",))
    for title in (
        "W" * 200,
        "The " * 50,
        "\u6d77\u306e\u624b\u7d19",
        "\u041c\u043e\u0440\u0435 \u043f\u043e\u043c\u043d\u0438\u0442",
        "\U0001f642",
    ):
        picture = np.asarray(draw_poster(title, _LOGLINE * 9, "sci_fi", spec), dtype=int)
        assert picture[500:860, :12].max() < 200, "no letter touches the edge"
