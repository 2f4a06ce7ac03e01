"""The media in S3: put by content, get, presign, list, delete.

Here: the only code that talks to S3. Not here: what a key looks like (`studio.keys`), which row tells of an object
(`ledger.media`), what may be deleted (`studio.retention`). An object is never overwritten, unless it is known to be
damaged: its key carries its hash, so a second put of the same bytes is a no-op, and a put of other bytes under the
same key cannot happen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from moltpipe.studio.keys import content_type
from moltpipe.studio.records import Stored
from moltpipe.studio.sweeping import Listed

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

ONE_YEAR = "public, max-age=31536000, immutable"
MOST_PER_PAGE = 1000
_CHUNK_BYTES = 1 << 20


class StoreError(Exception):
    """S3 could not be reached, refused a request, or holds something else than the ledger says."""


@dataclass(frozen=True)
class Page:
    """A part of a listing."""

    objects: tuple[Listed, ...]
    more: bool
    """Whether it goes on behind the last of them."""


def sha256_of(file: Path) -> str:
    """Hex sha256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@dataclass(frozen=True)
class Patience:
    """How long S3 is waited for, in seconds, and how often it is asked."""

    attempts: int
    connect_s: float
    read_s: float


PATIENT = Patience(attempts=5, connect_s=5, read_s=60)
"""For work that would have to be done again."""
A_LOOK = Patience(attempts=2, connect_s=2, read_s=5)
"""For a look that comes again by itself, and that others wait for."""
IN_A_TRANSACTION = Patience(attempts=2, connect_s=5, read_s=20)
"""For what is done while rows are held: Postgres ends a transaction in which nothing happens for a minute."""


def connect(
    bucket: str,
    endpoint_url: str | None,
    *,
    access_key: str | None = None,
    secret_key: str | None = None,
    region: str | None = None,
    patience: Patience = PATIENT,
) -> Store:
    """A store for use outside Dagster. Without credentials, those of the usual `AWS_*` environment."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        config=Config(
            # What boto3 calls `max_attempts` here counts only those after the first.
            retries={"total_max_attempts": patience.attempts, "mode": "standard"},
            connect_timeout=patience.connect_s,
            read_timeout=patience.read_s,
        ),
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
        if self.size(key) != size:
            self._upload(file, stored)
        return stored

    def mend(self, file: Path, key: str) -> Stored:
        """Upload a file over an object that is known to be damaged, and verify what arrived.

        Raises:
            StoreError: the upload failed, or the object's size afterwards is not the file's.
        """
        stored = Stored(key=key, sha256=sha256_of(file), bytes=file.stat().st_size)
        self._upload(file, stored)
        return stored

    def _upload(self, file: Path, stored: Stored) -> None:
        key, sha256, size = stored.key, stored.sha256, stored.bytes
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

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, a thousand at a time at most. One that is not there is no error.

        Raises:
            StoreError: S3 could not answer, or refused some of them. The others are gone.
        """
        if not keys:
            return
        try:
            answer = self._client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"could not delete {len(keys)} objects of bucket {self.bucket}: {error}") from error
        refused = answer.get("Errors", [])
        if refused:
            first = refused[0]
            raise StoreError(
                f"bucket {self.bucket} keeps {len(refused)} of {len(keys)} objects that were to be deleted, "
                f"{first.get('Key')} among them: {first.get('Code')}: {first.get('Message')}"
            )

    def presign(self, key: str, expires_s: int = 7 * 24 * 3600) -> str:
        """A link that opens the object in a browser until it expires (seconds, at most seven days)."""
        return self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
        )

    def listing(self, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """Objects under a prefix, behind a key, in key order.

        Raises:
            StoreError: S3 could not answer.
        """
        while True:
            page = self.page(prefix, after)
            yield from page.objects
            if not page.more:
                return
            after = page.objects[-1].key

    def page(self, prefix: str = "", after: str = "", limit: int = MOST_PER_PAGE) -> Page:
        """The first objects under a prefix, behind a key, in key order: at most 1,000, which is S3's own limit.

        Raises:
            StoreError: S3 could not answer.
        """
        try:
            answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, StartAfter=after, MaxKeys=limit)
        except (BotoCoreError, ClientError) as error:
            raise StoreError(f"could not list {prefix or 'all'} in bucket {self.bucket}: {error}") from error
        # A server that does not know `StartAfter` begins anew each time.
        entries = [one for one in answer.get("Contents", []) if one["Key"] > after]
        if answer["IsTruncated"] and not entries:
            raise StoreError(
                f"bucket {self.bucket} lists nothing behind {after or prefix!r}, and says that there is more"
            )
        return Page(
            tuple(Listed(key=one["Key"], bytes=one["Size"], modified_at=one["LastModified"]) for one in entries),
            more=answer["IsTruncated"],
        )
