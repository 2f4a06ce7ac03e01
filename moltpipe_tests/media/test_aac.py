from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import psutil
import pytest

from moltpipe.media.aac import PACKET, encode
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.offload import offload
from moltpipe.media.pcm import SAMPLE_RATE, Block, decoded
from moltpipe.media.probe import probe

MINUTE = 2_812 * PACKET


def noise(samples: int, seed: int = 1) -> Generator[Block]:
    """Blocks of a second, the last one shorter."""
    random = np.random.default_rng(seed)
    for start in range(0, samples, SAMPLE_RATE):
        yield 0.1 * random.standard_normal((min(SAMPLE_RATE, samples - start), 2), dtype=np.float32)


def index_stands_first(file: Path) -> bool:
    content = file.read_bytes()
    return content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("samples", [PACKET, 2 * PACKET, 235 * PACKET])
def test_what_is_heard_while_it_is_encoded_is_to_the_sample_what_the_file_plays(room: Path, samples: int) -> None:
    heard: list[Block] = []
    encode(noise(samples), room / "track.m4a", samples=samples, hear=heard.append)
    assert np.array_equal(np.concatenate(heard), np.concatenate(list(decoded(room / "track.m4a"))))
    sound = probe(room / "track.m4a").audio
    assert sound is not None
    assert (sound.samples, sound.starts_at_s) == (samples, 0.0)
    assert index_stands_first(room / "track.m4a")


def test_it_is_heard_before_the_last_of_it_is_made(room: Path) -> None:
    heard: list[int] = []
    heard_by_the_end: list[int] = []

    def made() -> Generator[Block]:
        yield from noise(MINUTE)
        heard_by_the_end.append(sum(heard))

    encode(made(), room / "track.m4a", samples=MINUTE, hear=lambda block: heard.append(len(block)))
    assert sum(heard) == MINUTE
    assert heard_by_the_end[0] > MINUTE / 2


def names(room: Path) -> list[str]:
    return [path.name for path in room.iterdir()]


def break_off(_: Block) -> None:
    raise ZeroDivisionError


def landed(target: Path, blocks: Generator[Block], hear: Callable[[Block], None]) -> None:
    with landing(target) as part:
        encode(blocks, part, samples=MINUTE, hear=hear)


def test_an_error_in_whoever_listens_ends_the_encoder_and_comes_out_as_it_is(room: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        landed(room / "track.m4a", noise(MINUTE), break_off)
    assert names(room) == []


def test_an_error_in_what_is_encoded_comes_out_as_it_is(room: Path) -> None:
    def made() -> Generator[Block]:
        yield from noise(10 * SAMPLE_RATE)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        landed(room / "track.m4a", made(), lambda _: None)
    assert names(room) == []


def test_an_encoder_that_dies_is_an_error_and_no_short_soundtrack(
    room: Path, offspring: Callable[[], list[psutil.Process]]
) -> None:
    def shoot(_: Block) -> None:
        for child in offspring():
            child.kill()

    with pytest.raises(MediaError, match="ffmpeg ended with status -9"):
        landed(room / "track.m4a", noise(MINUTE), shoot)
    assert names(room) == []


def test_less_sound_than_was_announced_is_an_error(room: Path) -> None:
    with pytest.raises(MediaError, match=rf"given {MINUTE} samples of sound, and {10 * PACKET} came out"):
        landed(room / "track.m4a", noise(10 * PACKET), lambda _: None)
    assert names(room) == []


def test_a_soundtrack_that_cannot_be_written_is_an_error(room: Path) -> None:
    with pytest.raises(MediaError, match="cannot be written"):
        encode(noise(MINUTE), room / "no such folder" / "track.m4a", samples=MINUTE, hear=lambda _: None)
    with pytest.raises(MediaError, match="cannot be written: No space left on device"):
        encode(noise(MINUTE), Path("/dev/full"), samples=MINUTE, hear=lambda _: None)


async def test_a_stop_ends_the_encoder_also_while_somebody_listens(room: Path) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen(_: Block) -> None:
        loop.call_soon_threadsafe(begun.set)

    work = asyncio.create_task(offload(landed, room / "track.m4a", noise(MINUTE), listen))
    await begun.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert names(room) == []
