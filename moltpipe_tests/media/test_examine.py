from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import psutil
import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.examine import START_S, Examined, examine, processor_s
from moltpipe.media.offload import offload
from moltpipe.media.probe import Probe, decode, probe
from moltpipe_tests.media.bad_files import Box, film, ten_thousand_huge_pictures, whole
from moltpipe_tests.media.material import source
from moltpipe_tests.media.processes import children_called, has_worked

LONG = "-f lavfi -i testsrc2=s=640x360:r=30:d=20 -c:v libx264 -preset ultrafast -bf 0 -g 600"
"""Takes long enough to decode that something can be done to it meanwhile."""


def test_what_the_child_saw_comes_out_whole(room: Path) -> None:
    sources = "-f lavfi -i testsrc2=s=160x90:r=30000/1001:d=2 -f lavfi -i sine=f=1000:d=2"
    file = source(room / "take.mkv", f"{sources} -c:v libx264 -c:a pcm_s16le")
    found = examine(file)
    assert found == Examined(probe(file, loudness=True), decode(file, strict=False))
    assert found.probe.audio is not None
    assert found.probe.audio.level is not None
    assert found.probe.audio.level.lufs == pytest.approx(-21, abs=1)


def test_a_probe_survives_its_json(room: Path) -> None:
    film_with_sound = "-f lavfi -i testsrc2=s=160x90:r=24000/1001:d=1 -f lavfi -i sine=d=1 -vf setsar=4/3"
    for args in (f"{film_with_sound} -c:v libx264 -c:a aac", "-f lavfi -i sine=d=1 -c:a flac"):
        found = probe(source(room / "take.mkv", f"-y {args}"), loudness=True)
        assert Probe.from_json(json.loads(json.dumps(found.as_json()))) == found


@contextmanager
def meanwhile(do: Callable[[psutil.Process], object]) -> Iterator[None]:
    """While the block runs, do something to the child process once it is reading."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.01):
            for child in children_called("moltpipe.media.examine"):
                # Before that it is still on its way from `setpriv` to Python.
                if has_worked(child):
                    with suppress(psutil.Error):
                        do(child)
                        return

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        yield
    finally:
        over.set()
        waiting.join()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGSEGV, "crashed the decoder (SIGSEGV)"),
        (signal.SIGABRT, "crashed the decoder (SIGABRT)"),
        (signal.SIGKILL, "runs out of memory"),
        (signal.SIGXCPU, "its processor time is spent"),
    ],
)
def test_a_decoder_that_dies_takes_nobody_along(room: Path, how: signal.Signals, said: str) -> None:
    file = source(room / "take.mp4", LONG)
    with meanwhile(lambda child: child.send_signal(how)), pytest.raises(MediaError) as died:
        examine(file)
    assert said in str(died.value)
    assert "take.mp4" in str(died.value)


def test_a_picture_that_does_not_fit_into_memory_is_refused(room: Path) -> None:
    file = source(room / "large.mkv", "-f lavfi -i color=s=4096x4096:r=2:d=1 -c:v libx264 -preset ultrafast")
    with pytest.raises(MediaError, match=r"large\.mkv (wants|needs) more|large\.mkv cannot be read"):
        examine(file, memory_bytes=256 << 20)
    assert examine(file).decoded.frames == 2


def test_a_look_that_hangs_is_ended_at_its_deadline(room: Path, offspring: Callable[[], list[psutil.Process]]) -> None:
    file = source(room / "take.mp4", LONG)
    with meanwhile(psutil.Process.suspend), pytest.raises(MediaError, match=r"take\.mp4 cannot be read in time"):
        examine(file, timeout_s=3)
    assert offspring() == []


async def test_a_cancelled_look_leaves_no_process(room: Path, offspring: Callable[[], list[psutil.Process]]) -> None:
    file = await asyncio.to_thread(source, room / "take.mp4", LONG)
    reading = threading.Event()
    with meanwhile(lambda _: reading.set()):
        task = asyncio.create_task(offload(examine, file))
        assert await asyncio.to_thread(reading.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert offspring() == []


def test_a_file_that_is_still_being_written_is_refused(room: Path) -> None:
    file = source(room / "take.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v libx264")
    over = threading.Event()

    def write() -> None:
        with file.open("ab") as end:
            while not over.wait(0.01):
                end.write(bytes(Box(b"free", bytes(8))))
                end.flush()

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with pytest.raises(MediaError, match=r"take\.mp4 changed while it was read"):
            examine(file)
    finally:
        over.set()
        writing.join()
    assert examine(file).decoded.frames == 25


def test_media_that_lies_in_another_file_is_never_read_from_there(room: Path) -> None:
    """The same file does play from its neighbour for whoever lets QuickTime's references be followed."""
    neighbour = whole(room)
    boxes = film(neighbour)
    name = b"/" + neighbour.name.encode()
    alias = bytes(130) + struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(name)) + name
    entry = bytes(Box(b"alis", bytes(4) + alias + struct.pack(">HH", 0xFFFF, 0)))
    boxes.one(b"dref").content = struct.pack(">II", 0, 1) + entry
    boxes.boxes = [box for box in boxes.boxes if box.name != b"mdat"]
    file = room / "pointing.mov"
    file.write_bytes(b"".join(map(bytes, boxes.boxes)))
    with av.open(f"file:{file}", options={"enable_drefs": "1"}) as followed:
        assert len(list(followed.decode(video=0))) == 24
    with pytest.raises(MediaError, match=r"pointing\.mov"):
        examine(file)


def test_the_child_is_told_no_secret(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_VEO_API_KEY", "hush")
    file = source(room / "take.mp4", LONG)
    seen: list[dict[str, str]] = []
    with meanwhile(lambda child: seen.append(child.environ())):
        examine(file)
    (environment,) = seen
    assert "hush" not in environment.values()
    assert set(environment) <= {"PATH", "LD_LIBRARY_PATH", "TZ", "LANG", "MALLOC_ARENA_MAX"}
    assert os.environ["MOLTPIPE_VEO_API_KEY"] == "hush"


def test_what_could_never_be_decoded_in_time_is_refused_before_it_is(room: Path) -> None:
    """Ten thousand pictures of 64 megapixels in 80 kB. Decoding them to the end of their time took five seconds."""
    bomb = ten_thousand_huge_pictures(room, "")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(MediaError, match="10000 pictures of 8000x8000 pixels in"):
        examine(bomb)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < START_S / 2


def test_an_hour_of_footage_gets_its_time_and_a_small_file_does_not() -> None:
    hour = 3600.0
    assert processor_s(4_500_000_000, hour) > 10 * hour
    assert processor_s(70_000_000, hour) > 1200
    assert processor_s(3_000, 365 * 24 * hour) < START_S + 1
    assert processor_s(3_000, 0) < START_S + 1
    assert processor_s(1_000_000_000, 5) < 300
