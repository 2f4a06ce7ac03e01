"""Failure is partial: what succeeded is kept, what failed is named.

Here: doing many things at once and reporting every failure. The rule behind it: one failed shot fails its
episode, not the series, and the shots that succeeded are not paid for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Failed:
    """One thing that did not work out, by the name that the operator knows it by."""

    what: str
    error: BaseException


class SomeFailed(Exception):
    """Some of many failed; the others are done and recorded."""

    def __init__(self, noun: str, failed: Sequence[Failed], total: int) -> None:
        lines = "; ".join(f"{one.what}: {one.error}" for one in failed)
        kept = ", the others are kept" if len(failed) < total else ""
        super().__init__(f"{len(failed)} of {total} {noun} failed{kept}: {lines}")
        self.failed = tuple(failed)


async def all_or_none(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run everything; the first failure ends the rest, and is raised once the rest has ended, as is a cancellation.

    `asyncio.gather` leaves at the first failure and the first cancelled part, and the others work on: into a folder
    that is being removed, at a desk that somebody else was given.
    """
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def all_or_named(noun: str, work: Sequence[tuple[str, Coroutine[Any, Any, T]]]) -> list[T]:
    """Run everything to its end, then return the results or raise with every failure at once.

    Raises:
        SomeFailed: at least one failed.
    """
    outcomes = await asyncio.gather(*(one for _, one in work), return_exceptions=True)
    failed = [
        Failed(what, outcome)
        for (what, _), outcome in zip(work, outcomes, strict=True)
        if isinstance(outcome, BaseException)
    ]
    if failed:
        raise SomeFailed(noun, failed, len(work))
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
