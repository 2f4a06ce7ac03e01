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
        super().__init__(f"{len(failed)} of {total} {noun} failed, the others are kept: {lines}")
        self.failed = tuple(failed)


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
