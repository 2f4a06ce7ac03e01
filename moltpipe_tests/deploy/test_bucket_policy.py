"""What the studio's user may do in S3, held against what the code asks a real S3 server for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import pytest
import yaml
from botocore.config import Config
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster_aws.s3.compute_log_manager import S3ComputeLogManager

from moltpipe.runtime.services import S3Access
from moltpipe.store import Store, StoreError
from moltpipe_tests.conftest import BUCKET
from moltpipe_tests.deploy.conftest import DEPLOY, TOP

# From Amazon's "Actions, resources, and condition keys for Amazon S3": what each operation is allowed by. Reading a key
# that is not there is answered by 404, and not by 403, only to who may list the bucket.
ALLOWED_BY = {
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
}


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "s3" / name).read_text().replace("BUCKET", BUCKET))
    return loaded


def test_the_user_may_do_what_the_code_does_and_nothing_more(
    object_storage: S3Access, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    base: Any = botocore.client.BaseClient
    call = base._make_api_call  # noqa: SLF001 - every request of every client goes through it

    def recorded(client: Any, operation: str, parameters: dict[str, Any]) -> Any:  # noqa: ANN401 - as botocore has it
        asked.add(operation)
        if operation == "UploadPart" and parameters["Key"] == "takes/broken-off.mp4":
            raise OSError("the line is dead")
        return call(client, operation, parameters)

    monkeypatch.setattr(base, "_make_api_call", recorded)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"a take")
    large.write_bytes(b"a film" * 2_000_000)

    stored = store.put(small, lambda sha256: f"takes/{sha256}.mp4")
    store.put(large, lambda sha256: f"takes/{sha256}.mp4")
    with pytest.raises(StoreError, match="the line is dead"):
        store.put(large, lambda _: "takes/broken-off.mp4")
    store.get(stored, tmp_path / "again")
    assert store.find("takes/none.mp4") is None
    assert list(store.listing("takes/"))
    store.delete([stored.key])
    _print_and_read_back(object_storage, tmp_path)

    allowed = {action for statement in document("policy.json")["Statement"] for action in statement["Action"]}
    assert {ALLOWED_BY[operation] for operation in asked} == allowed


def _print_and_read_back(object_storage: S3Access, folder: Path) -> None:
    """What Dagster does with what a run prints."""
    assert object_storage.secret_key is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", object_storage.access_key or "")
        patch.setenv("AWS_SECRET_ACCESS_KEY", object_storage.secret_key.get_secret_value())
        configured = yaml.safe_load((TOP / "dagster.yaml").read_text())["compute_logs"]["config"]
        logs = S3ComputeLogManager(
            bucket=BUCKET,
            local_dir=str(folder),
            endpoint_url=object_storage.endpoint_url,
            region=object_storage.region,
            prefix=configured["prefix"],
            skip_empty_files=configured["skip_empty_files"],
        )
        key = ["a-run", "compute_logs", "a-step"]
        with logs.open_log_stream(key, ComputeIOType.STDOUT) as stream:
            assert stream is not None
            stream.write("printed")
        logs.upload_to_cloud_storage(key, ComputeIOType.STDOUT)
        assert logs.cloud_storage_has_logs(key, ComputeIOType.STDOUT)
        logs.download_from_cloud_storage(key, ComputeIOType.STDOUT)
        logs.delete_logs(log_key=key)


def test_nothing_in_the_policies_reaches_beyond_the_bucket() -> None:
    for statement in [*document("policy.json")["Statement"], *document("bucket-policy.json")["Statement"]]:
        resources = statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]]
        assert set(resources) <= {f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"}


def test_a_real_bucket_takes_the_configuration_and_then_no_request_in_the_clear(object_storage: S3Access) -> None:
    assert object_storage.secret_key is not None
    client = boto3.client(
        "s3",
        endpoint_url=object_storage.endpoint_url,
        aws_access_key_id=object_storage.access_key,
        aws_secret_access_key=object_storage.secret_key.get_secret_value(),
        region_name=object_storage.region,
        config=Config(s3={"addressing_style": "path"}),
    )
    name = "configured"
    client.create_bucket(Bucket=name)
    policy = (DEPLOY / "s3" / "bucket-policy.json").read_text().replace("BUCKET", name)
    client.put_object(Bucket=name, Key="before", Body=b"x")
    lifecycle: Any = document("lifecycle.json")
    client.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration=lifecycle)
    assert len(client.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]) == 2
    client.put_bucket_policy(Bucket=name, Policy=policy)
    with pytest.raises(client.exceptions.ClientError, match="AccessDenied"):
        client.put_object(Bucket=name, Key="in-the-clear", Body=b"x")


def test_the_public_is_blocked_from_every_side() -> None:
    model = boto3.client("s3", region_name="us-east-1").meta.service_model
    shape: Any = model.shape_for("PublicAccessBlockConfiguration")
    assert document("public-access-block.json") == dict.fromkeys(shape.members, True)
