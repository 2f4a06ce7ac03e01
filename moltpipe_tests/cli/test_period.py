from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from moltpipe.ledger.audience import cast_clip_vote, clip_vote_of
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import create_period, get_period, voting_settings
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Period
from moltpipe.studio.voting import VotingSettings
from moltpipe_tests.cli.conftest import Moltpipe, now
from moltpipe_tests.stories import a_filed_script, a_pilot_that_is_out, closed_vote

CREATE = ("period", "create", "--starts-at", "2027-03-01T00:00Z", "--ends-at", "2027-03-02T00:00Z")


def test_a_period_is_created_as_asked(moltpipe: Moltpipe) -> None:
    said = moltpipe(*CREATE, "--json")
    assert said.status == 0
    assert str(UUID(said.json["id"])) == said.json["id"]
    assert said.json["period_type"] == "agent_voting"
    assert datetime.fromisoformat(said.json["starts_at"]) == datetime(2027, 3, 1, tzinfo=UTC)
    assert datetime.fromisoformat(said.json["ends_at"]) == datetime(2027, 3, 2, tzinfo=UTC)


def test_a_time_without_a_zone_is_utc_and_ours_can_be_pasted_back(moltpipe: Moltpipe) -> None:
    said = moltpipe("period", "create", "--starts-at", "2027-03-01", "--ends-at", "2027-03-02 06:30 UTC", "--json")
    assert said.json["starts_at"] == "2027-03-01T00:00:00+00:00"
    assert said.json["ends_at"] == "2027-03-02T06:30:00+00:00"


def test_an_overlap_is_refused_and_names_the_other_period(moltpipe: Moltpipe) -> None:
    first = moltpipe(*CREATE, "--json").json["id"]
    said = moltpipe(*CREATE, "--json")
    assert (said.status, said.out) == (1, "")
    assert first in said.err
    assert len(moltpipe("period", "list", "--json").json["periods"]) == 1


def test_a_period_that_ends_before_it_starts_is_refused(moltpipe: Moltpipe) -> None:
    said = moltpipe("period", "create", "--starts-at", "2027-03-02", "--ends-at", "2027-03-01")
    assert said.status == 1
    assert "expected a time after starts_at" in said.err


@pytest.mark.parametrize("time", ["tomorrow", "2027-02-30", "0001-01-01T00:00+05:00", ""])
def test_what_is_no_time_is_wrong_usage(moltpipe: Moltpipe, time: str) -> None:
    said = moltpipe("period", "create", "--starts-at", time, "--ends-at", "2027-03-02")
    assert (said.status, said.out) == (2, "")
    assert "--starts-at" in said.err


def test_the_list_tells_every_state(moltpipe: Moltpipe, database: Database) -> None:
    over = closed_vote(database)
    moltpipe("period", "close", over.id)
    a_filed_script(database, 1)
    moltpipe("period", "create", "--starts-at", spelled(now()), "--ends-at", spelled(now() + timedelta(hours=1)))
    moltpipe(*CREATE)

    listed = moltpipe("period", "list", "--json").json["periods"]
    assert [one["state"] for one in listed] == ["processed", "open", "scheduled"]
    assert set(listed[0]) == {"id", "period_type", "starts_at", "ends_at", "state", "episode"}
    assert {one["episode"] for one in listed} == {None}

    table = moltpipe("period", "list").out.splitlines()
    assert max(map(len, table)) <= 80
    for row, one in zip(table[1:], listed, strict=True):
        assert row.split() == [
            one["id"], *one["starts_at"][:16].split("T"), *one["ends_at"][:16].split("T"), one["state"]
        ]  # fmt: skip


def test_an_empty_list_says_how_to_begin(moltpipe: Moltpipe) -> None:
    assert "moltpipe period create" in moltpipe("period", "list").out
    assert moltpipe("period", "list", "--json").json == {"periods": []}


def test_a_future_period_cannot_be_closed_and_says_when_it_ends(moltpipe: Moltpipe) -> None:
    period_id = moltpipe(*CREATE, "--json").json["id"]
    for words in ([], [period_id]):
        said = moltpipe("period", "close", *words, "--json")
        assert (said.status, said.out) == (1, "")
        assert "ends at 2027-03-02 00:00:00 UTC" in said.err
    assert moltpipe("period", "list", "--json").json["periods"][0]["state"] == "scheduled"


def test_closing_early_records_the_reason(moltpipe: Moltpipe, database: Database) -> None:
    period_id = moltpipe(*CREATE, "--json").json["id"]
    said = moltpipe("period", "close", period_id, "--early", "--reason", " the studio burns ", "--json")
    assert said.status == 0
    assert said.json["closed_early_reason"] == "the studio burns"
    with database.begin() as db:
        assert get_period(db, UUID(period_id)).closed_early_reason == "the studio burns"


@pytest.mark.parametrize("words", [["--early"], ["--early", "--reason", " "], ["--reason", "because"]])
def test_early_and_reason_go_together(moltpipe: Moltpipe, words: list[str]) -> None:
    assert moltpipe("period", "close", *words).status == 2


def test_the_period_that_is_over_is_closed_without_being_named(moltpipe: Moltpipe, database: Database) -> None:
    over = closed_vote(database)
    moltpipe(*CREATE)
    said = moltpipe("period", "close", "--json")
    assert said.status == 0
    assert said.json["period_id"] == str(over.id)
    assert [one["title"] for one in said.json["winners"]] == ["The Buoy That Answered"]


def test_of_several_that_are_over_one_must_be_named(moltpipe: Moltpipe, database: Database) -> None:
    over = closed_vote(database)
    with database.begin() as db:
        older = create_period(db, "agent_voting", now() - timedelta(days=2), now() - timedelta(days=1))
    said = moltpipe("period", "close")
    assert said.status == 1
    assert str(over.id) in said.err
    assert str(older.id) in said.err


def test_where_there_is_nothing_to_close_it_is_said(moltpipe: Moltpipe) -> None:
    said = moltpipe("period", "close")
    assert said.status == 1
    assert "there is no voting period to close" in said.err


@pytest.fixture
def clip_vote(database: Database) -> tuple[Period, str]:
    """A vote on the variants of a pilot with two votes for the third, and the pilot's partition key."""
    pilot, variants = a_pilot_that_is_out(database, 2)
    with database.begin() as db:
        period = clip_vote_of(db, pilot.id)
        assert period is not None
        for voter, variant in (("agent:a", variants[2]), ("agent:b", variants[2]), ("agent:c", variants[0])):
            cast_clip_vote(db, variant.id, voter, period.starts_at)
    return period, pilot.partition_key


def test_the_list_tells_which_pilot_a_vote_on_variants_is_about(
    moltpipe: Moltpipe, clip_vote: tuple[Period, str]
) -> None:
    period, pilot = clip_vote
    moltpipe(*CREATE)
    on_variants, on_scripts = moltpipe("period", "list", "--json").json["periods"]
    assert (on_variants["id"], on_variants["period_type"]) == (str(period.id), "clip_voting")
    assert (on_variants["state"], on_variants["episode"], on_scripts["episode"]) == ("open", pilot, None)
    head, first, about, second = moltpipe("period", "list").out.splitlines()
    assert head.split() == ["id", "starts", "(UTC)", "ends", "(UTC)", "state"]
    assert first.startswith(str(period.id))
    assert about == f"  on the variants of {pilot}"
    assert second.startswith(on_scripts["id"])


def test_a_vote_on_variants_is_closed_early_as_any_other(
    moltpipe: Moltpipe, database: Database, clip_vote: tuple[Period, str]
) -> None:
    period, pilot = clip_vote
    said = moltpipe("period", "close", period.id)
    assert (said.status, said.out) == (1, "")
    assert "wait, or close it early with a reason" in said.err

    said = moltpipe("period", "close", "--early", "--reason", "the festival begins", "--json")
    assert said.status == 0
    assert (said.json["period_type"], said.json["period_id"]) == ("clip_voting", str(period.id))
    assert (said.json["partition_key"], said.json["votes"]) == (pilot, 3)
    assert (said.json["selected"]["variant_number"], said.json["selected"]["votes"]) == (3, 2)
    with database.begin() as db:
        assert get_period(db, period.id).closed_early_reason == "the festival begins"

    again = moltpipe("period", "close", period.id).out.splitlines()
    assert again[0] == f"closed {period.id}: variant 3 of {pilot} is selected with 2 of 3 votes"
    assert again[1] == "closed early: the festival begins"
    assert [row.split() for row in again[2:]] == [
        ["rank", "variant", "votes"], ["1", "3", "2"], ["2", "1", "1"], ["3", "2", "0"], ["4", "4", "0"]
    ]  # fmt: skip


def test_a_vote_on_scripts_that_is_over_is_closed_beside_one_on_variants_that_is_on(
    moltpipe: Moltpipe, database: Database, clip_vote: tuple[Period, str]
) -> None:
    over = closed_vote(database)
    assert moltpipe("period", "close", "--json").json["period_id"] == str(over.id)
    early = moltpipe("period", "close", "--early", "--reason", "enough", "--json")
    assert early.json["period_id"] == str(clip_vote[0].id)


def test_of_several_votes_that_are_on_the_pilots_are_named(
    moltpipe: Moltpipe, database: Database, clip_vote: tuple[Period, str]
) -> None:
    other, _ = a_pilot_that_is_out(database, 3)
    said = moltpipe("period", "close", "--early", "--reason", "enough")
    assert said.status == 1
    for pilot in (clip_vote[1], other.partition_key):
        assert f"on the variants of {pilot}" in said.err


def test_a_vote_on_variants_that_are_gone_says_so(
    moltpipe: Moltpipe, database: Database, clip_vote: tuple[Period, str]
) -> None:
    with database.begin() as db:
        for table in ("clip_votes", "clip_variants"):
            db.execute(sa.text(f"DELETE FROM {table}"))  # noqa: S608 (constants)
    said = moltpipe("period", "close", clip_vote[0].id, "--early", "--reason", "enough")
    assert (said.status, said.out) == (1, "")
    assert f"{clip_vote[1]} has no variants to select from" in said.err


def test_the_length_of_votes_on_variants_is_a_setting(moltpipe: Moltpipe, database: Database) -> None:
    assert moltpipe("period", "settings", "--json").json["clip_voting_minutes"] == 2880
    assert moltpipe("period", "settings", "--clip-voting-minutes", "60", "--json").json["clip_voting_minutes"] == 60
    with database.begin() as db:
        assert voting_settings(db).clip_voting_minutes == 60


def test_the_settings_are_kept_in_the_database(moltpipe: Moltpipe, database: Database) -> None:
    assert moltpipe("period", "settings", "--json").json["cadence"] == "weekly"
    changed = moltpipe("period", "settings", "--cadence", "daily", "--winner-scope", "period", "--json").json
    assert (changed["cadence"], changed["winner_scope"], changed["min_votes"]) == ("daily", "period", 1)
    with database.begin() as db:
        kept = voting_settings(db)
    assert (kept.cadence, kept.winner_scope) == ("daily", "period")
    assert "daily" in moltpipe("period", "settings").out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cadence", "hourly"),
        ("--winner-scope", "agent"),
        ("--min-votes", "0"),
        ("--start-weekday", "7"),
        ("--clip-voting-minutes", "0"),
        ("--clip-voting-minutes", "20161"),
    ],
)
def test_a_setting_that_cannot_be_is_wrong_usage(
    moltpipe: Moltpipe, database: Database, option: str, value: str
) -> None:
    said = moltpipe("period", "settings", option, value)
    assert said.status == 2
    assert option in said.err
    with database.begin() as db:
        assert voting_settings(db) == VotingSettings()
