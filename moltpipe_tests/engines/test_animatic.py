from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.errors import EngineError
from moltpipe.engines.protocols import Progress, TakeRequest
from moltpipe.media.probe import probe
from moltpipe_tests.engines.conftest import TakeRequests
from moltpipe_tests.engines.orders import order


async def _film(camera: Animatic, request: TakeRequest) -> Path:
    job = await camera.submit(request, order())
    while isinstance(result := await camera.poll(job), Progress):
        pass
    return result.local


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_a_clip_has_the_size_rate_and_frames_of_its_request(tmp_path: Path, take: TakeRequests) -> None:
    request = take(width=640, height=360, rate=24, seconds=1.5)
    file = await _film(Animatic(tmp_path), request)
    facts = probe(file)
    assert facts.video is not None
    assert (facts.video.width, facts.video.height) == (640, 360)
    assert facts.video.rate == 24
    assert facts.video.frames == 36
    assert facts.audio is None


async def test_a_cancelled_take_ends_soon_and_leaves_no_file(tmp_path: Path, take: TakeRequests) -> None:
    camera = Animatic(tmp_path)
    job = await camera.submit(take(width=1280, height=720, rate=24, seconds=10), order())
    assert isinstance(await camera.poll(job), Progress)
    await asyncio.wait_for(camera.cancel(job), timeout=20)
    assert _files(tmp_path) == []
    with pytest.raises(EngineError, match="cancelled"):
        await camera.poll(job)
