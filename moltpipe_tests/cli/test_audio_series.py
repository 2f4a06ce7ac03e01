"""An audio series as an agent and an operator meet it: submitted, voted for, closed, and waiting to be made."""

from __future__ import annotations

from datetime import timedelta

from moltpipe import samples
from moltpipe.ledger.checks import run_checks
from moltpipe.ledger.checks.finding import Conditions
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import open_due_periods
from moltpipe.studio.moments import spelled
from moltpipe_tests.cli.conftest import Moltpipe, now


def test_an_audio_pack_wins_a_vote_like_any_script_and_waits_with_one_cut_for_each_episode(
    moltpipe: Moltpipe, database: Database
) -> None:
    (pack,) = samples.sample_packs()
    rival = samples.sample_scripts()[1]
    heard = moltpipe("submit", pack, "--agent", "car-two", "--json").json["filed"][0]["script_id"]
    moltpipe("submit", rival, "--agent", "platform-four")
    period = moltpipe(
        *("period", "create", "--starts-at", spelled(now() - timedelta(minutes=5))),
        *("--ends-at", spelled(now() + timedelta(hours=1)), "--json"),
    ).json["id"]
    with database.begin() as db:
        open_due_periods(db, now())
    assert moltpipe("vote", heard, "--agent", "a-listener", "--up").status == 0
    assert moltpipe("period", "close", period, "--early", "--reason", "a test of the ears").status == 0

    document = moltpipe("status", "--json").json
    (series,) = document["series"]
    assert series["title"] == "Known by Weight"
    assert [one["variants_wanted"] for one in series["episodes"]] == [1] * 5
    assert document["jobs"]["pending"] == 5
    with database.begin() as db:
        assert [one.name for one in run_checks(db, Conditions(now())) if not one.passed] == []
    told = moltpipe("status").out
    assert "Known by Weight" in told
    assert told.count("0 of 1") == 5
