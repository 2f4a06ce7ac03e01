from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from structlog.contextvars import bound_contextvars

from moltpipe.ledger.database import Database
from moltpipe.runtime.log_lines import LONGEST_VALUE, LogFormat, log_lines
from moltpipe.runtime.services import S3Access
from moltpipe.store import Store
from moltpipe_tests.stories import a_series

log = logging.getLogger("moltpipe.production.somewhere")


def lines(log_format: LogFormat, text: io.StringIO) -> list[Any]:
    printed = text.getvalue().splitlines()
    return [json.loads(line) for line in printed] if log_format == "json" else printed


def test_a_line_carries_what_was_bound_and_what_it_says_itself() -> None:
    text = io.StringIO()
    with log_lines("json", text), bound_contextvars(run_id="r-1", episode="buoy-e01"):
        log.info("take in", extra={"take": 2, "seconds": 4.5})
    (line,) = lines("json", text)
    assert list(line)[:4] == ["time", "level", "logger", "event"]
    assert line["time"].endswith("Z")
    del line["time"]
    assert line == {
        "level": "info", "logger": "moltpipe.production.somewhere", "event": "take in",
        "run_id": "r-1", "episode": "buoy-e01", "take": 2, "seconds": 4.5,
    }  # fmt: skip


def test_a_person_reads_the_same_in_one_line() -> None:
    text = io.StringIO()
    with log_lines("text", text), bound_contextvars(episode="buoy-e01"):
        log.warning("episode given back", extra={"why": "two\nlines", "failed": True})
    (line,) = lines("text", text)
    assert line.endswith(
        ' warning moltpipe.production.somewhere: episode given back episode=buoy-e01 why="two\\nlines" failed=True'
    )


def test_a_traceback_is_part_of_its_line() -> None:
    text = io.StringIO()
    with log_lines("json", text):
        try:
            int("no number")
        except ValueError:
            log.exception("broken")
    (line,) = lines("json", text)
    assert "ValueError: invalid literal" in line["exception"]
    assert line["level"] == "error"


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("GET https://cdn.example/x.mp4?X-Amz-Signature=abc&y=1 failed", "GET https://cdn.example/x.mp4?… failed"),
        ("cannot reach postgresql://molt:s3cret@db:5432/studio", "cannot reach postgresql://…@db:5432/studio"),
        ("is it https://a.example/x?", "is it https://a.example/x?…"),
        ("nothing to hide: a@b.example?", "nothing to hide: a@b.example?"),
        ("see https://a.example:8443/b/c@2x.png", "see https://a.example:8443/b/c@2x.png"),
        # Not encoded, as somebody wrote it who is told of it now.
        ("postgresql://molt:s3@cr/et@db:5432/studio", "postgresql://…@db:5432/studio"),
        ("redis://:s3cret@redis:6379/0", "redis://…@redis:6379/0"),
        # urllib3 tells of a path alone, libpq of words.
        (
            "retries exceeded with url: /b/x?X-Amz-Signature=abc&y=1 (",
            "retries exceeded with url: /b/x?X-Amz-Signature=…&y=1 (",
        ),
        ("host=db password=s3cret user=molt", "host=db password=… user=molt"),
        ("password authentication failed for user molt", "password authentication failed for user molt"),
        ("header b'Bearer s3cret\\n'", "header b'Bearer …\\n'"),
    ],
)
def test_passwords_and_signatures_of_addresses_are_not_printed(said: str, printed: str) -> None:
    text = io.StringIO()
    with log_lines("json", text):
        log.info("%s", said, extra={"why": said})
    (line,) = lines("json", text)
    assert (line["event"], line["why"]) == (printed, printed)


def test_a_long_text_is_cut() -> None:
    text = io.StringIO()
    with log_lines("json", text):
        log.info("failed", extra={"why": "x" * 10_000})
    assert len(lines("json", text)[0]["why"]) == LONGEST_VALUE


def test_of_a_long_traceback_the_end_is_printed_which_says_what_happened() -> None:
    text = io.StringIO()
    with log_lines("json", text):
        try:
            dict[str, int]()["x" * 5_000 + " is not there"]
        except KeyError:
            log.exception("broken")
    (line,) = lines("json", text)
    assert line["exception"].startswith("…")
    assert line["exception"].endswith("is not there'")
    assert len(line["exception"]) == LONGEST_VALUE


def test_no_line_is_printed_twice(capfd: pytest.CaptureFixture[str]) -> None:
    everybodys = logging.StreamHandler()
    logging.getLogger().addHandler(everybodys)
    try:
        with log_lines("json"), log_lines("json"):
            log.info("once")
    finally:
        logging.getLogger().removeHandler(everybodys)
    assert capfd.readouterr().err.count("once") == 1


def test_nothing_is_left_behind() -> None:
    logger = logging.getLogger("moltpipe")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with log_lines("text", io.StringIO()):
        assert logger.level == logging.INFO
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_what_is_below_info_and_what_others_log_is_not_printed() -> None:
    text = io.StringIO()
    with log_lines("json", text):
        log.debug("too much")
        logging.getLogger("urllib3").warning("not ours")
    assert text.getvalue() == ""


_RUN = """
import sys
import dagster as dg
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.resources import resources
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover

with dg.DagsterInstance.ephemeral() as instance:
    instance.add_dynamic_partitions(EPISODES_NAME, [sys.argv[1]])
    print(dg.materialize(
        [episode_script, voiceover], instance=instance, partition_key=sys.argv[1], resources=resources()
    ).run_id)
"""


def test_an_episode_can_be_followed_by_the_lines_of_its_run(
    database_url: str, database: Database, store: Store, object_storage: S3Access, tmp_path: Path
) -> None:
    assert object_storage.access_key is not None
    assert object_storage.secret_key is not None
    key = a_series(database)[1].partition_key
    run = subprocess.run(
        [sys.executable, "-c", _RUN, key],
        env={
            **{name: one for name, one in os.environ.items() if not name.startswith(("MOLTPIPE_", "DAGSTER_"))},
            "MOLTPIPE_DATABASE_URL": database_url,
            "MOLTPIPE_S3_ENDPOINT_URL": object_storage.endpoint_url,
            "MOLTPIPE_S3_BUCKET": store.bucket,
            "AWS_ACCESS_KEY_ID": object_storage.access_key,
            "AWS_SECRET_ACCESS_KEY": object_storage.secret_key.get_secret_value(),
            "AWS_REGION": object_storage.region or "",
            "MOLTPIPE_DATA_DIR": str(tmp_path),
            "MOLTPIPE_LOG_FORMAT": "json",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    told = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    assert {(line["run_id"], line["episode"]) for line in told} == {(run.stdout.split()[-1], key)}
    counted = Counter(line["event"] for line in told)
    spoken = [line for line in told if line["event"] == "voiceover in"]
    assert counted == {
        "episode claimed": 2, "stage done": 2, "script in": 1,
        "call finished": len(spoken) + 1, "voiceover in": len(spoken),
    }  # fmt: skip
    assert len({line["shot"] for line in spoken}) == len(spoken) > 1
    finished = [line for line in told if line["event"] == "call finished"]
    assert {(line["engine"], line["operation"]) for line in finished} == {("outline", "write"), ("espeak", "speak")}
    assert all(line["call"] and line["cost_usd"] == 0 and line["seconds"] > 0 for line in finished)
    assert {line.get("shot") for line in finished} == {None, *(line["shot"] for line in spoken)}
