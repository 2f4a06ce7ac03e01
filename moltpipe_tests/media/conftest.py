from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from moltpipe_tests.media.processes import children_called


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a hard name to work in; afterwards no temp file and no process may be left."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    folder = tmp_path / "it's a 'cutting' room, 100%d [x]; #1"
    folder.mkdir()
    yield folder
    assert list(scratch.iterdir()) == []
    assert [path for path in folder.rglob("*") if ".part" in path.name] == []
    assert children_called("ffmpeg") == []


@pytest.fixture
def offspring() -> Callable[[], list[psutil.Process]]:
    """Tells which processes the test has started: services that other tests share may be children as well."""
    before = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in before]
