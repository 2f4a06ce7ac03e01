"""House film that is kept in the store, on a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from moltpipe.media.conform import recipe
from moltpipe.media.probe import decode, probe
from moltpipe.production.conforming import conformed
from moltpipe.production.line import Line
from moltpipe.runtime.services import S3Access
from moltpipe.store import sha256_of
from moltpipe.studio.keys import conformed_key
from moltpipe_tests.conftest import BUCKET
from moltpipe_tests.media.material import source

FRAMES = 12


@pytest.fixture
def arrived(tmp_path: Path) -> Path:
    return source(tmp_path / "arrived.mkv", "-f lavfi -i testsrc2=s=160x90:r=25:d=1 -c:v libx264")


@pytest.fixture
def overwrite(object_storage: S3Access) -> Callable[[str, bytes], None]:
    """Put bytes where an object lies, and leave the hash that was noted with it, as a disk that fails does."""
    secret = object_storage.secret_key
    client = boto3.client(
        "s3",
        endpoint_url=object_storage.endpoint_url,
        aws_access_key_id=object_storage.access_key,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        region_name=object_storage.region,
    )

    def put(key: str, content: bytes) -> None:
        noted = client.head_object(Bucket=BUCKET, Key=key)["Metadata"]
        client.put_object(Bucket=BUCKET, Key=key, Body=content, Metadata=noted)

    return put


def conform_it(line: Line, arrived: Path, folder: Path) -> Path:
    folder.mkdir()
    return conformed(line, arrived, probe(arrived), folder, longest=FRAMES)


def damaged(content: bytes) -> bytes:
    return content[:100] + b"damaged" + content[107:]


def cut_off(content: bytes) -> bytes:
    return content[:200]


@pytest.mark.parametrize("harm", [damaged, cut_off])
def test_kept_film_that_was_damaged_is_made_anew_and_mended(
    line: Line,
    arrived: Path,
    tmp_path: Path,
    overwrite: Callable[[str, bytes], None],
    harm: Callable[[bytes], bytes],
) -> None:
    content = conform_it(line, arrived, tmp_path / "first").read_bytes()
    key = conformed_key(sha256_of(arrived), recipe(line.profile, frames=FRAMES))
    overwrite(key, harm(content))
    anew = conform_it(line, arrived, tmp_path / "second")
    assert decode(anew, strict=True).frames == FRAMES
    kept = line.store.find(key)
    assert kept is not None
    assert line.store.get(kept, tmp_path / "mended.mp4").read_bytes() == anew.read_bytes()


def test_film_that_is_kept_is_not_made_again(line: Line, arrived: Path, tmp_path: Path) -> None:
    first = conform_it(line, arrived, tmp_path / "first")
    lost = replace(line, encoder_threads=-1)
    assert conform_it(lost, arrived, tmp_path / "second").read_bytes() == first.read_bytes()
