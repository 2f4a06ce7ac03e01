"""A bucket of a test's own, to lay things into that no row tells of, and to count what is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import boto3

from moltpipe.runtime.services import S3Access
from moltpipe.store import Store, connect

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


class Shelf:
    """What lies in the bucket."""

    def __init__(self, client: S3Client, store: Store) -> None:
        self.client = client
        self.store = store

    def lay(self, key: str, content: bytes = b"film") -> None:
        self.client.put_object(Bucket=self.store.bucket, Key=key, Body=content)

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=self.store.bucket, Key=key)

    def lies(self, prefix: str = "") -> set[str]:
        return {one.key for one in self.store.listing(prefix)}


@contextmanager
def a_shelf(object_storage: S3Access) -> Iterator[Shelf]:
    """The bucket, for the length of a block."""
    secret = object_storage.secret_key.get_secret_value() if object_storage.secret_key else None
    client = boto3.client(
        "s3",
        endpoint_url=object_storage.endpoint_url,
        aws_access_key_id=object_storage.access_key,
        aws_secret_access_key=secret,
        region_name=object_storage.region,
    )
    name = f"shelf-{uuid4().hex[:8]}"
    client.create_bucket(Bucket=name)
    store = connect(
        name,
        object_storage.endpoint_url,
        access_key=object_storage.access_key,
        secret_key=secret,
        region=object_storage.region,
    )
    yield Shelf(client, store)
    for one in store.listing():
        client.delete_object(Bucket=name, Key=one.key)
    client.delete_bucket(Bucket=name)
