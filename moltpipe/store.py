"""The media in S3: put by content, get, presign, list.

Here: the only code that talks to S3. Not here: what a key looks like (`studio.keys`), which row tells of an
object (`ledger.media`). An object is never overwritten: its key carries its hash, so a second put of the
same bytes is a no-op, and a put of other bytes under the same key cannot happen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from moltpipe.studio.keys import content_type
from moltpipe.studio.records import Stored

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

ONE_YEAR = "public, max-age=31536000, immutable"
_CHUNK_BYTES = 1 << 20


class StoreError(Exception):
    """S3 could not be reached, refused a request, or holds something else than the ledger says."""


@dataclass(frozen=True)
class Listed:
    """An object as a listing shows it."""

    key: str
    bytes: int


def sha256_of(file: Path) -> str:
    """Hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def connect(
    bucket: str,
    endpoint_url: str | None,
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
) -> Store:
    """A store for use outside Dagster. Without credentials, those of the usual `AWS_*` environment."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=Config(retries={"max_attempts": 5, "mode": "standard"}, connect_timeout=5, read_timeout=60),
    )
    return Store(bucket, client)


class Store:
    """One bucket, behind any boto3 client."""

    def __init__(self, bucket: str, client: S3Client) -> None:
        self.bucket = bucket
        self._client = client

    def put(self, file: Path, key_for: Callable[[str], str]) -> Stored:
        """Upload a file under the key made from its sha256, and verify what arrived.

        Raises:
            StoreError: the upload failed, or the object's size or hash afterwards is not the file's.
        """
        sha256, size = sha256_of(file), file.stat().st_size
        key = key_for(sha256)
        stored = Stored(key=key, sha256=sha256, bytes=size)
        if self.size(key) == size:
            return stored
        try:
            self._client.upload_file(
                str(file),
                self.bucket,
                key,
                ExtraArgs={
                    "ContentType": content_type(key),
                    "CacheControl": ONE_YEAR,
                    "Metadata": {"sha256": sha256},
                    "ChecksumAlgorithm": "SHA256",
                },
            )
        except (BotoCoreError, ClientError, OSError) as error:
            raise StoreError(f"could not put {key} into bucket {self.bucket}: {error}") from error
        if self.size(key) != size:
            raise StoreError(f"{key} is not in bucket {self.bucket} with {size} bytes after its upload")
        return stored

    def get(self, stored: Stored, target: Path) -> Path:
        """Download an object and check its hash.

        Raises:
            StoreError: the object is missing, unreadable, or differs from the ledger's sha256.
        """
        self.fetch(stored.key, target)
        found = sha256_of(target)
        if found != stored.sha256:
            target.unlink()
            raise StoreError(f"{stored.key}: expected sha256 {stored.sha256}, the object has {found}")
        return target

    def fetch(self, key: str, target: Path) -> Path:
        """Download an object whose hash no row keeps, such as captions.

        Raises:
            StoreError: the object is missing or unreadable; nothing is left at the target.
        """
        try:
            # boto3 downloads beside the target and renames at the end.
            self._client.download_file(self.bucket, key, str(target))
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"could not get {key} from bucket {self.bucket}: {error}") from error
        return target

    def size(self, key: str) -> int | None:
        """Size of an object in bytes; None when there is no such object.

        Raises:
            StoreError: S3 could not answer, which is not the same as "no such object".
        """
        head = self._head(key)
        return None if head is None else head["ContentLength"]

    def find(self, key: str) -> Stored | None:
        """The object under a key that does not tell its hash, with the hash that was noted when it was put.

        None when there is no such object, or one that another tool has laid there without a hash.

        Raises:
            StoreError: S3 could not answer, which is not the same as "no such object".
        """
        head = self._head(key)
        sha256 = head["Metadata"].get("sha256") if head is not None else None
        return Stored(key=key, sha256=sha256, bytes=head["ContentLength"]) if head is not None and sha256 else None

    def _head(self, key: str) -> HeadObjectOutputTypeDef | None:
        try:
            return self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:  # noqa: PLR2004 (HTTP: not found)
                return None
            raise StoreError(f"could not look up {key} in bucket {self.bucket}: {error}") from error
        except BotoCoreError as error:
            raise StoreError(f"could not look up {key} in bucket {self.bucket}: {error}") from error

    def presign(self, key: str, expires_s: int = 7 * 24 * 3600) -> str:
        """A link that opens the object in a browser until it expires (seconds, at most seven days)."""
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
        )

    def listing(self, prefix: str = "") -> Iterator[Listed]:
        """Objects under a prefix, in key order."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", []):
                yield Listed(key=entry["Key"], bytes=entry["Size"])
