"""Links that an operator can click, without a signature in them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from moltpipe.runtime.media_links import media_links, media_port
from moltpipe.runtime.ports import free_ports
from moltpipe.store import Store
from moltpipe.studio.keys import voiceover_key


@pytest.fixture
def address(store: Store) -> Iterator[str]:
    with media_links(store, free_ports(1)[0]) as url:
        yield url


def test_a_link_leads_to_the_object(address: str, store: Store, tmp_path: Path) -> None:
    file = tmp_path / "line.wav"
    file.write_bytes(b"sound")
    stored = store.put(file, lambda sha256: voiceover_key(uuid4(), 1, sha256))
    answer = httpx.get(f"{address}/{stored.key}", follow_redirects=True, trust_env=False)
    assert answer.content == b"sound"
    assert len(answer.history) == 1


def test_what_is_no_published_media_stays_hidden(address: str) -> None:
    for path in (
        "compute-logs/storage/a-run/out",
        "",
        "episodes",
        "%2e%2e/episodes/x",
        "episodes/%2e%2e/compute-logs/x",
    ):
        assert httpx.get(f"{address}/{path}", trust_env=False).status_code == 404


def test_the_port_stays_the_same_while_it_is_free(tmp_path: Path) -> None:
    first = media_port(tmp_path)
    assert media_port(tmp_path) == first
