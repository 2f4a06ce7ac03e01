from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from moltpipe.media.landing import landing
from moltpipe.media.offload import Stopped, carried, current_stop, heed, offload, offload_to
from moltpipe.media.probe import decode
from moltpipe.media.runner import run, url
from moltpipe_tests.media.material import source

ENDLESS = ["-re", "-f", "lavfi", "-i", "testsrc2=s=64x64"]


def encode(target: Path, begun: threading.Event) -> None:
    """Encode until somebody ends it; `begun` once there is something in the file that must not stay."""

    def watched(_: float) -> None:
        begun.set()

    with landing(target) as part:
        run([*ENDLESS, "-c:v", "libx264", url(part)], timeout_s=60, on_progress=watched)


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def until(begun: threading.Event) -> None:
    assert await asyncio.to_thread(begun.wait, 30)


async def test_a_cancelled_task_takes_its_ffmpeg_and_its_temp_file_along(
    room: Path, offspring: Callable[[], list[psutil.Process]]
) -> None:
    begun = threading.Event()
    task = asyncio.create_task(offload(encode, room / "cut.mp4", begun))
    await until(begun)
    (ffmpeg,) = offspring()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ffmpeg.is_running()
    assert left_in(room) == []


async def test_every_thread_of_a_pool_that_carries_the_stop_is_ended(
    room: Path, offspring: Callable[[], list[psutil.Process]]
) -> None:
    begun = [threading.Event() for _ in range(3)]

    def batch() -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(carried(encode), [room / f"{number}.mp4" for number in range(3)], begun))

    task = asyncio.create_task(offload(batch))
    for event in begun:
        await until(event)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert offspring() == []
    assert left_in(room) == []


async def test_a_second_cancellation_does_not_leave_the_thread_behind(room: Path) -> None:
    begun, released = threading.Event(), threading.Event()
    over = []

    def slow_to_end() -> None:
        try:
            encode(room / "cut.mp4", begun)
        finally:
            released.wait(30)
            over.append(True)

    task = asyncio.create_task(offload(slow_to_end))
    await until(begun)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert over == [True]


async def test_a_run_that_begins_after_the_stop_is_ended_at_once(room: Path) -> None:
    begun, stopped = threading.Event(), []

    def stubborn() -> None:
        for name in ("first.mp4", "second.mp4"):
            try:
                encode(room / name, begun)
            except Stopped:
                stopped.append(name)

    task = asyncio.create_task(offload(stubborn))
    await until(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped == ["first.mp4", "second.mp4"]


async def test_decoding_in_our_own_process_is_left_on_the_stop(room: Path) -> None:
    args = "-f lavfi -i testsrc2=s=320x180:r=30:d=120 -c:v libx264 -preset ultrafast"
    film = await asyncio.to_thread(source, room / "long.mp4", args)
    begun, reached = threading.Event(), [0.0]

    def watched(seconds: float) -> None:
        reached.append(seconds)
        begun.set()

    task = asyncio.create_task(offload(decode, film, strict=False, on_progress=watched))
    await until(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached[-1] < 119


async def test_a_result_and_an_error_come_out_as_they_are() -> None:
    def divide(number: int, *, by: int) -> float:
        heed()
        return number / by

    assert await offload(divide, 6, by=3) == 2
    with pytest.raises(ZeroDivisionError):
        await offload(divide, 6, by=0)


async def test_cancelling_one_piece_of_work_leaves_the_others_alone(room: Path) -> None:
    begun, other = threading.Event(), threading.Event()

    def patient() -> bool:
        other.wait(30)
        return current_stop().asked

    one, two = asyncio.create_task(offload(encode, room / "cut.mp4", begun)), asyncio.create_task(offload(patient))
    await until(begun)
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    other.set()
    assert await two is False


async def test_work_that_waits_for_a_desk_is_never_begun_once_it_is_cancelled() -> None:
    began: list[int] = []
    free = threading.Event()

    def hold() -> None:
        free.wait(30)

    with ThreadPoolExecutor(1) as desks:
        first = asyncio.create_task(offload_to(desks, hold))
        second = asyncio.create_task(offload_to(desks, began.append, 1))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        free.set()
        await first
    assert began == []


async def test_a_generator_that_feeds_ffmpeg_is_closed_by_the_stop(room: Path) -> None:
    begun, closed = threading.Event(), []
    raw = ["-f", "rawvideo", "-pixel_format", "gray", "-video_size", "64x64", "-i", "pipe:0"]

    def frames() -> Iterator[bytes]:
        try:
            while True:
                begun.set()
                yield bytes(64 * 64)
        finally:
            closed.append(True)

    def draw() -> None:
        run([*raw, "-f", "null", "-"], timeout_s=60, stdin=frames())

    task = asyncio.create_task(offload(draw))
    await until(begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
    assert left_in(room) == []


async def test_work_that_was_stopped_leaves_no_complaint_in_the_log() -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told["message"]))
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        with current_stop().ending(ended.set):
            begun.set()
            ended.wait()
            heed()

    task = asyncio.create_task(offload(work))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []
