"""A production line with the local engines and a small picture, on a real ledger and a real store."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.ledger.database import Database
from moltpipe.production.line import Crew, Line
from moltpipe.store import Store
from moltpipe.studio.profiles import parse_profile


@pytest.fixture
def line(database: Database, store: Store, tmp_path: Path) -> Line:
    return Line(
        database=database,
        store=store,
        crew=Crew(Outline(tmp_path), Espeak(tmp_path), Animatic(tmp_path), None),
        profile=parse_profile("144p12"),
        media_url=None,
        workdir=tmp_path,
        lease=timedelta(seconds=60),
        heartbeat=timedelta(seconds=5),
        calls_at_once=2,
        cuts_at_once=2,
    )
