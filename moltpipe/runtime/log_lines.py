"""What our own modules log, as lines on stderr: for a person, or one JSON object a line for a collector.

Here: which lines are printed and how they look. Not here: the lines (`production`, `media`), the run, episode, shot and
call that they carry (bound where they become known, as context variables of structlog), Dagster's own event log.

Nothing is set up at import, and nothing but the logger `moltpipe` is touched: Dagster sets up its own loggers in the
same process, and whoever imports moltpipe as a library has theirs.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["text", "json"]

LOGGER = "moltpipe"
LONGEST_VALUE = 600
"""Characters of a text in a line: the whole of an error is in the ledger."""

_CREDENTIALS = re.compile(r"(\w[\w+.-]*://)[^\s/?#@\"']+@")
_SERVICE = re.compile(r"((?:postgres\w*|redis\w*|\w*amqps?)(?:\+\w+)?://)[^\s\"']*@")
"""An address of a service of ours, whose password may hold what should have been encoded."""
_SIGNATURE = re.compile(r"(\w[\w+.-]*://[^\s?\"']*)\?[^\s\"']*")
_NAMED = re.compile(r"(?i)(\b(?:x-amz-\w+|signature|password|api_?key|access_token)=|\bbearer )[^\s&\"'\\]+")
"""What other libraries quote without an address."""


@contextmanager
def log_lines(log_format: LogFormat, stream: TextIO | None = None) -> Iterator[None]:
    """Print what `moltpipe` logs from INFO on, for the length of a block; inside another one, do nothing more.

    Without a `stream`, on what is stderr when the block begins.
    """
    logger = logging.getLogger(LOGGER)
    if any(handler.get_name() == LOGGER for handler in logger.handlers):
        yield
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.set_name(LOGGER)
    handler.setFormatter(formatter(log_format))
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # Whoever has a handler at the root would print each line a second time.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def formatter(log_format: LogFormat) -> logging.Formatter:
    """How a record of the standard library becomes a line: `time`, `level`, `logger`, `event`, then what it carries."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.ExtraAdder(),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        _fit_to_print,
    ]
    render: Processor = structlog.processors.JSONRenderer(ensure_ascii=False) if log_format == "json" else _for_a_person
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _in_order, render],
    )


_FIRST = ("time", "level", "logger", "event")


def _in_order(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {key: line.pop(key, "") for key in _FIRST} | dict(line)


def _for_a_person(_logger: WrappedLogger, _method: str, line: EventDict) -> str:
    """`2026-11-21T17:00:00Z info moltpipe.production.work: episode claimed run_id=… episode=…`, the traceback below."""
    time, level, logger, event = (line.pop(key) for key in _FIRST)
    traceback = line.pop("exception", "")
    carried = "".join(f" {key}={_in_one_word(value)}" for key, value in line.items())
    told = f"{time} {level} {logger}: {event}{carried}"
    return f"{told}\n{traceback}" if traceback else told


def _in_one_word(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and not set(text) & {" ", "="} else json.dumps(text, ensure_ascii=False)


def _fit_to_print(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Without passwords and signatures of addresses, and without the whole of a long text."""
    return {key: _short(key, _plain(value)) if isinstance(value, str) else value for key, value in line.items()}


def _plain(text: str) -> str:
    for secret, kept in ((_SERVICE, r"\1…@"), (_CREDENTIALS, r"\1…@"), (_SIGNATURE, r"\1?…"), (_NAMED, r"\1…")):
        text = secret.sub(kept, text)
    return text


def _short(key: str, text: str) -> str:
    if len(text) <= LONGEST_VALUE:
        return text
    # What happened stands at the end of a traceback, and at the beginning of everything else.
    return f"…{text[1 - LONGEST_VALUE :]}" if key == "exception" else f"{text[: LONGEST_VALUE - 1]}…"
