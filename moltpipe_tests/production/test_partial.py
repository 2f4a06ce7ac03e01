"""Many things at once: what becomes of the others when one fails."""

from __future__ import annotations

import asyncio

import pytest

from moltpipe.production.partial import SomeFailed, all_or_named, all_or_none


class Hand:
    """Works until it is sent away, and takes a moment to put its tools down."""

    def __init__(self) -> None:
        self.at_work = asyncio.Event()
        self.is_gone = False

    async def work(self) -> str:
        self.at_work.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(10):
                await asyncio.sleep(0)
            self.is_gone = True
        return "never"


async def test_together_all_is_done_in_the_order_in_which_it_was_asked_for() -> None:
    async def said(word: str, turns: int) -> str:
        for _ in range(turns):
            await asyncio.sleep(0)
        return word

    assert await all_or_none([said("first", 5), said("second", 1)]) == ["first", "second"]


async def test_a_failure_is_raised_once_all_others_have_left() -> None:
    hands = [Hand(), Hand()]

    async def fail() -> str:
        await asyncio.gather(*(hand.at_work.wait() for hand in hands))
        raise OSError("no film left")

    with pytest.raises(OSError, match="no film left"):
        await all_or_none([hands[0].work(), fail(), hands[1].work()])
    assert [hand.is_gone for hand in hands] == [True, True]


async def test_a_cancellation_goes_on_once_all_have_left() -> None:
    hands = [Hand(), Hand()]
    working = asyncio.create_task(all_or_none([hand.work() for hand in hands]))
    await asyncio.gather(*(hand.at_work.wait() for hand in hands))
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert [hand.is_gone for hand in hands] == [True, True]


async def test_others_are_called_kept_only_where_there_are_others() -> None:
    async def fail() -> str:
        raise OSError("no film left")

    async def work() -> str:
        return "done"

    with pytest.raises(SomeFailed) as some:
        await all_or_named("variants", [("variant 1", fail()), ("variant 2", work())])
    assert str(some.value) == "1 of 2 variants failed, the others are kept: variant 1: no film left"
    with pytest.raises(SomeFailed) as every:
        await all_or_named("variants", [("variant 1", fail())])
    assert str(every.value) == "1 of 1 variants failed: variant 1: no film left"
