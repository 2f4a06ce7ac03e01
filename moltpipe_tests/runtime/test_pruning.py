"""A prune of a whole studio: on a real PostgreSQL, with Dagster's tables in it, and a real S3."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.test_utils import create_run_for_test

from moltpipe.defs.partitions import EPISODES, EPISODES_NAME
from moltpipe.defs.runs import PARTITION_TAG
from moltpipe.ledger.audit import entries
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.database import Database
from moltpipe.ledger.jobs import claim_job
from moltpipe.ledger.retention import hold_idle
from moltpipe.ledger.schema import clip_variants, departures, incidents, observations, provider_jobs, takes, watchers
from moltpipe.ledger.sweeps import OBJECTS_ARE_KNOWN
from moltpipe.ledger.watching import alone
from moltpipe.production import pruning
from moltpipe.production.sweeping import sweep_objects
from moltpipe.runtime.environment import dagster_url
from moltpipe.runtime.pruning import AnotherPrune, prune
from moltpipe.runtime.services import S3Access
from moltpipe.store import Page, Store
from moltpipe.studio.keys import arrival_key, poster_key, score_key, take_key, variant_key, voiceover_key
from moltpipe.studio.records import Episode
from moltpipe.studio.retention import Keeping, Pruned
from moltpipe_tests.ledger.beginnings import everything
from moltpipe_tests.runtime.old_studio import EVERYTHING_IS_NEW, EVERYTHING_IS_OLD, Errand, furnish, old_runs, run
from moltpipe_tests.shelf import Shelf, a_shelf
from moltpipe_tests.stories import LEASE, a_series

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload([run.__module__])
MOST_PROCESSES = 60


@dataclass(frozen=True)
class House:
    """A studio's database, bucket and instance of Dagster."""

    database: Database
    shelf: Shelf
    instance: dg.DagsterInstance
    home: Path

    def prune(self, keeping: Keeping = EVERYTHING_IS_OLD, *, dry_run: bool = False) -> dict[str, int]:
        pruned = self.pruned(keeping, dry_run=dry_run)
        return {one.what: one.count for one in pruned if one.count}

    def pruned(self, keeping: Keeping = EVERYTHING_IS_OLD, *, dry_run: bool = False) -> list[Pruned]:
        return prune(self.database, self.shelf.store, self.instance, keeping, by="a test", dry_run=dry_run)

    def unwell(self) -> dict[str, list[dict[str, Any]]]:
        """What any check finds, after a sweep over every object."""
        swept = sweep_objects(self.database, self.shelf.store, 60, on_its_way=timedelta(0))
        assert swept.through, swept
        with self.database.begin() as db:
            return {one.name: one.rows for one in run_checks(db, Conditions(datetime.now(UTC))) if not one.passed}

    def count(self, statement: str) -> int:
        with self.database.begin() as db:
            found: int = db.execute(sa.text(statement)).scalar_one()
            return found


@pytest.fixture
def house(database: Database, database_url: str, object_storage: S3Access, tmp_path: Path) -> Iterator[House]:
    storage = {"postgres": {"postgres_url": dagster_url(database_url)}}
    with (
        a_shelf(object_storage) as shelf,
        dg.instance_for_test(temp_dir=str(tmp_path), overrides={"storage": storage}) as instance,
    ):
        yield House(database, shelf, instance, tmp_path)


def test_what_was_superseded_goes_and_everything_else_stays(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    assert house.unwell() == {}
    would_go = house.prune(dry_run=True)
    assert house.shelf.lies() == studio.superseded | studio.needed

    gone = house.prune()

    assert gone == would_go == {
        "compute logs": 1,
        "takes": 1,
        "voiceovers": 1,
        "music": 1,
        # Of the first take, and the first attempt at the second one.
        "results as they arrived": 2,
        # Picture, captions, subtitles and thumbnail of the first cut.
        "objects of nobody": 4,
        "conformed films": 1,
        "incidents": 1,
        "alerts": 1,
        "events of webhooks": 1,
        "watchers": 1,
    }  # fmt: skip
    assert house.shelf.lies() == studio.needed
    assert house.unwell() == {}
    assert house.count("SELECT count(*) FROM departures") == 0
    assert house.prune() == {}


def test_a_dry_run_changes_nothing_and_says_the_same(house: House) -> None:
    furnish(house.database, house.shelf)
    with house.database.begin() as db:
        before = everything(db)
    objects = house.shelf.lies()
    said = house.pruned(dry_run=True)
    with house.database.begin() as db:
        assert everything(db) == before
    assert house.shelf.lies() == objects
    assert [(one.what, one.count, one.bytes) for one in said] == [
        (one.what, one.count, one.bytes) for one in house.pruned()
    ]


def test_what_became_superfluous_lately_stays(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    old_runs(house.instance, "an-episode")
    gone = house.prune(EVERYTHING_IS_NEW)
    # A year old by their own word.
    assert gone == {"incidents": 1, "alerts": 1, "events of webhooks": 1, "watchers": 1}
    assert house.shelf.lies() == studio.superseded | studio.needed
    with house.database.begin() as db:
        assert db.execute(sa.select(incidents.c.subject)).scalars().all() == ["check:y"]
        assert "a_sensor_of_old" not in db.execute(sa.select(watchers.c.name)).scalars().all()


def test_the_money_stays_on_record_and_the_request_may_be_made_anew(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    house.prune()
    with house.database.begin() as db:
        calls = db.execute(sa.select(provider_jobs).order_by(provider_jobs.c.take_number)).all()
        assert [(call.id, call.state, call.cost_usd) for call in calls] == [
            (studio.calls[0], "expired", 1),
            (studio.calls[1], "ingested", 1),
        ]
        assert "moltpipe prune" in calls[0].error
        (entry,) = entries(db, 5)
    assert (entry.by, entry.action) == ("a test", "prune")
    assert "1 takes" in entry.what


def test_nothing_is_taken_from_an_episode_that_is_worked_on(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    with house.database.begin() as db:
        claim_job(db, studio.episode.partition_key, "a run", LEASE)
    gone = house.prune()
    assert not {"takes", "voiceovers", "music", "objects of nobody", "results as they arrived"} & gone.keys()
    assert studio.needed <= house.shelf.lies()
    assert {key for key in studio.superseded if key.startswith("takes/")} <= house.shelf.lies()


def test_a_take_stays_that_the_published_cut_may_show(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    with house.database.begin() as db:
        made = sa.select(sa.func.max(takes.c.recorded_at)).scalar_subquery()
        db.execute(sa.update(clip_variants).values(published_at=made - timedelta(seconds=1)))
    gone = house.prune()
    assert not {"takes", "voiceovers", "music"} & gone.keys()
    assert {key for key in studio.superseded if key.startswith(("takes/", "voiceovers/"))} <= house.shelf.lies()


def test_beside_another_ledger_a_bucket_keeps_its_media(house: House) -> None:
    """Somebody prunes with the address of an empty database: nothing in it tells of any of these objects."""
    studio = furnish(house.database, house.shelf)
    with house.database.begin() as db:
        for table in ("departures", "takes", "voiceovers", "scores", "clip_variants", "provider_jobs", "observations"):
            db.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 (a constant)
    gone = house.prune()
    assert gone.keys() & {"takes", "voiceovers", "music", "objects of nobody", "results as they arrived"} == set()
    media = {key for key in studio.superseded | studio.needed if not key.startswith(("conformed/", "compute-logs/"))}
    assert house.shelf.lies() == media


def test_what_another_studio_keeps_in_the_same_bucket_stays(house: House) -> None:
    """To the sweep of this one, all of it is of nobody."""
    studio = furnish(house.database, house.shelf)
    digest, another = "0" * 64, uuid4()
    theirs = {
        take_key(another, 1, 1, digest),
        voiceover_key(another, 1, digest),
        variant_key(another, 1, digest),
        poster_key(another, digest),
        score_key(another, 1, digest),
        arrival_key(another, digest),
        "takes/notes.txt",
    }
    for key in theirs:
        house.shelf.lay(key)
    assert set(house.unwell()) == {"objects_are_known"}
    house.prune()
    assert house.shelf.lies() == studio.needed | theirs


def test_subtitles_stay_that_a_sweep_found_before_their_cut_was_on_record(house: House) -> None:
    """The run was killed before it wrote the row, and another did so long after. The sweep has stood still since."""
    studio = furnish(house.database, house.shelf)
    (subtitles,) = (key for key in studio.needed if key.endswith(".srt"))
    with house.database.begin() as db:
        db.execute(sa.insert(observations).values(check_name=OBJECTS_ARE_KNOWN, subject=subtitles, detail={}))
    house.prune()
    assert house.shelf.lies() == studio.needed


def test_there_is_a_word_for_each_page_though_nothing_goes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reaper takes a run for dead that is silent for a minute, and a large studio has a thousand pages."""
    furnish(house.database, house.shelf)
    house.prune()
    heard: list[str] = []
    page = Store.page

    def listed(self: Store, prefix: str = "", after: str = "", limit: int = 0) -> Page:
        heard.append("page")
        return page(self, prefix, after, limit)

    monkeypatch.setattr(Store, "page", listed)
    monkeypatch.setattr(pruning, "MOST_PER_PAGE", 1)
    store = house.shelf.store
    assert prune(house.database, store, house.instance, EVERYTHING_IS_OLD, by="a test", told=heard.append)
    assert heard.count("page") > len(house.shelf.lies())
    assert ("page", "page") not in pairwise(heard)


def test_an_upload_without_a_row_goes_once_the_sweep_has_known_it_for_long(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    orphan = f"takes/{studio.shots[1].id}/1-1-{'0' * 12}.mp4"
    house.shelf.lay(orphan)
    house.prune()
    assert orphan in house.shelf.lies()
    assert set(house.unwell()) == {"objects_are_known"}
    assert house.prune() == {"objects of nobody": 1}
    assert orphan not in house.shelf.lies()
    assert house.unwell() == {}


def test_an_object_whose_bytes_were_made_again_is_not_taken_away(house: House) -> None:
    """A prune was killed before it deleted the object, and since then a run has recorded the same bytes again."""
    studio = furnish(house.database, house.shelf)
    (key,) = (one for one in studio.needed if one.startswith("voiceovers/"))
    with house.database.begin() as db:
        db.execute(sa.insert(departures).values(key=key, bytes=1, episode_id=studio.episode.id))
    house.prune()
    assert key in house.shelf.lies()
    assert house.unwell() == {}
    assert house.count("SELECT count(*) FROM departures") == 0


def test_two_prunes_do_not_meet(house: House, database_url: str) -> None:
    another = Database(database_url)
    with alone(another, "prune"), pytest.raises(AnotherPrune):
        house.prune()
    another.dispose()


def test_a_claim_waits_until_the_objects_are_gone(house: House, database_url: str) -> None:
    """Otherwise a run could record an object in the second in which it is deleted."""
    episodes = a_series(house.database)
    other = Database(database_url)
    with house.database.begin() as db:
        assert hold_idle(db, [one.id for one in episodes]) == {one.id for one in episodes}
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            _claim(other, episodes[0])
        with other.begin() as second:
            assert hold_idle(second, [episodes[0].id]) == set()
    other.dispose()


def _claim(database: Database, episode: Episode) -> None:
    with database.begin() as db:
        db.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
        claim_job(db, episode.partition_key, "a run", LEASE)


def test_a_prune_that_is_killed_anywhere_leaves_nothing_wrong_and_the_next_one_finishes(
    house: House, database_url: str, object_storage: S3Access
) -> None:
    studio = furnish(house.database, house.shelf)
    house.shelf.lay(f"takes/{studio.shots[1].id}/1-1-{'0' * 12}.mp4")
    house.unwell()
    runs = old_runs(house.instance, studio.episode.partition_key)
    assert object_storage.secret_key is not None
    s3 = {
        "endpoint_url": object_storage.endpoint_url,
        "access_key": object_storage.access_key or "",
        "secret_key": object_storage.secret_key.get_secret_value(),
        "region": object_storage.region or "",
    }
    killed, outcome = 0, None
    for attempt in range(MOST_PROCESSES):
        # What one has done, the next one does not do again: the second and the third step of what is left come to every
        # step there is. With the second alone it would not go on: it stands between a deletion and its word about it.
        step = 2 + attempt % 2
        outcome = _in_a_process(Errand(database_url, house.shelf.store.bucket, s3, str(house.home), step))
        if outcome is not None:
            break
        killed += 1
        assert not {"media_objects_are_there"} & house.unwell().keys()
        assert studio.needed <= house.shelf.lies()
        left = {record.dagster_run.run_id for record in house.instance.get_run_records()}
        assert runs[-1] in left
    assert isinstance(outcome, int), outcome
    assert killed > 9  # it was killed in each part of the work
    assert house.shelf.lies() == studio.needed
    assert house.unwell() == {}
    assert [record.dagster_run.run_id for record in house.instance.get_run_records()] == [runs[-1]]
    assert house.prune() == {}


def _in_a_process(errand: Errand) -> int | str | None:
    """Steps of a prune that ended well, the error of one that failed, None for one that was killed."""
    ours, theirs = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=run, args=(errand, theirs))
    child.start()
    theirs.close()
    try:
        outcome: int | str | None = ours.recv()
    except EOFError:
        outcome = None
    child.join()
    return outcome


# Dagster's records ----------------------------------------------------------------------------------------------------


class Refused(Exception):
    """What the asset below is told to fail with."""


class Wish(dg.Config):
    """What becomes of a run."""

    fails: bool = False
    passes: bool = True


@dg.asset(
    partitions_def=EPISODES,
    check_specs=[dg.AssetCheckSpec("is_well", asset="reel")],
)
def reel(config: Wish) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """An asset with partitions."""
    if config.fails:
        raise Refused
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=config.passes)])


@dg.asset
def catalogue() -> None:
    """An asset without."""


@dg.asset_check(asset=catalogue)
def is_dated() -> dg.AssetCheckResult:
    """A check that is looked at by itself."""
    return dg.AssetCheckResult(passed=True)


@dg.asset_check(asset=catalogue)
def is_sorted() -> dg.AssetCheckResult:
    """Another of the same asset."""
    return dg.AssetCheckResult(passed=True)


def _facts(instance: dg.DagsterInstance) -> dict[str, object]:
    """What the UI shows of both assets: read without what Dagster has cached of it."""
    instance.wipe_asset_cached_status([reel.key])
    storage = instance.event_log_storage
    key = dg.AssetCheckKey(reel.key, "is_well")
    summary = storage.get_asset_check_summary_records([key])[key]
    newest, completed = summary.last_check_execution_record, summary.last_completed_check_execution_record
    cached = get_and_update_asset_status_cache_value(instance, reel.key, EPISODES)
    assert cached is not None
    return {
        "newest of each partition": dict(
            storage.get_latest_storage_id_by_partition(reel.key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        ),
        "status": {
            partition: status.value
            for partition, status in (
                instance.get_status_by_partition(reel.key, instance.get_dynamic_partitions(EPISODES_NAME), EPISODES)
                or {}
            ).items()
            if status is not None
        },
        "materialized": cached.serialized_materialized_partition_subset,
        "failed": cached.serialized_failed_partition_subset,
        "catalogue": _latest(instance, catalogue.key),
        "check": [newest and (newest.id, newest.run_id, newest.status.value)],
        "completed check": [completed and (completed.id, completed.status.value)],
        "keys": sorted(one.to_user_string() for one in instance.all_asset_keys()),
        "partitions": sorted(instance.get_dynamic_partitions(EPISODES_NAME)),
    }


def _latest(instance: dg.DagsterInstance, key: dg.AssetKey) -> tuple[str, float]:
    event = instance.get_latest_materialization_event(key)
    assert event is not None
    return event.run_id, event.timestamp


def _make(instance: dg.DagsterInstance, partition: str, *, fails: bool = False, passes: bool = True) -> str:
    wish = dg.RunConfig(ops={"reel": Wish(fails=fails, passes=passes)})
    made = dg.materialize([reel], instance=instance, partition_key=partition, run_config=wish, raise_on_error=False)
    return made.run_id


def test_what_the_ui_says_of_live_partitions_outlives_the_runs(house: House) -> None:
    instance = house.instance
    instance.add_dynamic_partitions(EPISODES_NAME, ["good-e01", "broken-e02", "mended-e03"])
    old = [_make(instance, "good-e01"), _make(instance, "mended-e03", fails=True), _make(instance, "good-e01")]
    kept = [
        _make(instance, "mended-e03"),
        _make(instance, "broken-e02", fails=True),
        _make(instance, "good-e01", passes=False),
    ]
    old += [dg.materialize([catalogue], instance=instance).run_id]
    kept += [dg.materialize([catalogue], instance=instance).run_id]
    # None of these is the last run of its job and partition, which would stay for that alone.
    job = instance.get_runs(limit=1)[0].job_name
    for tags in ({PARTITION_TAG: key} for key in ("good-e01", "broken-e02", "mended-e03")):
        create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    create_run_for_test(instance, job_name=job, status=dg.DagsterRunStatus.SUCCESS)
    for passed in (True, False, True):
        instance.report_runless_asset_event(dg.AssetCheckEvaluation(catalogue.key, "is_whole", passed=passed))
    for text in ("old", "new"):
        instance.report_runless_asset_event(dg.AssetObservation(catalogue.key, description=text))
    before = _facts(instance)

    gone = house.prune()

    assert _facts(instance) == before
    left = {record.dagster_run.run_id for record in instance.get_run_records()}
    assert left >= set(kept)
    assert gone["runs"] == len(set(old) - left) >= 2  # of the partition and of the catalogue
    assert gone["events without a run"] == 3  # two results of the check, one observation
    assert house.count("SELECT count(*) FROM dagster.event_logs AS e WHERE run_id <> '' AND NOT EXISTS "
                       "(SELECT FROM dagster.runs AS r WHERE r.run_id = e.run_id)") == 0  # fmt: skip
    assert house.count("SELECT count(*) FROM dagster.run_tags AS t WHERE NOT EXISTS "
                       "(SELECT FROM dagster.runs AS r WHERE r.run_id = t.run_id)") == 0  # fmt: skip
    whole = dg.AssetCheckKey(catalogue.key, "is_whole")
    (newest,) = instance.event_log_storage.get_asset_check_execution_history(whole, limit=10)
    assert newest.status.value == "SUCCEEDED"
    assert house.count("SELECT count(*) FROM dagster.asset_check_executions") == len(
        instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(reel.key, "is_well"), limit=10)
    ) + 1  # fmt: skip
    assert house.prune() == {}


def test_a_run_that_looked_last_at_a_check_stays(house: House) -> None:
    """Its events are not the newest of the asset: another check was looked at since, in another run."""
    looks = [
        dg.define_asset_job("look_at_the_date", dg.AssetSelection.checks(is_dated)),
        dg.define_asset_job("look_at_the_order", dg.AssetSelection.checks(is_sorted)),
    ]
    definitions = dg.Definitions(assets=[catalogue], asset_checks=[is_dated, is_sorted], jobs=looks)
    looked = [definitions.resolve_job_def(one.name).execute_in_process(instance=house.instance) for one in looks]
    for one in looks:
        create_run_for_test(house.instance, job_name=one.name, status=dg.DagsterRunStatus.SUCCESS)
    house.prune()
    left = {record.dagster_run.run_id for record in house.instance.get_run_records()}
    assert {one.run_id for one in looked} <= left


def test_a_run_stays_as_long_as_somebody_needs_it(house: House) -> None:
    instance = house.instance
    studio = a_series(house.database)
    done = dg.DagsterRunStatus.SUCCESS

    def ended(job: str = "produce_episode", **tags: str) -> str:
        run_id: str = create_run_for_test(instance, job_name=job, status=done, tags=tags).run_id
        return run_id

    needless = ended("check_integrity")
    paying = ended("check_integrity")
    owner = ended("check_integrity")
    parent = ended("check_integrity")
    troubled = ended("close_voting_period", **{PARTITION_TAG: "a-period"})
    ended("close_voting_period", **{PARTITION_TAG: "a-period"})
    working = create_run_for_test(instance, job_name="check_integrity", status=dg.DagsterRunStatus.STARTED).run_id
    child = ended("check_integrity", **{"dagster/parent_run_id": parent, "dagster/root_run_id": parent})
    newest = ended("check_integrity")
    with house.database.begin() as db:
        claim_job(db, studio[0].partition_key, owner, LEASE)
        db.execute(
            sa.insert(provider_jobs).values(
                fingerprint="f" * 64, engine="veo", operation="film", state="ambiguous", request={}, process_uuid=paying
            )
        )
        db.execute(
            sa.insert(incidents).values(
                subject="run:close_voting_period:a-period", severity="error", title="t", body="b"
            )
        )
    house.prune()
    left = {record.dagster_run.run_id for record in instance.get_run_records()}
    assert {paying, owner, parent, troubled, working, newest} <= left
    assert not {needless, child} & left


def test_what_a_run_printed_goes_with_it(house: House) -> None:
    old, newest = old_runs(house.instance, "an-episode", 2)
    logs = {run_id: f"compute-logs/storage/{run_id}/compute_logs/abcdefgh.out" for run_id in (old, newest)}
    of_a_tick = "compute-logs/storage/moltpipe/production_sensor/17637.err"
    for key in (*logs.values(), of_a_tick):
        house.shelf.lay(key)
    assert house.prune() == {"runs": 1, "compute logs": 2}
    assert house.shelf.lies() == {logs[newest]}


def test_observations_of_what_is_gone_go_with_it(house: House) -> None:
    studio = furnish(house.database, house.shelf)
    (key,) = (one for one in studio.superseded if one.startswith("voiceovers/"))
    house.shelf.remove(key)
    assert set(house.unwell()) == {"media_objects_are_there"}
    house.prune()
    assert house.unwell() == {}
    with house.database.begin() as db:
        assert db.execute(sa.select(sa.func.count()).select_from(observations)).scalar_one() == 0
