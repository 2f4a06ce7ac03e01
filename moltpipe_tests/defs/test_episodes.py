"""The last stage as Dagster runs it: its checks and its pictures, on a real instance, ledger and store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status

from moltpipe.defs.clips import clips
from moltpipe.defs.episodes import stitched_episode
from moltpipe.defs.partitions import EPISODES_NAME
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover
from moltpipe.engines.animatic import Animatic
from moltpipe.engines.espeak import Espeak
from moltpipe.engines.outline import Outline
from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.schema import shots
from moltpipe.production.line import Crew, Line
from moltpipe.store import Store
from moltpipe.studio.delivery import RULES, Delivery
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.lens_cap import LensCap
from moltpipe_tests.stories import a_series

STAGES = [episode_script, voiceover, clips, stitched_episode]


@pytest.fixture
def line(database: Database, store: Store, tmp_path: Path) -> Line:
    return Line(
        database=database,
        store=store,
        crew=Crew(Outline(tmp_path), Espeak(tmp_path), Animatic(tmp_path), None),
        profile=parse_profile("144p12"),
        media_url=None,
        workdir=tmp_path,
        lease=timedelta(seconds=60),
        heartbeat=timedelta(seconds=5),
        calls_at_once=2,
        cuts_at_once=2,
    )


def run(
    instance: dg.DagsterInstance, line: Line, partition_key: str, stages: list[Any], *, regenerate: bool = False
) -> dg.ExecuteInProcessResult:
    config = {"ops": {stage.op.name: {"config": {"regenerate": regenerate}} for stage in stages}}
    return dg.materialize(
        stages,
        instance=instance,
        partition_key=partition_key,
        resources={"line": line},
        run_config=config,
        raise_on_error=False,
    )


def checks(instance: dg.DagsterInstance) -> dict[str, tuple[Status, str, dg.AssetCheckEvaluation]]:
    """The newest execution of every check: its status, its run and what it found."""
    storage = instance.event_log_storage
    latest = {}
    for rule in RULES:
        key = dg.AssetCheckKey(stitched_episode.key, rule)
        (record,) = storage.get_asset_check_execution_history(key, limit=1)
        event = record.event.dagster_event if record.event else None
        found = event.event_specific_data if event else None
        assert isinstance(found, dg.AssetCheckEvaluation)
        latest[rule] = (record.status, record.run_id, found)
    return latest


def rows(found: dg.AssetCheckEvaluation) -> list[dict[str, Any]]:
    figures = found.metadata["figures"]
    assert isinstance(figures, dg.TableMetadataValue)
    return [dict(record.data) for record in figures.records]


def test_a_refused_cut_is_on_record_with_its_figures_though_its_run_fails(
    instance: dg.DagsterInstance, line: Line, tmp_path: Path
) -> None:
    episode = a_series(line.database)[1]
    instance.add_dynamic_partitions(EPISODES_NAME, [episode.partition_key])
    capped = replace(line, crew=replace(line.crew, camera=LensCap(tmp_path)))

    failed = run(instance, capped, episode.partition_key, STAGES)
    assert not failed.success
    found = checks(instance)
    assert {rule for rule, (status, _, _) in found.items() if status is Status.FAILED} == {"nothing_black"}
    _, run_id, black = found["nothing_black"]
    assert run_id == failed.run_id
    assert (black.severity, black.metadata["partition"].value) == (dg.AssetCheckSeverity.ERROR, episode.partition_key)
    assert (black.description or "").startswith("variant 1: black from 0:00.00 to ")
    assert rows(black)[0]["black_unasked_s"] > 30
    with line.database.begin() as db:
        assert load_production(db, episode.partition_key).variants == {}

    assert run(instance, line, episode.partition_key, [clips], regenerate=True).success
    mended = run(instance, line, episode.partition_key, [stitched_episode])
    assert mended.success
    assert {status for status, _, _ in checks(instance).values()} == {Status.SUCCEEDED}
    with line.database.begin() as db:
        record = load_production(db, episode.partition_key).variants[1].delivery
    assert record is not None
    assert Delivery.from_json(record).passed
    (materialized,) = mended.asset_materializations_for_node("stitched_episode")
    assert materialized.partition == episode.partition_key
    for name in ("contact_sheet", "waveform", "thumbnail"):
        assert "](data:image/" in str(materialized.metadata[name].value)

    again = run(instance, line, episode.partition_key, [stitched_episode])
    (unchanged,) = again.asset_materializations_for_node("stitched_episode")
    assert unchanged.metadata["cut_now"].value == 0
    assert isinstance(unchanged.metadata["delivery"], dg.TableMetadataValue)
    assert {record.data["figure"] for record in unchanged.metadata["delivery"].records} >= {"frames", "lufs", "dbtp"}
    for status, run_id, result in checks(instance).values():
        assert (status, run_id) == (Status.SUCCEEDED, again.run_id)
        assert rows(result)[0]["cut"] == "variant 1"
        assert result.target_materialization_data is not None
        assert result.target_materialization_data.run_id == again.run_id


def test_variants_are_cut_ahead_in_a_run_that_goes_on_with_cutting_and_in_no_other(
    instance: dg.DagsterInstance, line: Line
) -> None:
    pilot = a_series(line.database)[0]
    instance.add_dynamic_partitions(EPISODES_NAME, [pilot.partition_key])
    assert run(instance, line, pilot.partition_key, [episode_script]).success
    with line.database.begin() as db:
        db.execute(sa.delete(shots).where(shots.c.episode_id == pilot.id, shots.c.shot_number > 1))
    assert run(instance, line, pilot.partition_key, [voiceover, clips]).success
    assert not line.cut_ahead
    # Who wants cuts made anew does not get those: what was made ahead is still there.
    assert run(instance, line, pilot.partition_key, [clips, stitched_episode], regenerate=True).success
    assert line.cut_ahead
