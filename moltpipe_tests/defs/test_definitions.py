"""The definitions as a whole: a drift in the graph is seen in review."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from syrupy.assertion import SnapshotAssertion

from moltpipe.definitions import build_definitions
from moltpipe.ledger.checks import CHECKS
from moltpipe.ledger.watching import SILENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def graph() -> AssetGraph:
    return build_definitions().resolve_asset_graph()


def test_the_graph_is_the_one_that_was_reviewed(graph: AssetGraph, snapshot: SnapshotAssertion) -> None:
    assets = {
        key.to_user_string(): {
            "partitions": node.partitions_def.name
            if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
            else None,
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "group": node.group_name,
            "kinds": sorted(node.kinds),
            "owners": sorted(node.owners),
            "executable": node.is_executable,
        }
        for key in sorted(graph.get_all_asset_keys())
        for node in [graph.get(key)]
    }
    assert assets == snapshot


def test_jobs_sensors_schedules_and_checks_are_the_ones_that_were_reviewed(snapshot: SnapshotAssertion) -> None:
    definitions = build_definitions()
    repository = definitions.get_repository_def()
    assert {
        "jobs": sorted(job.name for job in repository.get_all_jobs() if not job.name.startswith("__")),
        "sensors": {
            sensor.name: [sensor.minimum_interval_seconds, sensor.default_status.value]
            for sensor in repository.sensor_defs
        },
        "schedules": {
            schedule.name: [schedule.cron_schedule, schedule.default_status.value]
            for schedule in repository.schedule_defs
        },
        "checks": sorted(key.to_user_string() for key in repository.asset_graph.asset_check_keys),
    } == snapshot


def test_every_sensor_and_schedule_has_an_allowed_silence() -> None:
    """One whose name is not there could fall silent unseen; a name that is nobody's would be found silent for ever."""
    repository = build_definitions().get_repository_def()
    names = {one.name for one in repository.sensor_defs} | {one.name for one in repository.schedule_defs}
    assert names == set(SILENCE)


def test_every_check_stands_on_an_asset(graph: AssetGraph) -> None:
    for check in CHECKS:
        assert dg.AssetKey(check.asset) in graph.get_all_asset_keys(), check.name


def test_every_asset_tells_the_operator_what_it_is(graph: AssetGraph) -> None:
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.group_name != "default", key


def test_definitions_load_without_settings_services_or_warnings() -> None:
    """Nothing connects, reads or warns at import: deprecation and preview warnings of Dagster are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import moltpipe.definitions"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
