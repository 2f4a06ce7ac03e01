"""The rules of retention: nothing live is ever chosen, whatever its age."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.retention import (
    Keeping,
    Medium,
    OldEvent,
    OldIncident,
    OldNews,
    OldResult,
    OldRun,
    OldWatcher,
    Pruned,
    Stranger,
    conformed_film_may_go,
    event_may_go,
    incident_may_go,
    log_may_go,
    medium_may_go,
    news_may_go,
    result_may_go,
    run_may_go,
    run_of_log,
    stranger_may_go,
    watcher_may_go,
)
from moltpipe_tests.studio.making import NOON

BEFORE = NOON
LONG_AGO = NOON - timedelta(days=1000)
LATER = NOON + timedelta(days=1)
moments = st.datetimes(
    min_value=(NOON - timedelta(days=1000)).replace(tzinfo=None),
    max_value=(NOON + timedelta(days=1000)).replace(tzinfo=None),
    timezones=st.just(UTC),
)
maybe = st.none() | moments
numbers = st.integers(1, 9)

A_RUN = OldRun("a run", LONG_AGO)
A_MEDIUM = Medium(
    id=uuid4(),
    subject_id=uuid4(),
    variant_number=1,
    take_number=1,
    episode_id=uuid4(),
    objects={"takes/a.mp4": 4},
    used_number=2,
    superseded_at=LONG_AGO,
    cut_at=LONG_AGO + timedelta(hours=1),
    is_in_work=False,
)
A_STRANGER = Stranger("takes/a.mp4", 4, LONG_AGO, is_known=False, is_ours=True, stranger_since=LONG_AGO)
media = st.builds(
    Medium,
    id=st.just(UUID(int=1)),
    subject_id=st.just(UUID(int=2)),
    variant_number=st.integers(0, 4),
    take_number=numbers,
    episode_id=st.just(UUID(int=3)),
    objects=st.just({"a": 1}),
    used_number=st.none() | numbers,
    superseded_at=maybe,
    cut_at=maybe,
    is_in_work=st.booleans(),
)


def test_a_run_goes_that_nothing_needs() -> None:
    assert run_may_go(A_RUN, BEFORE)
    assert not run_may_go(replace(A_RUN, ended_at=LATER), BEFORE)
    assert not run_may_go(replace(A_RUN, ended_at=None), BEFORE)


@pytest.mark.parametrize(
    "needed",
    [
        "bears_newest_event",
        "bears_newest_result",
        "is_newest_of_work",
        "is_named",
        "is_of_open_incident",
        "is_begun_again",
        "is_of_backfill_under_way",
    ],
)
def test_one_reason_is_enough_for_a_run_to_stay(needed: str) -> None:
    assert not run_may_go(OldRun("a run", LONG_AGO, **{needed: True}), BEFORE)


@given(
    run=st.builds(OldRun, run_id=st.just("a run"), ended_at=maybe, **{
        name: st.booleans() for name in (
            "bears_newest_event", "bears_newest_result", "is_newest_of_work", "is_named", "is_of_open_incident",
            "is_begun_again", "is_of_backfill_under_way",
        )
    }),
    before=moments,
)  # fmt: skip
def test_no_run_goes_that_is_evidence_of_something_live(run: OldRun, before: datetime) -> None:
    if run_may_go(run, before):
        assert run == OldRun("a run", run.ended_at)
        assert run.ended_at is not None


@given(event=st.builds(OldEvent, id=numbers, at=moments, is_newest=st.booleans(), is_newest_result=st.booleans()))
def test_no_event_goes_by_which_the_ui_shows_something_now(event: OldEvent) -> None:
    assert event_may_go(event, BEFORE) == (event.at < BEFORE and not (event.is_newest or event.is_newest_result))


@given(result=st.builds(OldResult, id=numbers, at=moments, is_newest=st.booleans(), is_of_run=st.booleans()))
def test_no_result_goes_that_is_the_newest_or_of_a_run(result: OldResult) -> None:
    assert result_may_go(result, BEFORE) == (result.at < BEFORE and not (result.is_newest or result.is_of_run))


def test_what_a_run_printed_stays_as_long_as_the_run() -> None:
    run_id = "0123abcd-0123-0123-0123-0123456789ab"
    assert run_of_log(f"compute-logs/storage/{run_id}/compute_logs/abcdefgh.err") == run_id
    assert run_of_log("compute-logs/storage/moltpipe/production_sensor/1763740000.out") is None
    assert log_may_go(LONG_AGO, BEFORE, run_is_there=False)
    assert not log_may_go(LONG_AGO, BEFORE, run_is_there=True)
    assert not log_may_go(LATER, BEFORE, run_is_there=False)


def test_a_take_goes_whose_successor_has_been_in_every_cut_for_long() -> None:
    assert medium_may_go(A_MEDIUM, BEFORE)


@pytest.mark.parametrize(
    "changed",
    [
        replace(A_MEDIUM, take_number=2),
        replace(A_MEDIUM, take_number=3),
        replace(A_MEDIUM, used_number=None),
        replace(A_MEDIUM, superseded_at=LATER, cut_at=LATER),
        replace(A_MEDIUM, cut_at=None),
        replace(A_MEDIUM, cut_at=LONG_AGO - timedelta(hours=1)),
        replace(A_MEDIUM, cut_at=LONG_AGO),
        replace(A_MEDIUM, is_in_work=True),
    ],
    ids=[
        "used",
        "later than the used one",
        "none used",
        "replaced lately",
        "no cut",
        "cut before",
        "cut nobody knows when",
        "in work",
    ],
)
def test_a_take_stays_that_may_still_be_needed(changed: Medium) -> None:
    assert not medium_may_go(changed, BEFORE)


@given(medium=media, before=moments)
def test_no_medium_goes_that_is_used_or_in_a_cut(medium: Medium, before: datetime) -> None:
    if medium_may_go(medium, before):
        assert medium.used_number is not None
        assert medium.superseded_at is not None
        assert medium.cut_at is not None
        assert medium.take_number < medium.used_number
        assert medium.superseded_at < medium.cut_at
        assert not medium.is_in_work


@given(
    of_shot=st.lists(media, min_size=1, max_size=8, unique_by=lambda one: one.take_number),
    used=st.integers(0, 7),
)
def test_the_highest_number_of_a_shot_always_stays(of_shot: list[Medium], used: int) -> None:
    """A number that is derived from the highest one can be given only once as long as that one stays."""
    used_number = of_shot[used % len(of_shot)].take_number
    staying = [one for one in of_shot if not medium_may_go(replace(one, used_number=used_number), BEFORE)]
    assert max(one.take_number for one in staying) == max(one.take_number for one in of_shot)
    assert used_number in {one.take_number for one in staying}


def test_an_object_goes_that_the_ledger_itself_has_not_known_for_long() -> None:
    assert stranger_may_go(A_STRANGER, BEFORE)
    nobodys = replace(A_STRANGER, stranger_since=None)
    assert stranger_may_go(replace(nobodys, superseded_at=LONG_AGO), BEFORE)
    assert stranger_may_go(replace(nobodys, call_over_at=LONG_AGO), BEFORE)


def test_an_object_stays_whose_key_means_nothing_to_this_ledger() -> None:
    """Another studio keeps its media in the same bucket."""
    assert not stranger_may_go(replace(A_STRANGER, is_ours=False), BEFORE)


def test_beside_an_empty_ledger_no_object_goes_however_old_it_is() -> None:
    """The address of another database must not empty the bucket."""
    assert not stranger_may_go(replace(A_STRANGER, stranger_since=None), BEFORE)
    assert not stranger_may_go(replace(A_STRANGER, stranger_since=LATER), BEFORE)


@given(
    stranger=st.builds(
        Stranger,
        key=st.just("takes/a.mp4"),
        bytes=st.just(4),
        modified_at=moments,
        is_known=st.booleans(),
        is_ours=st.booleans(),
        stranger_since=maybe,
        superseded_at=maybe,
        call_over_at=maybe,
    ),
    before=moments,
)
def test_no_object_goes_that_a_row_tells_of_or_that_may_still_get_one(stranger: Stranger, before: datetime) -> None:
    if stranger_may_go(stranger, before):
        assert not stranger.is_known
        assert stranger.is_ours
        assert stranger.modified_at < before


def test_the_cache_goes_by_age_alone() -> None:
    assert conformed_film_may_go(LONG_AGO, BEFORE)
    assert not conformed_film_may_go(LATER, BEFORE)


@pytest.mark.parametrize(
    ("incident", "goes"),
    [
        (OldIncident(uuid4(), LONG_AGO), True),
        (OldIncident(uuid4(), LONG_AGO, last_sent_at=LONG_AGO, alerts=2), True),
        (OldIncident(uuid4(), None), False),
        (OldIncident(uuid4(), LATER), False),
        (OldIncident(uuid4(), LONG_AGO, alerts=2, untold=1), False),
        (OldIncident(uuid4(), LONG_AGO, last_sent_at=LATER, alerts=2), False),
    ],
    ids=["nobody to be told", "all told", "open", "over lately", "not all told", "told lately"],
)
def test_an_incident_goes_when_it_is_over_and_told(incident: OldIncident, goes: bool) -> None:  # noqa: FBT001 - a case
    assert incident_may_go(incident, BEFORE) is goes


@pytest.mark.parametrize(
    ("rule", "goes"),
    [
        (lambda: news_may_go(OldNews(uuid4(), LONG_AGO, call_is_settled=True), BEFORE), True),
        (lambda: news_may_go(OldNews(uuid4(), LONG_AGO, call_is_settled=False), BEFORE), False),
        (lambda: news_may_go(OldNews(uuid4(), LATER, call_is_settled=True), BEFORE), False),
        (lambda: watcher_may_go(OldWatcher("gone", LONG_AGO, is_ours=False), BEFORE), True),
        (lambda: watcher_may_go(OldWatcher("reaper_sensor", LONG_AGO, is_ours=True), BEFORE), False),
        (lambda: watcher_may_go(OldWatcher("gone", LATER, is_ours=False), BEFORE), False),
    ],
)
def test_news_stay_for_calls_that_wait_and_watchers_for_as_long_as_they_exist(
    rule: Callable[[], bool],
    goes: bool,  # noqa: FBT001 - a case
) -> None:
    assert rule() is goes


def test_each_kind_has_its_own_moment() -> None:
    keeping = Keeping(timedelta(days=1), timedelta(days=2), timedelta(days=3))
    before = keeping.before(NOON)
    assert [NOON - one for one in (before.runs, before.takes, before.records)] == [
        timedelta(days=1),
        timedelta(days=2),
        timedelta(days=3),
    ]


def test_counting_keeps_the_oldest_and_says_when_a_size_is_not_known() -> None:
    counted = Pruned("takes").and_also(2, 10, NOON).and_also(1, 5, LONG_AGO).and_also(0, 0, None)
    assert counted == Pruned("takes", 3, 15, LONG_AGO)
    assert counted.and_also(1, None, NOON).bytes is None
