"""The store, on a real S3 server."""

from __future__ import annotations

import hashlib
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from uuid import uuid4

import boto3
import httpx
import pytest
from botocore.stub import Stubber

from moltpipe.store import IN_A_TRANSACTION, Patience, Store, StoreError, connect
from moltpipe.studio.keys import voiceover_key
from moltpipe.studio.records import Stored


def a_file(folder: Path, content: bytes = b"sound") -> Path:
    file = folder / f"{uuid4()}.wav"
    file.write_bytes(content)
    return file


def put(store: Store, file: Path) -> Stored:
    shot_id = uuid4()
    return store.put(file, lambda sha256: voiceover_key(shot_id, 1, sha256))


def test_an_object_is_stored_under_its_content(store: Store, tmp_path: Path) -> None:
    stored = put(store, a_file(tmp_path))
    sha256 = hashlib.sha256(b"sound").hexdigest()
    assert (stored.sha256, stored.bytes) == (sha256, 5)
    assert sha256[:12] in stored.key
    assert store.size(stored.key) == 5
    assert store.get(stored, tmp_path / "back.wav").read_bytes() == b"sound"


def test_a_browser_is_told_what_it_gets_and_may_keep_it(store: Store, tmp_path: Path) -> None:
    stored = put(store, a_file(tmp_path))
    answer = httpx.get(store.presign(stored.key, expires_s=60), trust_env=False)
    assert answer.content == b"sound"
    assert answer.headers["content-type"] == "audio/wav"
    assert "immutable" in answer.headers["cache-control"]
    assert httpx.get(store.presign(stored.key).partition("?")[0], trust_env=False).status_code == 403


def test_putting_the_same_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    file, shot_id = a_file(tmp_path), uuid4()
    first = store.put(file, lambda sha256: voiceover_key(shot_id, 1, sha256))
    assert store.put(file, lambda sha256: voiceover_key(shot_id, 1, sha256)) == first
    assert [one.key for one in store.listing(f"voiceovers/{shot_id}/")] == [first.key]


def test_a_listing_goes_on_behind_a_key_in_the_order_of_bytes(store: Store, tmp_path: Path) -> None:
    folder = f"voiceovers/{uuid4()}"
    keys = sorted(f"{folder}/{name}.wav" for name in ("B", "a", "b", "c", "ä"))
    for key in reversed(keys):
        store.put(a_file(tmp_path), partial(str.format, key))
    assert [one.key for one in store.listing(f"{folder}/")] == keys
    assert [one.key for one in store.listing(f"{folder}/", after=keys[1])] == keys[2:]
    first = store.page(f"{folder}/", limit=2)
    assert [one.key for one in first.objects] == keys[:2]
    assert first.more
    rest = store.page(f"{folder}/", after=keys[1], limit=3)
    assert [one.key for one in rest.objects] == keys[2:]
    assert not rest.more
    assert all(abs(datetime.now(UTC) - one.modified_at) < timedelta(minutes=5) for one in rest.objects)


def test_a_server_that_begins_each_listing_anew_is_an_error_and_no_endless_listing() -> None:
    """Some servers do not know `StartAfter`: each page would be the first one."""
    client = boto3.client("s3", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")  # noqa: S106 (nobody's)
    page = {"Contents": [{"Key": "takes/a", "Size": 1, "LastModified": datetime.now(UTC)}], "IsTruncated": True}
    with Stubber(client) as server:
        for _ in range(2):
            server.add_response("list_objects_v2", page)
        with pytest.raises(StoreError, match="lists nothing behind 'takes/a'"):
            list(Store("bucket", client).listing("takes/"))


def test_an_object_that_differs_from_its_row_is_refused(store: Store, tmp_path: Path) -> None:
    stored = put(store, a_file(tmp_path))
    altered = Stored(key=stored.key, sha256="0" * 64, bytes=stored.bytes)
    with pytest.raises(StoreError, match="expected sha256 000"):
        store.get(altered, tmp_path / "back.wav")
    assert not (tmp_path / "back.wav").exists()


def test_an_object_whose_key_does_not_tell_its_hash_is_found_with_the_hash_that_it_had(
    store: Store, tmp_path: Path
) -> None:
    key = f"conformed/{uuid4()}.mp4"
    assert store.find(key) is None
    stored = store.put(a_file(tmp_path), lambda _: key)
    assert store.find(key) == stored == Stored(key, hashlib.sha256(b"sound").hexdigest(), 5)


def test_a_missing_object_is_told_apart_from_a_missing_server(store: Store, tmp_path: Path) -> None:
    assert store.size("takes/none") is None
    with pytest.raises(StoreError, match="could not get takes/none"):
        store.fetch("takes/none", tmp_path / "back.mp4")
    gone = connect("bucket", "http://127.0.0.1:9", access_key="a", secret_key="b", region="us-east-1")  # noqa: S106 (nobody's)
    with pytest.raises(StoreError, match="could not look up"):
        gone.size("takes/none")
    with pytest.raises(StoreError, match="could not look up"):
        gone.find("takes/none")
    with pytest.raises(StoreError, match="could not list takes/"):
        list(gone.listing("takes/"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_asked_as_often_as_is_said_and_no_longer() -> None:
    """Rows are held meanwhile: Postgres lets go of them after a minute, and a third attempt would go on beyond it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = connect(
            "bucket",
            f"http://127.0.0.1:{silent.getsockname()[1]}",
            access_key="a",
            secret_key="b",  # noqa: S106 (nobody's)
            region="us-east-1",
            patience=Patience(attempts=2, connect_s=5, read_s=0.1),
        )
        with pytest.raises(StoreError, match="could not delete"):
            store.delete(["takes/a.mp4"])
        silent.settimeout(0)
        asked = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == IN_A_TRANSACTION.attempts == 2
    assert IN_A_TRANSACTION.attempts * (IN_A_TRANSACTION.connect_s + IN_A_TRANSACTION.read_s) < 60
