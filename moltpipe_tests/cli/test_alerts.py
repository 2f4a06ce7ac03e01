from __future__ import annotations

from collections.abc import Iterator

import pytest

from moltpipe.alerting import channel_ids, channels
from moltpipe.ledger.database import Database
from moltpipe.ledger.incidents import Trouble, note_failed, open_incident, take_due_alerts
from moltpipe_tests.cli.conftest import Moltpipe
from moltpipe_tests.webhook import Manner, Webhook, webhook

TROUBLE = Trouble(
    "check:selected_scripts_have_series",
    "error",
    "a selected script has no series (1)",
    "script_id: 5f2d\ntitle: [red]Exact Change",
    "`moltpipe repair` makes it.",
    "/assets/scripts?view=checks",
)


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


def test_nothing_is_wrong_in_a_new_house(moltpipe: Moltpipe, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", hook.url("a"))
    said = moltpipe("alerts")
    assert (said.status, said.out, said.err) == (0, "no incident is open\n", "")
    assert hook.asked("a") == 0


def test_who_would_be_told_of_nothing_hears_of_that(moltpipe: Moltpipe) -> None:
    assert "MOLTPIPE_ALERT_URLS is not set" in moltpipe("alerts").out


def test_an_open_incident_is_listed_with_its_remedy_and_link(
    moltpipe: Moltpipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_UI_URL", "http://ui.example:3000")
    with database.begin() as db:
        open_incident(db, TROUBLE, [])
    lines = moltpipe("alerts").out.splitlines()
    assert lines[0].startswith("ERROR    a selected script has no series (1), since 20")
    assert lines[1:6] == [
        "  check:selected_scripts_have_series",
        "  script_id: 5f2d",
        "  title: [red]Exact Change",
        "  remedy: `moltpipe repair` makes it.",
        "  http://ui.example:3000/assets/scripts?view=checks",
    ]


def test_what_a_channel_would_not_take_is_listed_with_its_reason(
    moltpipe: Moltpipe, database: Database, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", hook.url("geheim"))
    (known,) = channel_ids([hook.url("geheim")])
    with database.begin() as db:
        open_incident(db, TROUBLE, [known, "of-yesterday"])
        note_failed(db, [alert.id for alert in take_due_alerts(db, known).pending], "channel 1 (json): refused")
    said = moltpipe("alerts")
    assert said.status == 0
    assert "not sent  a selected script has no series (1): channel 1 (json), 1 attempt failed, next at 20" in said.out
    assert "  channel 1 (json): refused" in said.out
    assert "a channel that is not in MOLTPIPE_ALERT_URLS any more" in said.out
    document = moltpipe("alerts", "--json").json
    assert document["channels"] == [{"id": known, "name": "channel 1 (json)"}]
    assert document["incidents"][0]["subject"] == TROUBLE.subject
    late = {one["channel"]: (one["name"], one["attempts"], one["last_error"]) for one in document["undelivered"]}
    assert late == {known: ("channel 1 (json)", 1, "channel 1 (json): refused"), "of-yesterday": (None, 0, None)}
    assert "geheim" not in said.out + str(document)


def test_a_test_goes_through_every_channel_and_names_the_one_that_fails(
    moltpipe: Moltpipe, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", f"{hook.url('a')}, {hook.url('geheim')}")
    assert moltpipe("alerts", "--test").out == "sent     channel 1 (json)\nsent     channel 2 (json)\n"
    assert [message.title for message in hook.taken("geheim")] == ["moltpipe: a test"]
    hook.manners["geheim"] = Manner.REFUSES
    said = moltpipe("alerts", "--test")
    assert said.status == 1
    assert said.out.splitlines()[1].startswith("FAILED   channel 2 (json), after ")
    document = moltpipe("alerts", "--test", "--json")
    assert document.status == 1
    assert [one["sent"] for one in document.json["channels"]] == [True, False]
    assert "geheim" not in said.out + said.err + document.out
    assert len(hook.taken("a")) == 3


def test_a_test_works_while_postgres_is_away(
    moltpipe: Moltpipe, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLTPIPE_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", hook.url("a"))
    assert moltpipe("alerts", "--test").status == 0


def test_a_test_of_no_channel_fails(moltpipe: Moltpipe) -> None:
    said = moltpipe("alerts", "--test")
    assert (said.status, said.out) == (1, "")
    assert "MOLTPIPE_ALERT_URLS is not set" in said.err


@pytest.mark.parametrize("words", [("alerts", "--test"), ("up", "--port", "3999")])
def test_an_address_that_apprise_does_not_know_stops_the_command(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", "json://127.0.0.1:9/x slack://geheim")
    said = moltpipe(*words)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("MOLTPIPE_ALERT_URLS=(hidden): entry 2 of 2: expected an address that Apprise knows")
    assert "geheim" not in said.err


def test_a_comma_inside_an_address_parts_recipients_and_not_channels(
    moltpipe: Moltpipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = "mailto://user:word@mail.example?to=a@mail.example,b@mail.example"
    monkeypatch.setenv("MOLTPIPE_ALERT_URLS", f"{mail},json://127.0.0.1:9/x, ")
    names = [one["name"] for one in moltpipe("alerts", "--json").json["channels"]]
    assert names == [channel.name for channel in channels([mail, "json://127.0.0.1:9/x"])]
