from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.alerts import (
    DIGEST_FROM,
    MAX_PAUSE,
    MESSAGES_PER_MINUTE,
    PendingAlert,
    broken_promise,
    failed_delivery,
    failed_run,
    lasted,
    messages,
    over_by_success,
    pause_after,
    unknown_promise,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
UI = "http://ui.example:3000"


def pending(
    kind: str = "opened",
    *,
    incident: UUID | None = None,
    title: str = "a selected script has no series (1)",
    severity: str = "error",
    opened_at: datetime = NOON,
    closed_at: datetime | None = None,
) -> PendingAlert:
    return PendingAlert(
        id=uuid4(),
        incident_id=incident or uuid4(),
        kind=kind,  # type: ignore[arg-type] # the tests' own two words
        severity=severity,  # type: ignore[arg-type] # as above
        title=title,
        body="script_id: 5f2d",
        remedy="`moltpipe repair` makes it.",
        path="/assets/scripts?view=checks",
        opened_at=opened_at,
        closed_at=closed_at,
    )


def test_an_opening_says_what_since_when_what_helps_and_where() -> None:
    trouble = broken_promise(
        "selected_scripts_have_series",
        "scripts",
        "error",
        1,
        [{"script_id": "5f2d", "title": "The G.U.I.D.E.", "genre": None, "since": "2026-02-06T09:06:00"}],
        "`moltpipe repair` makes the series.",
        datetime(2026, 2, 6, 9, 6, tzinfo=UTC),
    )
    alert = PendingAlert(
        uuid4(),
        uuid4(),
        "opened",
        trouble.severity,
        trouble.title,
        trouble.body,
        trouble.remedy,
        trouble.path,
        NOON,
        None,
    )
    (message,) = messages([alert], 0, UI)
    assert message.title == "moltpipe: a selected script has no series (1)"
    assert message.body == (
        "Since 2026-02-06 09:06:00 UTC.\n"
        "script_id: 5f2d, title: The G.U.I.D.E.\n\n"
        "Found 2026-03-02 12:00:00 UTC.\n\n"
        "Remedy: `moltpipe repair` makes the series.\n\n"
        f"{UI}/assets/scripts?view=checks&checkDetail=selected_scripts_have_series"
    )
    assert (message.tone, message.alerts) == ("failure", (alert.id,))


def test_what_is_over_is_told_as_over_with_how_long_it_lasted() -> None:
    alert = pending("closed", closed_at=NOON + timedelta(minutes=3))
    (message,) = messages([alert], 0, UI)
    assert message.title == "moltpipe: over after 3 min: a selected script has no series (1)"
    assert "Remedy" not in message.body
    assert message.tone == "success"


def test_what_is_over_before_it_was_told_is_told_once_in_the_past() -> None:
    incident, over = uuid4(), NOON + timedelta(seconds=40)
    opening = pending("opened", incident=incident, closed_at=over)
    closing = pending("closed", incident=incident, closed_at=over)
    (message,) = messages([closing, opening], 0, UI)
    assert message.title.startswith("moltpipe: over after 40 s: ")
    assert "before this message could be sent" in message.body
    assert "script_id: 5f2d" in message.body
    assert message.tone == "success"
    assert set(message.alerts) == {opening.id, closing.id}


def test_a_few_troubles_get_a_message_each_the_oldest_first() -> None:
    late = pending(title="late", opened_at=NOON + timedelta(minutes=1))
    early = pending(title="early")
    assert [one.title for one in messages([late, early], 0, UI)] == ["moltpipe: early", "moltpipe: late"]


def test_many_troubles_get_one_message_together() -> None:
    alerts = [pending(title=f"trouble {n}", opened_at=NOON + timedelta(seconds=n)) for n in range(DIGEST_FROM)]
    over = pending("closed", title="an old one", closed_at=NOON + timedelta(minutes=3))
    (digest,) = messages([*alerts, over], 0, UI)
    assert digest.title == "moltpipe: 4 alerts: 3 new, 1 over"
    told = [
        digest.body.index(words) for words in ("trouble 0", "trouble 1", "trouble 2", "over after 3 min: an old one")
    ]
    assert told == sorted(told)
    assert set(digest.alerts) == {one.id for one in (*alerts, over)}


def test_a_digest_of_hundreds_stays_short_and_loses_none() -> None:
    alerts = [pending(title=f"trouble {n} " + "x" * 60) for n in range(300)]
    (digest,) = messages(alerts, 0, UI)
    assert "and 290 more" in digest.body
    assert len(digest.body) < 2000
    assert len(digest.alerts) == 300


@pytest.mark.parametrize(
    ("severities", "tone"), [(("warning",), "warning"), (("warning", "error"), "failure"), (("error",), "failure")]
)
def test_the_worst_sets_the_tone(severities: tuple[str, ...], tone: str) -> None:
    alerts = [pending(severity=one) for one in severities for _ in range(DIGEST_FROM)]
    (digest,) = messages(alerts, 0, UI)
    assert digest.tone == tone


def test_without_an_address_of_the_ui_the_path_is_told() -> None:
    (message,) = messages([pending()], 0, None)
    assert message.body.endswith("In the Dagster UI: /assets/scripts?view=checks")


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["opened", "closed"])), max_size=12),
    st.integers(0, MESSAGES_PER_MINUTE + 2),
)
def test_no_pace_is_broken_and_no_alert_told_twice_or_left_out(events: list[tuple[int, str]], lately: int) -> None:
    incidents = [uuid4() for _ in range(6)]
    alerts = [pending(kind, incident=incidents[n], closed_at=NOON if kind == "closed" else None) for n, kind in events]
    made = messages(alerts, lately, UI)
    assert len(made) <= max(0, MESSAGES_PER_MINUTE - lately)
    told = sorted(str(one) for message in made for one in message.alerts)
    assert told == (sorted(str(one.id) for one in alerts) if lately < MESSAGES_PER_MINUTE else [])


def test_only_the_first_rows_are_told_and_how_many_there_are() -> None:
    rows: list[dict[str, str | int | float | bool | None]] = [{"job_id": f"job-{n}"} for n in range(50)]
    trouble = broken_promise("jobs_have_live_owners", "stitched_episode", "error", 70, rows, "", None)
    assert trouble.title.endswith("(70)")
    assert trouble.body.splitlines() == [
        "job_id: job-0",
        "job_id: job-1",
        "job_id: job-2",
        "… and 67 more: `moltpipe check` shows them.",
    ]


def test_a_single_finding_about_a_partition_leads_to_the_partition() -> None:
    def found(count: int) -> str:
        rows = [{"job_id": "j", "partition_key": "buoy-1a2b3c4d-e01"}] * count
        return broken_promise("jobs_have_attempts_left", "stitched_episode", "error", count, rows, "", None).path

    assert found(1) == "/assets/stitched_episode?view=partitions&partition=buoy-1a2b3c4d-e01"
    assert found(2) == "/assets/stitched_episode?view=checks&checkDetail=jobs_have_attempts_left"


def test_a_check_that_could_not_look_is_a_warning_of_its_own() -> None:
    trouble = unknown_promise("objects_are_known", "clips", "S3 is away\nfor now")
    assert (trouble.subject, trouble.severity) == ("could-not-check:objects_are_known", "warning")
    assert trouble.body == "S3 is away for now"


def test_a_failed_run_leads_to_itself() -> None:
    trouble = failed_run(
        "produce_episode", "buoy-1a2b3c4d-e01", "1f0c", "clips: moltpipe.engines.errors.EngineError: a.b is away"
    )
    assert trouble.body == "clips: EngineError: a.b is away"
    assert trouble.title == "job produce_episode failed for buoy-1a2b3c4d-e01"
    assert (trouble.subject, trouble.path) == ("run:produce_episode:buoy-1a2b3c4d-e01", "/runs/1f0c")
    assert failed_run("check_integrity", "", "1f0c", "").title == "job check_integrity failed"


@pytest.mark.parametrize("text", ["@everyone come", "<!channel> come", "hello <@123>", "\x1b[31mred", "a\u202eb"])
def test_words_of_strangers_ring_nobody(text: str) -> None:
    trouble = broken_promise("x", "scripts", "error", 1, [{"title": text}], "", None)
    said = failed_delivery("nothing_black", "stitched_episode", text, text)
    for words in (trouble.body, said.body, said.title):
        assert not any(sign in words for sign in ("@everyone", "<!", "<@", "\x1b", "\u202e"))


def test_long_texts_are_cut() -> None:
    rows: list[dict[str, str | int | float | bool | None]] = [{f"column_{n}": "x" * 500 for n in range(9)}] * 3
    assert len(broken_promise("x", "scripts", "error", 3, rows, "", None).body) < 1300
    assert len(failed_run("j", "k", "r", "x" * 9000).body) < 500


def test_a_success_ends_its_own_incident_and_a_whole_one_all_of_the_partition() -> None:
    are_open = {"run:produce_episode:k1", "run:__ASSET_JOB:k1", "run:produce_episode:k11", "check:nothing_black:k1"}
    assert over_by_success(are_open, "__ASSET_JOB", "k1", whole=False) == ["run:__ASSET_JOB:k1"]
    assert over_by_success(are_open, "__ASSET_JOB", "k1", whole=True) == [
        "run:__ASSET_JOB:k1",
        "run:produce_episode:k1",
    ]
    assert over_by_success(are_open, "check_integrity", "", whole=True) == []


def test_pauses_grow_to_ten_minutes_and_no_further() -> None:
    pauses = [pause_after(attempt) for attempt in range(1, 40)]
    assert pauses[:4] == [timedelta(seconds=s) for s in (5, 10, 20, 40)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == MAX_PAUSE
    with pytest.raises(ValueError, match="at least 1"):
        pause_after(0)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (180, "3 min"),
        (7500, "2 h 5 min"),
        (90000, "1 day 1 h"),
        (273600, "3 days 4 h"),
    ],
)
def test_lengths_of_time_are_told_for_people(seconds: int, words: str) -> None:
    assert lasted(timedelta(seconds=seconds)) == words
