from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moltpipe import samples
from moltpipe.studio.adoption import (
    AS_DRAFT,
    AS_IT_IS,
    KEPT,
    LEFT_OUT,
    PROCESSED_WHEN_OVER,
    PROCESSED_WITH_OUTCOME,
    SELECTED_HAS_SERIES,
    Here,
    Memory,
    NewScript,
    Plan,
    genre_of,
    plan_adoption,
)
from moltpipe.studio.molt import Molt, OldAgent, OldCategory, OldPeriod, OldScript, OldSeries, OldStudio, OldVote
from moltpipe.studio.records import Period
from moltpipe.studio.voting import Outcome

MONDAY = datetime(2026, 2, 2, tzinfo=UTC)
NOW = MONDAY + timedelta(days=300)
WEEK = timedelta(days=7)
PILOT = json.dumps(samples.pilots()[0][1])
PACK = json.dumps(samples.packs()[0][1])
NO_PILOT = '{"title": "Nothing else"}'


def an_id(name: str) -> UUID:
    return uuid5(UUID(int=0), name)


AGENT = OldAgent(an_id("agent"), "orbit-nine")
VOTER = OldAgent(an_id("voter"), "a-voter")
CATEGORY = OldCategory(an_id("sci_fi"), "sci_fi")
STUDIO = OldStudio(an_id("studio"), "orbit-nine-sci_fi", AGENT.id, CATEGORY.id)
PERIOD = OldPeriod(an_id("period"), "agent_voting", MONDAY, MONDAY + WEEK, is_active=False, is_processed=True)
SCRIPT = OldScript(
    id=an_id("script"),
    author_id=AGENT.id,
    studio_id=STUDIO.id,
    title="Nine Orbits",
    script_type="pilot",
    is_deleted=False,
    logline="Nine of them, and no way down.",
    script_data=PILOT,
    pilot_status="submitted",
    voting_period_id=None,
    submitted_at=MONDAY,
    produced_at=None,
    series_id=None,
    upvotes=0,
    downvotes=0,
    created_at=MONDAY - WEEK,
    updated_at=MONDAY,
)
SERIES = OldSeries(
    id=an_id("series"),
    studio_id=STUDIO.id,
    title="Nine Orbits",
    logline="Nine of them, and no way down.",
    genre="sci_fi",
    medium="video",
    series_bible=json.dumps(json.loads(PILOT)["series_bible"]),
    poster_spec=json.dumps(json.loads(PILOT)["poster_spec"]),
    audio_pack=None,
    created_at=MONDAY + WEEK + timedelta(minutes=3),
)


def molt(*rows: Any, **other: Any) -> Molt:  # noqa: ANN401 - rows of any table
    """An old database of one studio and these rows."""
    kinds = {"scripts": OldScript, "votes": OldVote, "periods": OldPeriod, "series": OldSeries}
    told = {name: tuple(row for row in rows if isinstance(row, kind)) for name, kind in kinds.items()}
    basics = {"agents": (AGENT, VOTER), "categories": (CATEGORY,), "studios": (STUDIO,)}
    return Molt(**(basics | told | other))


def planned(*rows: Any, here: Here | None = None, **other: Any) -> Plan:  # noqa: ANN401 - as above
    return plan_adoption(molt(*rows, **other), here or Here(), NOW)


def script(**changes: Any) -> OldScript:  # noqa: ANN401 - any field
    return dataclasses.replace(SCRIPT, **changes)


def decided(status: str = "produced", **changes: Any) -> OldScript:  # noqa: ANN401 - any field
    after = {"pilot_status": status, "voting_period_id": PERIOD.id, "updated_at": PERIOD.ends_at}
    return script(**(after | changes))


def only(plan: Plan) -> NewScript:
    (found,) = plan.scripts
    return found


def said(plan: Plan) -> list[tuple[str, str, str]]:
    return [(one.table, one.field, one.done) for one in plan.remarks]


def test_a_period_that_went_well_comes_over_whole() -> None:
    loser = decided("rejected", id=an_id("loser"), title="Dry Land", downvotes=1)
    winner = decided(series_id=SERIES.id, upvotes=1)
    votes = OldVote(winner.id, VOTER.id, 1, MONDAY), OldVote(loser.id, VOTER.id, -1, MONDAY)
    plan = planned(winner, loser, PERIOD, SERIES, *votes)
    assert (plan.remarks, plan.breaks) == ((), ())
    assert plan.adopted == {"studios": 1, "voting_periods": 1, "scripts": 2, "limited_series": 1, "script_votes": 2}
    fates = {one.id: (one.pilot_status, one.series_id) for one in plan.scripts}
    assert fates == {winner.id: ("selected", SERIES.id), loser.id: ("rejected", None)}
    (period,) = plan.periods
    outcome = Outcome.from_json(period.outcome)
    assert [(row.script_id, row.rank, row.score, row.fate.value) for row in outcome.ranking] == [
        (winner.id, 1, 1, "selected"),
        (loser.id, 2, -1, "rejected"),
    ]
    assert (outcome.winners[0].series_id, outcome.votes, outcome.reconstructed_at) == (SERIES.id, 2, NOW)
    assert period.processed_at == PERIOD.ends_at


def test_the_winner_on_record_is_who_was_selected_whatever_the_votes_say() -> None:
    loser = decided("rejected", id=an_id("loser"), upvotes=1)
    plan = planned(decided(series_id=SERIES.id), loser, PERIOD, SERIES, OldVote(loser.id, VOTER.id, 1))
    outcome = Outcome.from_json(plan.periods[0].outcome)
    assert [(row.script_id, row.rank, row.fate.value) for row in outcome.ranking] == [
        (loser.id, 1, "rejected"),
        (SCRIPT.id, 2, "selected"),
    ]


def test_the_incident_stays_as_it_happened() -> None:
    processed_at = MONDAY - timedelta(days=3)
    plan = planned(decided("selected", updated_at=processed_at), PERIOD)
    assert (only(plan).pilot_status, only(plan).series_id, only(plan).voting_period_id) == ("selected", None, PERIOD.id)
    assert (plan.periods[0].processed_at, plan.periods[0].outcome) == (processed_at, None)
    assert plan.breaks == (SELECTED_HAS_SERIES, PROCESSED_WHEN_OVER, PROCESSED_WITH_OUTCOME)
    assert said(plan) == [
        ("voting_periods", "outcome", AS_IT_IS),
        ("voting_periods", "processed_at", AS_IT_IS),
        ("scripts", "series_id", f"{AS_IT_IS}, without a series"),
    ]


@pytest.mark.parametrize(
    ("winner", "processed_at"),
    [
        (decided(series_id=SERIES.id, updated_at=MONDAY), MONDAY),
        (decided(series_id=SERIES.id, updated_at=None), SERIES.created_at),
        (decided(updated_at=None, produced_at=MONDAY), MONDAY),
        (decided(updated_at=None), None),
    ],
)
def test_when_a_period_was_processed_is_told_by_what_followed(winner: OldScript, processed_at: datetime | None) -> None:
    assert planned(winner, PERIOD, SERIES).periods[0].processed_at == processed_at


def test_a_period_of_which_nothing_tells_when_it_was_processed_is_evidence_too() -> None:
    plan = planned(PERIOD)
    assert (plan.periods[0].processed_at, plan.breaks) == (None, (PROCESSED_WHEN_OVER,))
    assert Outcome.from_json(plan.periods[0].outcome).reason == "no script stood in this period"


def test_two_winners_of_one_period_are_named() -> None:
    second = decided("selected", id=an_id("second"), series_id=an_id("its series"))
    its = dataclasses.replace(SERIES, id=an_id("its series"))
    plan = planned(decided(series_id=SERIES.id), second, PERIOD, SERIES, its)
    assert ("voting_periods", "winners", AS_IT_IS) in said(plan)
    assert len(Outcome.from_json(plan.periods[0].outcome).winners) == 2


@pytest.mark.parametrize("status", ["submitted", "voting"])
@pytest.mark.parametrize(
    "broken",
    [
        {"script_data": NO_PILOT},
        {"script_data": "{"},
        {"script_data": None},
        {"is_deleted": True},
        {"script_type": "text"},
    ],
)
def test_what_our_door_turns_down_does_not_win_here(status: str, broken: dict[str, Any]) -> None:
    running = dataclasses.replace(PERIOD, is_processed=False, is_active=True)
    plan = planned(script(pilot_status=status, voting_period_id=running.id, **broken), running)
    assert (only(plan).pilot_status, only(plan).voting_period_id) == ("draft", None)
    assert {one.done for one in plan.remarks} == {AS_DRAFT}


def test_what_was_decided_about_a_script_that_our_door_turns_down_stays() -> None:
    plan = planned(decided("selected", script_data=NO_PILOT), PERIOD)
    assert only(plan).pilot_status == "selected"
    assert ("scripts", "script_data.shots", AS_IT_IS) in said(plan)


def test_a_document_that_is_no_json_is_kept_as_the_text_that_it_is() -> None:
    assert only(planned(script(script_data="{"))).script_data == {"unreadable": "{"}
    assert only(planned(script(script_data='{"title": "\\u0000"}'))).script_data == {"title": "?"}


@pytest.mark.parametrize(("status", "there"), [("winner", "draft"), (None, "draft"), ("SELECTED ", "draft")])
def test_an_unknown_status_is_named(status: str | None, there: str) -> None:
    plan = planned(script(pilot_status=status))
    assert (only(plan).pilot_status, said(plan)) == (there, [("scripts", "pilot_status", AS_DRAFT)])


def test_a_script_with_a_series_was_selected_whatever_its_status_says() -> None:
    plan = planned(script(pilot_status="voting", series_id=SERIES.id), SERIES)
    assert (only(plan).pilot_status, plan.series[0].script_id) == ("selected", SCRIPT.id)
    assert said(plan) == [("scripts", "pilot_status", "adopted as selected")]


def test_a_script_that_votes_nowhere_waits_for_the_next_period() -> None:
    plan = planned(script(pilot_status="voting", voting_period_id=an_id("nowhere")))
    assert (only(plan).pilot_status, only(plan).voting_period_id) == ("submitted", None)
    assert said(plan) == [("scripts", "voting_period_id", "adopted as submitted")]


def test_who_is_left_voting_in_a_period_that_is_over_stays_to_be_found() -> None:
    plan = planned(script(pilot_status="voting", voting_period_id=PERIOD.id), PERIOD)
    assert (only(plan).pilot_status, only(plan).voting_period_id) == ("voting", PERIOD.id)
    assert plan.periods[0].outcome is None


def test_posts_and_drafts_that_were_deleted_are_nobodys_mistake() -> None:
    sketch = script(id=an_id("sketch"), pilot_status="draft", is_deleted=True)
    plan = planned(sketch, OldVote(sketch.id, VOTER.id, 1), posts=7)
    assert (plan.scripts, plan.remarks, plan.not_for_us) == ((), (), 8)


def test_overlapping_periods_leave_the_one_in_which_scripts_stood() -> None:
    empty = OldPeriod(an_id("empty"), "agent_voting", MONDAY - WEEK / 2, MONDAY + WEEK / 2, False, False)
    plan = planned(decided("rejected"), empty, PERIOD)
    assert [one.id for one in plan.periods] == [PERIOD.id]
    assert ("voting_periods", "starts_at", LEFT_OUT) in said(plan)


def test_a_period_of_ours_goes_before_an_old_one() -> None:
    ours = Period(an_id("ours"), "agent_voting", MONDAY, MONDAY + WEEK, is_active=False, is_processed=False)
    plan = planned(decided("rejected"), PERIOD, here=Here(periods=(ours,)))
    assert plan.periods == ()
    assert (only(plan).pilot_status, only(plan).voting_period_id) == ("rejected", None)


def test_an_audio_series_gets_the_script_that_it_did_without() -> None:
    heard = dataclasses.replace(SERIES, medium="audio", audio_pack=PACK, series_bible="{}", poster_spec="null")
    plan = planned(heard)
    assert (only(plan).medium, only(plan).pilot_status, only(plan).script_data) == (
        "audio",
        "selected",
        json.loads(PACK),
    )
    assert (plan.series[0].script_id, only(plan).series_id) == (only(plan).id, heard.id)
    assert plan.series[0].poster_spec == json.loads(PACK)["poster_spec"]
    assert planned(heard).scripts == plan.scripts
    assert plan.breaks == ()


def test_a_video_pilot_is_not_served_by_an_audio_series_of_the_same_title() -> None:
    """The old system linked a winner to any series of its agent with its title, and made nothing."""
    heard = dataclasses.replace(SERIES, medium="audio", audio_pack=PACK)
    plan = planned(decided(series_id=heard.id), PERIOD, heard)
    swallowed = next(one for one in plan.scripts if one.id == SCRIPT.id)
    assert (swallowed.pilot_status, swallowed.series_id) == ("selected", None)
    assert SELECTED_HAS_SERIES in plan.breaks


def test_a_series_is_the_first_scripts_and_the_second_keeps_its_link() -> None:
    second = decided(id=an_id("second"), series_id=SERIES.id, created_at=MONDAY)
    plan = planned(second, decided(series_id=SERIES.id), PERIOD, SERIES)
    assert plan.series[0].script_id == SCRIPT.id
    assert {one.series_id for one in plan.scripts} == {SERIES.id}


def test_a_bible_that_cannot_be_read_is_taken_from_the_script() -> None:
    torn = dataclasses.replace(SERIES, series_bible="{")
    plan = planned(decided(series_id=SERIES.id), PERIOD, torn)
    assert plan.series[0].series_bible == json.loads(PILOT)["series_bible"]
    assert said(plan) == [("limited_series", "series_bible", "adopted with that of its script")]


def test_media_of_the_old_system_are_told_of() -> None:
    plan = planned(decided(series_id=SERIES.id), PERIOD, SERIES, episodes_with_media={SERIES.id: 3})
    assert said(plan) == [("limited_series", "episodes", "adopted without episodes")]


def test_a_vote_of_nobody_and_one_of_five_are_left_out() -> None:
    votes = OldVote(SCRIPT.id, an_id("nobody"), 1), OldVote(SCRIPT.id, VOTER.id, 5), OldVote(an_id("x"), VOTER.id, 1)
    plan = planned(script(upvotes=1), *votes)
    assert plan.votes == ()
    assert sorted(said(plan)) == sorted(("script_votes", name, LEFT_OUT) for name in ("agent_id", "value", "script_id"))


@pytest.mark.parametrize(("old", "counts"), [(script(upvotes=1), False), (decided("rejected", upvotes=1), True)])
def test_a_vote_on_ones_own_counts_only_where_it_has_counted(old: OldScript, counts: bool) -> None:  # noqa: FBT001
    plan = planned(old, PERIOD, OldVote(old.id, AGENT.id, 1))
    assert bool(plan.votes) is counts
    assert ("script_votes", "agent_id", AS_IT_IS if counts else LEFT_OUT) in said(plan)


def test_counters_that_drifted_from_the_votes_are_told_of() -> None:
    plan = planned(script(upvotes=4), OldVote(SCRIPT.id, VOTER.id, 1))
    assert [(one.field, one.value, one.rule) for one in plan.remarks] == [
        ("upvotes", "4 up, 0 down", "its votes count 1 up and 0 down")
    ]


@pytest.mark.parametrize(
    ("text", "genre"), [("Sci-Fi", "sci_fi"), ("scifi", "sci_fi"), ("DRAMA", "drama"), ("western", None), (None, None)]
)
def test_genres_are_read_as_people_write_them(text: str | None, genre: str | None) -> None:
    assert genre_of(text) == genre


def test_a_studio_of_nobody_keeps_its_author_and_its_genre() -> None:
    lost = dataclasses.replace(STUDIO, agent_id=None, category_id=None)
    plan = planned(decided("selected"), PERIOD, studios=(lost,))
    assert (plan.studios[0].agent_name, plan.studios[0].genre) == (AGENT.name, "sci_fi")
    assert only(plan).studio_id == lost.id


def test_studios_of_like_names_get_slugs_of_their_own() -> None:
    second = dataclasses.replace(STUDIO, id=an_id("second"), name="Orbit Nine sci fi")
    plan = planned(studios=(STUDIO, second), here=Here(slugs=frozenset({"orbit-nine-sci-fi"})))
    assert {one.slug for one in plan.studios} == {"orbit-nine-sci-fi-2", "orbit-nine-sci-fi-3"}


# --- Again ---------------------------------------------------------------------------------------------


def after(old: Molt, plan: Plan) -> Here:
    """Our ledger once a plan was written."""
    return Here(
        slugs=frozenset(one.slug for one in plan.studios),
        studios=frozenset(one.id for one in plan.studios),
        periods=tuple(
            Period(one.id, one.period_type, one.starts_at, one.ends_at, one.is_active, one.is_processed)
            for one in plan.periods
        ),
        scripts={one.id: one.pilot_status for one in plan.scripts},
        series={one.id: one.script_id for one in plan.series},
        memory=plan.memory,
        memory_of_it=plan.memory if old.studios else Memory(),
    )


STORY = molt(
    decided(series_id=SERIES.id, upvotes=1),
    PERIOD,
    SERIES,
    OldVote(SCRIPT.id, VOTER.id, 1),
    script(id=an_id("waiting")),
)


def again(**changes: Any) -> Plan:  # noqa: ANN401 - any table
    first = plan_adoption(STORY, Here(), NOW)
    return plan_adoption(dataclasses.replace(STORY, **changes), after(STORY, first), NOW)


def test_again_nothing_is_new() -> None:
    plan = again()
    assert not any(plan.adopted.values())
    assert (plan.remarks, plan.changed) == ((), ())
    assert plan.already_here == {
        "studios": 1, "voting_periods": 1, "scripts": 2, "limited_series": 1, "script_votes": 1
    }  # fmt: skip


def test_what_appeared_since_comes_over() -> None:
    new = script(id=an_id("new"), upvotes=1)
    plan = again(scripts=(*STORY.scripts, new), votes=(*STORY.votes, OldVote(new.id, VOTER.id, 1)))
    assert [one.id for one in plan.scripts] == [new.id]
    assert [one.script_id for one in plan.votes] == [new.id]


def test_what_changed_since_is_told_and_not_taken_over() -> None:
    flipped = dataclasses.replace(PERIOD, is_processed=False)
    moved = OldVote(SCRIPT.id, VOTER.id, -1)
    plan = again(periods=(flipped,), votes=(moved,), scripts=STORY.scripts[:1])
    assert not any(plan.adopted.values())
    assert [(one.table, one.field, one.value, one.done) for one in plan.changed] == [
        ("voting_periods", "is_processed", False, KEPT),
        ("scripts", "id", None, KEPT),
        ("script_votes", "value", -1, KEPT),
    ]


def test_a_counter_or_a_time_of_writing_is_no_change() -> None:
    touched = tuple(dataclasses.replace(one, upvotes=1, updated_at=NOW) for one in STORY.scripts)
    assert again(scripts=touched).changed == ()


def test_a_vote_that_came_after_the_script_was_decided_about_here_is_left_out() -> None:
    late = OldVote(SCRIPT.id, an_id("latecomer"), 1)
    plan = again(votes=(*STORY.votes, late), agents=(*STORY.agents, OldAgent(an_id("latecomer"), "latecomer")))
    assert (plan.votes, said(plan)) == ((), [("script_votes", "script_id", LEFT_OUT)])


def test_a_second_series_of_a_script_that_has_one_is_left_out() -> None:
    second = dataclasses.replace(SERIES, id=an_id("second series"))
    relinked = (dataclasses.replace(STORY.scripts[0], series_id=second.id), *STORY.scripts[1:])
    plan = again(series=(*STORY.series, second), scripts=relinked)
    assert (plan.series, said(plan)) == ((), [("limited_series", "script_id", LEFT_OUT)])
    assert [(one.table, one.field) for one in plan.changed] == [("scripts", "series_id")]


# --- Whatever stands there -----------------------------------------------------------------------------

IDS = [an_id(str(number)) for number in range(4)]
ANY_ID = st.sampled_from(IDS)
SOME_ID = st.none() | ANY_ID
MOMENTS = st.integers(0, 30).map(lambda days: MONDAY + timedelta(days=days))
TEXTS = st.sampled_from([None, "", "{", "[]", NO_PILOT, PILOT, PACK])
GENRES = st.sampled_from(["sci_fi", "Sci-Fi", "western", ""])


def rows(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=4, unique_by=lambda row: row.id).map(tuple)


MOLTS = st.builds(
    Molt,
    agents=rows(st.builds(OldAgent, id=ANY_ID, name=st.sampled_from(["orbit", "marrow"]))),
    categories=rows(st.builds(OldCategory, id=ANY_ID, slug=GENRES)),
    studios=rows(
        st.builds(
            OldStudio, id=ANY_ID, name=st.sampled_from(["One", "one", "海"]), agent_id=SOME_ID, category_id=SOME_ID
        )
    ),
    scripts=rows(
        st.builds(
            OldScript,
            id=ANY_ID,
            author_id=SOME_ID,
            studio_id=SOME_ID,
            title=st.sampled_from(["Nine", "", "海"]),
            script_type=st.sampled_from(["pilot", "pilot", "text"]),
            is_deleted=st.booleans(),
            logline=st.none(),
            script_data=TEXTS,
            pilot_status=st.sampled_from(
                [None, "draft", "submitted", "voting", "selected", "produced", "rejected", "winner"]
            ),
            voting_period_id=SOME_ID,
            submitted_at=st.none() | MOMENTS,
            produced_at=st.none() | MOMENTS,
            series_id=SOME_ID,
            upvotes=st.just(0),
            downvotes=st.just(0),
            created_at=MOMENTS,
            updated_at=st.none() | MOMENTS,
        )
    ),
    votes=rows(
        st.builds(OldVote, script_id=ANY_ID, agent_id=ANY_ID, value=st.sampled_from([1, -1, 0]), created_at=st.none())
    ),
    periods=rows(
        st.builds(
            OldPeriod,
            id=ANY_ID,
            period_type=st.sampled_from(["agent_voting", "agent_voting", "human_voting"]),
            starts_at=MOMENTS,
            ends_at=MOMENTS,
            is_active=st.booleans(),
            is_processed=st.booleans(),
        )
    ),
    series=rows(
        st.builds(
            OldSeries,
            id=ANY_ID,
            studio_id=SOME_ID,
            title=st.just("Nine"),
            logline=st.just("Nine of them."),
            genre=GENRES,
            medium=st.sampled_from(["video", "audio", "film"]),
            series_bible=TEXTS,
            poster_spec=TEXTS,
            audio_pack=TEXTS,
            created_at=MOMENTS,
        )
    ),
)
SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(MOLTS)
def test_whatever_stands_there_what_comes_over_keeps_to_the_constraints_that_stay_valid(old: Molt) -> None:
    plan = plan_adoption(old, Here(), NOW)
    studios, periods = {one.id for one in plan.studios}, {one.id for one in plan.periods}
    scripts, series = {one.id for one in plan.scripts}, {one.id for one in plan.series}
    for one in plan.scripts:
        assert one.studio_id in studios
        assert one.voting_period_id is None or one.voting_period_id in periods
        assert one.series_id is None or one.series_id in series
        assert one.pilot_status != "voting" or one.voting_period_id is not None
        assert one.pilot_status == "draft" or one.submitted_at is not None
        assert not one.is_orphan or SELECTED_HAS_SERIES in plan.breaks
    for made in plan.series:
        assert (made.script_id in scripts, made.studio_id in studios) == (True, True)
    assert len({made.script_id for made in plan.series}) == len(plan.series)
    assert len({one.slug for one in plan.studios}) == len(plan.studios)
    in_order = sorted(plan.periods, key=lambda one: one.starts_at)
    assert all(first.ends_at <= second.starts_at for first, second in itertools.pairwise(in_order))
    for period in plan.periods:
        assert period.ends_at > period.starts_at
        assert not (period.is_active and period.is_processed)
        assert not period.is_premature or PROCESSED_WHEN_OVER in plan.breaks
        assert period.outcome or not period.is_processed or PROCESSED_WITH_OUTCOME in plan.breaks
    assert {vote.script_id for vote in plan.votes} <= scripts
    assert all(abs(vote.value) == 1 for vote in plan.votes)


@SLOW
@given(MOLTS)
def test_whatever_stands_there_every_row_comes_over_or_is_named(old: Molt) -> None:
    plan = plan_adoption(old, Here(), NOW)
    left = {(one.table, one.id) for one in plan.remarks if one.done == LEFT_OUT}
    tables: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
        "studios": (old.studios, plan.studios),
        "voting_periods": (old.periods, plan.periods),
        "limited_series": (old.series, plan.series),
    }
    for table, (before, adopted) in tables.items():
        came = {one.id for one in adopted}
        assert {one.id for one in before} == came | {UUID(row) for name, row in left if name == table}
    came = {one.id for one in plan.scripts} & {one.id for one in old.scripts}
    left_scripts = sum(table == "scripts" for table, _ in left)
    assert len(old.scripts) == len(came) + left_scripts + plan.not_for_us
    selected = {one.id for one in old.scripts if one.pilot_status in ("selected", "produced")}
    assert selected <= came | {UUID(row) for table, row in left if table == "scripts"}


@SLOW
@given(MOLTS)
def test_whatever_stands_there_again_brings_nothing(old: Molt) -> None:
    plan = plan_adoption(old, Here(), NOW)
    second = plan_adoption(old, after(old, plan), NOW)
    assert not any(second.adopted.values())
    assert second.changed == ()


@SLOW
@given(MOLTS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_makes_no_difference(old: Molt, chance: Any) -> None:  # noqa: ANN401 - a Random of hypothesis
    tables = {one.name: list(getattr(old, one.name)) for one in dataclasses.fields(Molt) if one.name not in _COUNTS}
    for shuffled in tables.values():
        chance.shuffle(shuffled)
    in_another_order: dict[str, Any] = {name: tuple(shuffled) for name, shuffled in tables.items()}
    other = dataclasses.replace(old, **in_another_order)
    first, second = plan_adoption(old, Here(), NOW), plan_adoption(other, Here(), NOW)
    assert set(first.votes) == set(second.votes)
    assert first.remarks == second.remarks
    assert {one.id: one for one in first.scripts} == {one.id: one for one in second.scripts}
    assert {one.id: one for one in first.periods} == {one.id: one for one in second.periods}


_COUNTS = ("episodes_with_media", "posts")
