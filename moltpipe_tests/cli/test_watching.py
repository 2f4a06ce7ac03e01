from __future__ import annotations

import io
import re
from uuid import uuid4

import pytest
from rich.console import Console

from moltpipe.cli.account import tell_account
from moltpipe.cli.watching import Lines, watching
from moltpipe.studio.progress import Progress
from moltpipe.studio.records import Episode

PILOT = Episode(uuid4(), uuid4(), 1, "The Buoy That Answered Nobody At All", "the-buoy-e01")
SECOND = Episode(uuid4(), uuid4(), 2, "[red]Echo", "the-buoy-e02")


class Clock:
    """Seconds as the test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def at(making: str, done: int = 1) -> Progress:
    return Progress(done=done, total=10, making=making)


def test_a_change_is_one_line_and_no_change_is_none() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    for making in ("lines 1 of 6", "lines 1 of 6", "lines 2 of 6"):
        lines.show(PILOT, at(making))
        clock.now += 1
    assert said == ["  e01 The Buoy That Answered No…: lines 1 of 6", "  e01 The Buoy That Answered No…: lines 2 of 6"]


def test_an_episode_speaks_once_a_second_and_the_last_word_is_never_lost() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    for number in range(5):
        lines.show(SECOND, at(f"takes {number} of 7"))
        clock.now += 0.3
    lines.show(SECOND, at("published"))
    lines.say_the_rest()
    assert said == [f"  e02 [red]Echo: {making}" for making in ("takes 0 of 7", "takes 4 of 7", "published")]


def test_one_episode_does_not_silence_another() -> None:
    said: list[str] = []
    lines = Lines(said.append, Clock())
    lines.show(PILOT, None)
    lines.show(SECOND, None)
    assert [line.split(": ")[1] for line in said] == ["waits for its run", "waits for its run"]


def test_a_log_gets_lines_and_no_terminal_codes() -> None:
    log = io.StringIO()
    with watching(Console(file=log, force_terminal=False), [PILOT]) as watch:
        watch.show(PILOT, at("takes 1 of 28"))
    assert log.getvalue() == "  e01 The Buoy That Answered No…: takes 1 of 28\n"


def test_a_terminal_of_80_columns_gets_a_bar_per_episode() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with watching(console, [PILOT, SECOND]) as watch:
        watch.show(PILOT, at("takes 12 of 28", done=5))
    drawn = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", screen.getvalue())
    pilot, second = [line.rstrip() for line in drawn.splitlines() if " e0" in line][-2:]
    assert "e01 The Buoy That Answered No…" in pilot
    assert "takes 12 of 28" in pilot
    assert "e02 [red]Echo" in second
    assert max(len(pilot), len(second)) <= 80


def test_the_account_of_a_demo_fits_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    variant = {"variant_number": 1, "duration_seconds": 42.125, "bytes": 1894803, "sha256": "64536702a43e" + "0" * 52}
    episode = {
        "episode_number": 3,
        "title": "What the Noticeboard Kept",
        "variants": [variant],
        "clip_vote": None,
        "selected_variant": 1,
    }
    tell_account(
        {
            "series": [{"title": "Exact Change", "episodes": [episode]}],
            "elapsed_seconds": 142.7,
            "closed_to_first_take_seconds": None,
        }
    )
    title, _, row, time = capsys.readouterr().out.splitlines()
    assert title == "Exact Change"
    assert row.split() == ["3", "What", "the", "Noticeboard", "Kept", "1", "42.1", "1.9", "64536702a43e"]
    assert len(row) <= 80
    assert time == "made in 143 s"
