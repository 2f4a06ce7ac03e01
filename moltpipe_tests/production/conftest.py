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
from moltpipe.runtime.services import S3Access
from moltpipe.store import Store
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.conftest import BUCKET


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


@pytest.fixture
def environment(database_url: str, object_storage: S3Access, tmp_path: Path) -> dict[str, str]:
    assert object_storage.secret_key is not None
    return {
        "MOLTPIPE_DATABASE_URL": database_url,
        "MOLTPIPE_DATA_DIR": str(tmp_path),
        "MOLTPIPE_S3_BUCKET": BUCKET,
        "MOLTPIPE_S3_ENDPOINT_URL": object_storage.endpoint_url,
        "AWS_ACCESS_KEY_ID": object_storage.access_key or "",
        "AWS_SECRET_ACCESS_KEY": object_storage.secret_key.get_secret_value(),
        "AWS_REGION": object_storage.region or "",
        "MOLTPIPE_PROFILE": "144p12",
    }
