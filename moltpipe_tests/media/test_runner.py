from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.runner import run, url

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
