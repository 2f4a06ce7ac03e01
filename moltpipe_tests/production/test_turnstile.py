"""One call asks for a place on behalf of all that a stage has waiting."""

from __future__ import annotations

import asyncio

import pytest

from moltpipe.production.turnstile import Turnstile


class Full(Exception):
    pass


async def test_calls_ask_one_after_the_other_in_the_order_in_which_they_came() -> None:
    turnstile = Turnstile()
    asked: list[int] = []

    async def ask(number: int) -> None:
        async with turnstile.turn():
            asked.append(number)
            await asyncio.sleep(0)
            assert asked[-1] == number, "another one asks at the same time"

    await asyncio.gather(*(ask(number) for number in range(5)))
    assert asked == [0, 1, 2, 3, 4]


async def test_what_one_call_was_told_is_told_to_those_behind_it() -> None:
    turnstile = Turnstile()
    told = Full("the account is closed")

    async def ask() -> None:
        async with turnstile.turn():
            raise turnstile.closed_by(told)

    outcomes = await asyncio.gather(ask(), ask(), return_exceptions=True)
    assert list(outcomes) == [told, told]


async def test_a_failure_of_one_call_is_its_own() -> None:
    turnstile = Turnstile()
    with pytest.raises(Full):
        async with turnstile.turn():
            raise Full("this call alone")
    async with turnstile.turn():
        pass


async def test_what_was_freed_before_the_asking_is_no_news_and_what_is_freed_after_it_is() -> None:
    turnstile = Turnstile()
    turnstile.note_freed()
    turnstile.before_asking()
    waiting = asyncio.create_task(turnstile.until_freed(60))
    await asyncio.sleep(0)
    assert not waiting.done()
    turnstile.note_freed()
    await asyncio.wait_for(waiting, 10)


async def test_waiting_ends_without_news_as_well() -> None:
    turnstile = Turnstile()
    turnstile.before_asking()
    await turnstile.until_freed(0.01)


def test_the_usual_length_of_a_job_is_the_shortest_that_was_seen() -> None:
    turnstile = Turnstile()
    assert turnstile.usual_s is None
    for seconds in (6.0, 5.0, 7.0):
        turnstile.note_lasted(seconds)
    assert turnstile.usual_s == 5.0
