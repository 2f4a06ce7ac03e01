"""Watching episodes being made: bars on a terminal, plain lines everywhere else.

Here: how progress looks. Not here: how far an episode is (`studio.progress`), when to give up (`cli.demo`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from uuid import UUID

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as LiveBars
from rich.table import Column

from moltpipe.cli.report import printable
from moltpipe.studio.progress import Progress
from moltpipe.studio.records import Episode

LINES_APART_S = 1.0
"""An episode says something new at most this often."""
_NAME_COLUMNS = 30
_BAR_COLUMNS = 20
_MAKING_COLUMNS = 17
_NO_SCRIPT_YET = "waits for its run"


class Watch(Protocol):
    """Is shown how far an episode is, as often as somebody looks."""

    def show(self, episode: Episode, progress: Progress | None) -> None:
        """Tell how far the episode is; None while it has no script."""


@contextmanager
def watching(console: Console, episodes: Sequence[Episode]) -> Iterator[Watch]:
    """A watch over these episodes for the length of a block."""
    if console.is_terminal:
        with _bars(console) as live:
            bars = Bars(live)
            for episode in episodes:
                bars.show(episode, None)
            yield bars
    else:
        lines = Lines(lambda line: console.print(line, soft_wrap=True))
        yield lines
        lines.say_the_rest()


class Bars:
    """A live bar per episode."""

    def __init__(self, live: LiveBars) -> None:
        self._live = live
        self._tasks: dict[UUID, TaskID] = {}

    def show(self, episode: Episode, progress: Progress | None) -> None:
        """Move the episode's bar."""
        if episode.id not in self._tasks:
            self._tasks[episode.id] = self._live.add_task(_name(episode), total=1, making=_NO_SCRIPT_YET)
        if progress is not None:
            self._live.update(
                self._tasks[episode.id],
                description=_name(episode),
                completed=progress.done,
                total=progress.total,
                making=progress.making,
            )


class Lines:
    """A line whenever an episode is at something new, for logs and pipes, where bars would show nothing at all."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._latest: dict[UUID, str] = {}
        self._said: dict[UUID, tuple[str, float]] = {}

    def show(self, episode: Episode, progress: Progress | None) -> None:
        """Say what the episode is at, if that is news and its last line is a second old."""
        self._latest[episode.id] = f"  {_name(episode)}: {progress.making if progress else _NO_SCRIPT_YET}"
        line, said_at = self._said.get(episode.id, ("", float("-inf")))
        now = self._clock()
        if line != self._latest[episode.id] and now - said_at >= LINES_APART_S:
            self._say(self._latest[episode.id])
            self._said[episode.id] = (self._latest[episode.id], now)

    def say_the_rest(self) -> None:
        """Say what came too soon after another line."""
        for episode_id, line in self._latest.items():
            if self._said[episode_id][0] != line:
                self._say(line)


def _bars(console: Console) -> LiveBars:
    return LiveBars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=_one_line(_NAME_COLUMNS)),
        BarColumn(bar_width=_BAR_COLUMNS),
        TextColumn("{task.fields[making]}", markup=False, table_column=_one_line(_MAKING_COLUMNS)),
        TimeElapsedColumn(),
        console=console,
    )


def _one_line(columns: int) -> Column:
    return Column(width=columns, no_wrap=True, overflow="ellipsis")


def _name(episode: Episode) -> str:
    """Number and title, cut to what a bar has room for."""
    name = printable(f"e{episode.number:02d} {episode.title}".replace("\n", " "))
    return name if len(name) <= _NAME_COLUMNS else f"{name[: _NAME_COLUMNS - 1].rstrip()}…"
