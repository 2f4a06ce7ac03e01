"""What a command says: results on stdout, progress and complaints on stderr, JSON alone on stdout.

Here: how words, moments and tables look. Not here: which words (the commands).

Nothing is read as markup, and control characters are spelled out: titles and agents' names come from
strangers, and `[red]`, `:bomb:` or an escape sequence in one must not reach the operator's terminal as such.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from rich.console import Console
from rich.table import Table

out = Console(markup=False, emoji=False, highlight=False)
progress = Console(stderr=True, markup=False, emoji=False, highlight=False)

# Terminal controls, lone surrogates (from file names that are no text), and marks that turn the direction of text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def say(line: str = "") -> None:
    """One line of the result, never folded: ids and keys must stay whole when they are copied."""
    out.print(printable(line), soft_wrap=True)


def report(line: str) -> None:
    """One line about work in progress, on stderr."""
    progress.print(printable(line), soft_wrap=True)


@contextmanager
def telling(log_format: Literal["text", "json"]) -> Iterator[Callable[[str], None]]:
    """How a command that serves until Ctrl-C tells of its work: as `report`, or as lines of its log, in JSON."""
    if log_format == "text":
        yield report
        return
    # structlog takes a tenth of a second to import, which no other command need pay.
    from moltpipe.runtime.log_lines import LOGGER, log_lines  # noqa: PLC0415

    with log_lines(log_format):
        yield logging.getLogger(LOGGER).info


def complain(message: str) -> None:
    """What is wrong, on stderr."""
    progress.print(printable(message), style="red", soft_wrap=True)


def print_json(document: object) -> None:
    """One JSON document on stdout."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=not is_unicode) + "\n")
    # Here and not at exit, where a reader that has gone away could not be told from success any more.
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()) -> None:
    """A table for people. Columns of `numbers` are set to the right."""
    # One blank between columns: an id and two times leave no room for more.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    out.print(table)


def heading(title: str) -> None:
    """What the lines below are about."""
    out.print(printable(title), style="bold", soft_wrap=True)


def to_the_minute(moment: datetime) -> str:
    """A moment in a column whose head says UTC: `2026-11-21 04:49`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def printable(text: str) -> str:
    """The text with what a terminal would obey spelled out."""
    return _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
