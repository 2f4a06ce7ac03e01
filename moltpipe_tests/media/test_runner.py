from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil
import pytest

from moltpipe.media.attendant import Outlet, Watch, attend, bound_to_us
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.runner import COPYING, deadline_s, piped, run, url

RAW = ["-f", "rawvideo", "-pixel_format", "gray", "-video_size", "64x64", "-i", "pipe:0", "-f", "null", "-"]


@pytest.mark.usefixtures("room")
def test_a_run_that_hangs_is_ended_at_its_deadline() -> None:
    with pytest.raises(MediaError, match="did not end within 1 s"):
        run(["-re", "-f", "lavfi", "-i", "testsrc2", "-f", "null", "-"], timeout_s=1)


@pytest.mark.usefixtures("room")
def test_an_error_while_drawing_ends_the_run_and_comes_out_as_it_is() -> None:
    def drawing() -> Iterator[bytes]:
        yield bytes(64 * 64)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(RAW, timeout_s=30, stdin=drawing())


def test_a_run_whose_output_stands_still_is_ended_long_before_its_deadline(room: Path) -> None:
    pipe = room / "never.y4m"
    os.mkfifo(pipe)
    with pytest.raises(MediaError, match="did not get on for 1 s"):
        run(["-i", url(pipe), "-f", "null", "-"], timeout_s=600, stall_s=1)


@pytest.mark.usefixtures("room")
def test_a_run_that_waits_for_us_does_not_stand_still() -> None:
    def drawing() -> Iterator[bytes]:
        for _ in range(2):
            threading.Event().wait(1.5)
            yield bytes(64 * 64)

    run(RAW, timeout_s=60, stdin=drawing(), stall_s=1)


@pytest.mark.usefixtures("room")
def test_a_program_that_stops_reading_is_ended() -> None:
    def drawing() -> Iterator[bytes]:
        while True:
            yield bytes(1_000_000)

    ended = attend(["sleep", "600"], watch=Watch(600, 1), on_line=print, stdin=drawing())
    assert ended.fault == "did not get on for 1 s"


@pytest.mark.usefixtures("room")
def test_progress_is_told_in_seconds_of_output() -> None:
    told: list[float] = []
    film = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=24:d=4", "-c:v", "mpeg4", "-f", "null", "-"]
    run(film, timeout_s=60, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(4.0, abs=0.05)


@pytest.mark.usefixtures("room")
def test_an_error_in_whoever_hears_the_progress_ends_the_run_and_comes_out() -> None:
    def hear(_: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(["-re", "-f", "lavfi", "-i", "testsrc2=s=64x64", "-f", "null", "-"], timeout_s=60, on_progress=hear)


def open_pipes() -> int:
    return psutil.Process().num_fds()


ENDLESS_SOUND = ["-f", "lavfi", "-i", "anoisesrc", "-f", "f32le"]


@pytest.mark.usefixtures("room")
def test_a_second_output_is_read_to_its_end_while_the_program_runs() -> None:
    read: list[bytes] = []

    def collect(stream: IO[bytes]) -> None:
        while piece := stream.read(4096):
            read.append(piece)

    before = open_pipes()
    with Outlet(collect) as outlet:
        run(["-f", "lavfi", "-i", "anoisesrc=d=3:r=48000", "-f", "f32le", piped(outlet)], timeout_s=60, outlet=outlet)
    assert len(b"".join(read)) == 3 * 48_000 * 4
    assert open_pipes() == before


@pytest.mark.usefixtures("room")
def test_an_error_in_whoever_reads_a_second_output_ends_the_run_and_comes_out() -> None:
    def choke(stream: IO[bytes]) -> None:
        stream.read(4096)
        raise ZeroDivisionError

    before = open_pipes()
    with Outlet(choke) as outlet, pytest.raises(ZeroDivisionError):
        run([*ENDLESS_SOUND, piped(outlet)], timeout_s=60, outlet=outlet)
    assert open_pipes() == before


@pytest.mark.usefixtures("room")
def test_a_second_output_that_is_not_read_to_its_end_does_not_keep_the_run_waiting() -> None:
    def taste(stream: IO[bytes]) -> None:
        stream.read(4096)

    with Outlet(taste) as outlet, pytest.raises(MediaError, match="Broken pipe"):
        run([*ENDLESS_SOUND, piped(outlet)], timeout_s=60, outlet=outlet)


@pytest.mark.usefixtures("room")
def test_a_second_output_of_a_run_that_never_began_is_closed() -> None:
    before = open_pipes()
    with pytest.raises(ZeroDivisionError), Outlet(print):
        raise ZeroDivisionError
    assert open_pipes() == before


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("then", ["wait", "exit 0"])
def test_the_children_of_a_child_are_ended_with_it(then: str) -> None:
    """Whether the child is killed at its deadline, or leaves by itself while its own child holds its pipes."""
    numbers: list[str] = []
    ended = attend(["sh", "-c", f"sleep 600 & echo $!; {then}"], watch=Watch(2, 600), on_line=numbers.append)
    assert (ended.fault is not None) == (then == "wait")
    (number,) = numbers
    assert gone(int(number))


def gone(number: int) -> bool:
    """Whether a process has ended, though the one that took it over may be slow to bury it."""
    try:
        process = psutil.Process(number)
        psutil.wait_procs([process], timeout=0.5)
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(not bound_to_us(), reason="there is no setpriv here that can bind a child to its parent")
def test_a_run_worker_that_is_killed_takes_its_ffmpeg_along(room: Path) -> None:
    script = (
        "from moltpipe.media.runner import run;"
        "run(['-re', '-f', 'lavfi', '-i', 'testsrc2=s=64x64', '-f', 'null', '-'], timeout_s=60,"
        " on_progress=lambda _: print('encoding', flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=room) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"encoding\n"
        (ffmpeg,) = psutil.Process(worker.pid).children()
        worker.send_signal(signal.SIGKILL)
    assert gone(ffmpeg.pid)


def test_a_deadline_grows_with_the_work() -> None:
    assert deadline_s(0) == deadline_s(0, pace=COPYING) >= 10
    assert deadline_s(7200, pace=COPYING) < deadline_s(7200) / 10


def test_a_failure_carries_the_last_words_of_ffmpeg(room: Path) -> None:
    with pytest.raises(MediaError, match="No such file or directory"):
        run(["-i", url(room / "absent.mp4"), "-f", "null", "-"], timeout_s=30)


@pytest.mark.usefixtures("room")
def test_a_talkative_run_does_not_choke_on_its_own_words() -> None:
    talk = ["-loglevel", "info", "-f", "lavfi", "-i", "testsrc2=s=64x64:d=60", "-vf", "showinfo", "-f", "null", "-"]
    finished = run(talk, timeout_s=60)
    assert 1 <= len(finished.stderr.splitlines()) <= 30


def test_no_input_can_make_us_call_a_host(room: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/take.ts"
        playlist = room / "take.m3u8"
        playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n")
        for named in (url(playlist), address):
            with pytest.raises(MediaError):
                run(["-i", named, "-f", "null", "-"], timeout_s=5)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_failed_landing_leaves_the_older_file_alone(room: Path) -> None:
    target = room / "cut.mp4"
    target.write_text("older")

    def break_off() -> None:
        with landing(target) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert target.read_text() == "older"
    assert list(room.iterdir()) == [target]
