"""The command, called in this process on a database of the test's own. Its S3 is an address that nobody contacts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from moltpipe.cli import main
from moltpipe.settings import variables


@dataclass(frozen=True)
class Said:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """What stands on stdout, if it is one JSON document and nothing else."""
        document: dict[str, Any] = json.loads(self.out)
        return document


Moltpipe = Callable[..., Said]


def now() -> datetime:
    return datetime.now(UTC)


def commands(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Moltpipe:
    """Calls `moltpipe WORDS…` in an environment in which nothing is set but where the services are."""
    for name in variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", database_url)
    monkeypatch.setenv("MOLTPIPE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MOLTPIPE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["moltpipe", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Said(ended.value.code, printed.out, printed.err)

    return call


@pytest.fixture
def moltpipe(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Moltpipe:
    """Calls `moltpipe WORDS…`."""
    return commands(database_url, tmp_path, monkeypatch, capfd)
