from __future__ import annotations

import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import psutil
import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.examine import MEMORY_BYTES, examine
from moltpipe.production.ingest import NotMedia, check_media
from moltpipe_tests.media.bad_files import BAD, ODD, Bad, Odd
from moltpipe_tests.media.material import source

PATIENCE_S = 10.0 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
"""Ten seconds, on a machine that has nothing else to do."""
said_of: dict[str, str] = {}
"""What was said of each bad file, its own name left out."""


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_file_is_refused_in_time_and_by_its_name(
    room: Path, server: socket.socket, bad: Bad, offspring: Callable[[], list[psutil.Process]]
) -> None:
    host = f"127.0.0.1:{server.getsockname()[1]}"
    file = bad.build(room, host)
    there = set(room.iterdir())
    began = monotonic()
    with pytest.raises(NotMedia) as refused:
        check_media(file, "film")
    assert monotonic() - began < PATIENCE_S
    seen = refused.value.__cause__
    assert isinstance(seen, MediaError)
    assert re.search(bad.said, str(seen))
    assert str(refused.value) == f"the result cannot be used: {seen}"
    assert file.name in str(seen)
    assert set(room.iterdir()) == there
    assert offspring() == []
    with pytest.raises(BlockingIOError):
        server.accept()
    said_of[bad.name] = str(seen).replace(str(file), "").replace(file.name, "")


def test_what_is_wrong_in_different_ways_is_told_in_different_words() -> None:
    if len(said_of) < len(BAD):
        pytest.skip("not every bad file was looked at in this process")
    kinds: dict[str, set[str]] = {}
    for bad in BAD:
        kinds.setdefault(said_of[bad.name], set()).add(bad.kind)
    assert {words: of for words, of in kinds.items() if len(of) > 1} == {}
    assert len(BAD) >= 30


def test_no_bad_file_makes_its_reader_grow_beyond_the_limit() -> None:
    """The largest of all children of this process, the programs that made the files included."""
    largest_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert 0 < largest_kb * 1024 < MEMORY_BYTES


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told_from_a_broken_one(room: Path) -> None:
    file = source(room / "take.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -c:v libx264")
    file.chmod(0)
    with pytest.raises(MediaError, match="Permission denied"):
        examine(file)


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_a_file_that_only_looks_odd_is_accepted(room: Path, odd: Odd) -> None:
    found = examine(source(room / odd.name, odd.args))
    assert found.decoded.frames or found.decoded.samples
    if found.probe.video is not None:
        assert found.probe.video.frames == found.decoded.frames
    if found.probe.audio is not None:
        assert found.probe.audio.samples == found.decoded.samples


@pytest.mark.parametrize(
    ("args", "operation", "said"),
    [
        ("-f lavfi -i sine=d=1 -c:a aac", "film", "the result has no picture"),
        ("-f lavfi -i testsrc2=s=64x64:d=1 -c:v libx264", "speak", "the result has no sound"),
    ],
)
def test_a_good_file_of_the_wrong_kind_is_refused_as_well(room: Path, args: str, operation: str, said: str) -> None:
    with pytest.raises(NotMedia, match=said):
        check_media(source(room / "result.mp4", args), operation)
