"""Alerts: what an operator is told of a trouble, in which words, and how many messages that makes.

Here: pure functions from what was found to messages, the pace of a channel, the pause after a failed sending. Not here:
what is found (`ledger.checks`, `defs.alerts`), what is open and whom it was told to (`ledger.incidents`), how a message
leaves the house (`moltpipe.alerting`).

The incident behind it: a script was selected and no series was made of it. Its cron job reported success, and nobody
was told for weeks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal
from urllib.parse import quote, urlencode
from uuid import UUID

from moltpipe.studio.moments import spelled

Level = Literal["error", "warning"]
Kind = Literal["opened", "closed"]
Tone = Literal["failure", "warning", "success"]
Cell = str | int | float | bool | None

MESSAGES_PER_MINUTE = 5
"""To one channel. What waits beyond that leaves in one message when there is room again."""
DIGEST_FROM = 3
"""So many troubles at once are told in one message."""
MAX_PAUSE = timedelta(minutes=10)
_FIRST_PAUSE = timedelta(seconds=5)
_DOUBLINGS = 7

CLOSING = "close_voting_period"
"""The job that closes a vote on scripts."""
_ROWS_TOLD = 3
_TROUBLES_TOLD = 10
"""Of a digest: Discord takes 2,000 characters."""
_LONGEST_CELL = 120
_LONGEST_LINE = 400

BROKEN: Mapping[str, str] = MappingProxyType(
    {
        "selected_scripts_have_series": "a selected script has no series",
        "processed_periods_are_over": "a voting period was processed before its end",
        "due_periods_are_closed": "a voting period is over and still open",
        "due_periods_are_open": "a voting period has begun and is not open",
        "agent_periods_do_not_overlap": "voting periods overlap",
        "processed_periods_have_outcome": "a processed voting period has no outcome",
        "outcomes_agree_with_scripts": "an outcome disagrees with its scripts",
        "series_have_all_episodes_and_jobs": "a series lacks episodes or production jobs",
        "pilots_have_their_clip_vote": "a pilot is out and has no clip vote",
        "published_episodes_have_a_selected_variant": "a published episode has no selected variant",
        "jobs_have_live_owners": "a production job is held by a process that is gone",
        "jobs_have_attempts_left": "a production job has used up its attempts",
        "jobs_do_not_wait_too_long": "a production job waits too long",
        "completed_jobs_are_published": "a production job and its published variants disagree",
        "media_objects_are_there": "a media object is missing or has another size",
        "objects_are_known": "an object belongs to no row",
        "ambiguous_calls_are_decided": "a paid call waits for a person to decide",
        "paid_calls_are_not_forgotten": "a paid call was forgotten",
        "spend_is_below_its_caps": "the spend is near a cap",
        "sensors_and_schedules_tick": "a sensor or schedule does not tick",
        "partition_keys_follow_the_rule": "a partition key breaks the rule",
    }
)
"""What is wrong when a check fails, by its name."""


@dataclass(frozen=True)
class Trouble:
    """Something that an operator must know of."""

    subject: str
    """What it is about. While one is open, the same subject is not told again."""
    severity: Level
    title: str
    body: str
    remedy: str = ""
    path: str = ""
    """Where the Dagster UI shows it, without its host."""


@dataclass(frozen=True)
class PendingAlert:
    """An opening or a closing that a channel has not been told of yet, with its incident as it is now."""

    id: UUID
    incident_id: UUID
    kind: Kind
    severity: Level
    title: str
    body: str
    remedy: str
    path: str
    opened_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True)
class Message:
    """One message to one channel."""

    title: str
    body: str
    tone: Tone
    alerts: tuple[UUID, ...] = ()
    """What it tells of."""


def check_subject(name: str, partition_key: str | None = None) -> str:
    """Subject of a check that fails, or of one that fails for a partition."""
    return f"check:{name}" if partition_key is None else f"check:{name}:{partition_key}"


def unchecked_subject(name: str) -> str:
    """Subject of a check that cannot look."""
    return f"could-not-check:{name}"


def run_subject(job: str, partition_key: str) -> str:
    """Subject of a job that fails for a partition; one without partitions has an empty key."""
    return f"run:{job}:{partition_key}"


def run_of(subject: str) -> tuple[str, str]:
    """Job and partition key of the subject of a run."""
    _, job, key = subject.split(":", 2)
    return job, key


def over_by_success(open_subjects: Iterable[str], job: str, partition_key: str, *, whole: bool) -> list[str]:
    """Which of the open incidents of runs are over when this job has succeeded for this partition.

    `whole` says that it made all that there is to make of the partition: then what failed for it under another job is
    over as well. A person who mends an episode in the UI would otherwise leave the sensor's failure open for ever.
    """
    own = run_subject(job, partition_key)
    if not (whole and partition_key):
        return [own] if own in set(open_subjects) else []
    return sorted(
        one for one in open_subjects if one.startswith("run:") and one.partition(":")[2].endswith(f":{partition_key}")
    )


def check_path(asset: str, check: str) -> str:
    """Where the UI shows a check: in the checks of its asset."""
    return f"{_asset_path(asset)}?{urlencode({'view': 'checks', 'checkDetail': check})}"


def partition_path(asset: str, partition_key: str) -> str:
    """Where the UI shows one partition of an asset."""
    return f"{_asset_path(asset)}?{urlencode({'view': 'partitions', 'partition': partition_key})}"


def run_path(run_id: str) -> str:
    """Where the UI shows a run."""
    return f"/runs/{quote(run_id)}"


def broken_promise(
    name: str,
    asset: str,
    severity: Level,
    count: int,
    rows: Sequence[Mapping[str, Cell]],
    remedy: str,
    since: datetime | None,
) -> Trouble:
    """A check that fails. Leads to the partition where there is one, else to the check with all of its rows."""
    told = [line for row in rows[:_ROWS_TOLD] if (line := _row(row))]
    left_out = count - len(rows[:_ROWS_TOLD])
    lines = [
        *([f"Since {spelled(since)}."] if since is not None else []),
        *told,
        *([f"… and {left_out} more: `moltpipe check` shows them."] if left_out > 0 else []),
    ]
    key = rows[0].get("partition_key") if count == 1 and rows else None
    path = partition_path(asset, key) if isinstance(key, str) and key else check_path(asset, name)
    return Trouble(
        check_subject(name), severity, f"{BROKEN.get(name, _in_words(name))} ({count})", "\n".join(lines), remedy, path
    )


def unknown_promise(name: str, asset: str, why: str) -> Trouble:
    """A check that cannot look: whether it holds is not known, which is not the same as that it is broken."""
    return Trouble(
        unchecked_subject(name),
        "warning",
        f"could not check {name}",
        _one_line(why),
        "`moltpipe check` looks again. Nothing is known of it until then.",
        check_path(asset, name),
    )


def failed_run(job: str, partition_key: str, run_id: str, error: str) -> Trouble:
    """A run that failed. `error` may begin with the full name of its type."""
    return Trouble(
        run_subject(job, partition_key),
        "error",
        f"{_job(job)} failed" + (f" for {_quoted(partition_key)}" if partition_key else ""),
        _one_line(_MODULES.sub("", error)) or "The run ended without saying why.",
        _REMEDIES.get(job, "Start it again in the UI, by Re-execute, once the cause is mended."),
        run_path(run_id),
    )


_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z]\w+: )")
_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "produce_episode": "It is tried again by itself while its production job has attempts left: `moltpipe status` "
        "says what it waits for, and `moltpipe repair --retry PARTITION_KEY` gives it new ones.",
        CLOSING: "It is tried again by itself for as long as the period is over and open.",
    }
)


def failed_delivery(rule: str, asset: str, partition_key: str, said: str) -> Trouble:
    """A check of an episode's delivery that failed inside a run."""
    return Trouble(
        check_subject(rule, partition_key),
        "error",
        f"{_quoted(partition_key)} breaks {rule}",
        _one_line(said),
        "Materialize the stage that made it again with `regenerate: true`, then `stitched_episode`.",
        partition_path(asset, partition_key),
    )


def messages(pending: Sequence[PendingAlert], sent_lately: int, ui_url: str | None) -> list[Message]:
    """What is sent to a channel now, the oldest first; empty while the channel has had its messages of this minute.

    An incident that is over before it could be told of is told of once, in the past: to say that it is open would
    mislead, and to say nothing would lose it. Few troubles get a message each, many get one together.

    Args:
        pending: What the channel has not been told of.
        sent_lately: How many messages it got in the last minute.
        ui_url: Where the Dagster UI is found, for links; None where nobody said so.
    """
    room = MESSAGES_PER_MINUTE - sent_lately
    if room <= 0 or not pending:
        return []
    by_incident: dict[UUID, list[PendingAlert]] = {}
    for one in sorted(pending, key=lambda alert: (_happened(alert), alert.kind == "closed", str(alert.id))):
        by_incident.setdefault(one.incident_id, []).append(one)
    told = list(by_incident.values())
    if len(told) >= DIGEST_FROM or len(told) > room:
        return [_digest(told, ui_url)]
    return [_single(alerts, ui_url) for alerts in told]


def pause_after(attempts: int) -> timedelta:
    """How long an alert rests after so many failed sendings: 5, 10, 20 seconds and so on, at most 10 minutes.

    Raises:
        ValueError: `attempts` is less than one.
    """
    if attempts < 1:
        raise ValueError(f"pause after attempt {attempts}: expected the number of failed sendings, at least 1")
    return min(MAX_PAUSE, _FIRST_PAUSE * int(2 ** min(attempts - 1, _DOUBLINGS)))


def lasted(length: timedelta) -> str:
    """A length of time for people: `45 s`, `3 min`, `2 h 5 min`, `3 days 4 h`."""
    seconds = max(0, round(length.total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes == 0:
        return f"{seconds} s"
    if hours == 0:
        return f"{minutes} min"
    if days == 0:
        return f"{hours} h {minutes % 60} min"
    return f"{days} {'day' if days == 1 else 'days'} {hours % 24} h"


def _happened(alert: PendingAlert) -> datetime:
    return alert.closed_at if alert.kind == "closed" and alert.closed_at is not None else alert.opened_at


def _single(alerts: Sequence[PendingAlert], ui_url: str | None) -> Message:
    alert = alerts[0]
    link = [_link(alert, ui_url)] if alert.path else []
    found = f"Found {spelled(alert.opened_at)}"
    if alert.closed_at is None:
        remedy = [f"Remedy: {alert.remedy}"] if alert.remedy else []
        parts = [alert.body, f"{found}.", *remedy, *link]
    elif alert.kind == "closed":
        parts = [f"{found}, over {spelled(alert.closed_at)}.", *link]
    else:
        over = f"{found}, over {spelled(alert.closed_at)}, before this message could be sent."
        parts = [over, f"It was:\n{alert.body}" if alert.body else "", *link]
    return Message(
        f"moltpipe: {_headline(alert)}",
        "\n\n".join(part for part in parts if part),
        _tone([alert]),
        tuple(one.id for one in alerts),
    )


def _digest(told: Sequence[Sequence[PendingAlert]], ui_url: str | None) -> Message:
    heads = [alerts[0] for alerts in told]
    over = sum(head.closed_at is not None for head in heads)
    counts = [f"{len(heads) - over} new"] * (over < len(heads)) + [f"{over} over"] * (over > 0)
    lines = [
        f"- {_headline(head)}, found {spelled(head.opened_at)}" + (f"\n  {_link(head, ui_url)}" if head.path else "")
        for head in heads[:_TROUBLES_TOLD]
    ]
    if len(heads) > _TROUBLES_TOLD:
        lines.append(f"… and {len(heads) - _TROUBLES_TOLD} more.")
    lines.append("`moltpipe alerts` lists what is open, `moltpipe check` says what helps.")
    return Message(
        f"moltpipe: {len(heads)} alerts: {', '.join(counts)}",
        "\n".join(lines),
        _tone(heads),
        tuple(one.id for alerts in told for one in alerts),
    )


def _headline(alert: PendingAlert) -> str:
    if alert.closed_at is None:
        return alert.title
    after = lasted(alert.closed_at - alert.opened_at)
    return f"over after {after}: {alert.title}"


def _tone(heads: Sequence[PendingAlert]) -> Tone:
    open_ones = {head.severity for head in heads if head.closed_at is None}
    if "error" in open_ones:
        return "failure"
    return "warning" if open_ones else "success"


def _link(alert: PendingAlert, ui_url: str | None) -> str:
    return f"{ui_url.rstrip('/')}{alert.path}" if ui_url else f"In the Dagster UI: {alert.path}"


def _asset_path(asset: str) -> str:
    return "/assets/" + "/".join(quote(part, safe="") for part in asset.split("/"))


def _row(row: Mapping[str, Cell]) -> str:
    """A row in one line. Since when is told once, for all of them."""
    return _one_line(
        ", ".join(
            f"{name}: {_quoted(_cell(value))}" for name, value in row.items() if value is not None and name != "since"
        )
    )


def _cell(value: Cell) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _one_line(text: str) -> str:
    line = _quoted(" ".join(text.split()))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"


_CALLS_PEOPLE = re.compile(r"@(?=\w)|<(?=[!@#])")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


def _quoted(text: str) -> str:
    """Text from strangers that calls nobody: Discord and Slack ring everybody for an `@everyone` in a script's title.

    A zero-width space after the sign keeps it as it looks.
    """
    return _CALLS_PEOPLE.sub(lambda sign: f"{sign[0]}\u200b", _UNPRINTABLE.sub("\ufffd", text))


def _in_words(name: str) -> str:
    return f"{name} does not hold"


def _job(job: str) -> str:
    # What Dagster calls the job of assets that a person or a backfill materializes.
    return "a materialization" if job == "__ASSET_JOB" else f"job {job}"
