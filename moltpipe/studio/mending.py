"""What a voting period needs that was marked as processed by hand: decisions for repair, pure.

Here: whether it is opened again, closed, or recorded as it is, and what its record then says. Not here: the rows
(`ledger.repairs`), closing (`ledger.periods`). What was done to a script cannot be undone: its series may be half
made, and its rivals were turned down.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import ValidationError

from moltpipe.studio.audience import ClipOutcome, VariantVotes, decide
from moltpipe.studio.moments import spelled
from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.voting import Fate, Outcome, Tally, VotingRules, declare, tally


class Settlement(StrEnum):
    """What becomes of a period that is processed and should not be, or not like this."""

    REOPEN = "reopen"
    """Nothing was decided and its time is not over: it closes in its time, like any other."""
    CLOSE = "close"
    """Nothing was decided, and it should have been: it closes now."""
    RECORD = "record"
    """It was decided: that stays, and is written down."""


def settlement(period: Period, *, decided: bool, recorded: bool, now: datetime) -> Settlement:
    """What becomes of a processed period.

    `decided`: something of it was selected or turned down, in the rows or by its outcome. `recorded`: it has an
    outcome. A closing that chose nobody is recorded and decided nothing, so it counts only once the time was over.
    """
    if decided:
        return Settlement.RECORD
    if now < period.ends_at and period.closed_early_reason is None:
        return Settlement.REOPEN
    return Settlement.RECORD if recorded else Settlement.CLOSE


def early_reason(period: Period, now: datetime) -> str | None:
    """Why a period was closed early, for one of which nobody knows; None where there is nothing to explain."""
    if period.closed_early_reason is not None:
        return period.closed_early_reason
    if period.processed_at is None:
        when = "it is marked as processed, at a time that is not recorded"
    elif now < period.processed_at:
        when = f"it is marked as processed at {spelled(period.processed_at)}, which is yet to come"
    elif period.processed_at < period.ends_at:
        when = f"it was processed at {spelled(period.processed_at)}, before its end"
    else:
        return None
    return f"found by `moltpipe repair` at {spelled(now)}: {when}; by whom and why is not recorded"


def as_decided(
    period: Period,
    candidates: Iterable[Candidate],
    fates: Mapping[UUID, Fate],
    rules: VotingRules,
    series_ids: Mapping[UUID, UUID],
    now: datetime,
) -> Outcome:
    """The outcome of a period that was decided without one being recorded.

    Who won and lost is what the rows say (`fates`), whatever the votes would have said. The votes give the order.

    Raises:
        ValueError: a winner has no series.
    """
    counted = tally(candidates, rules)
    told = Tally(tuple(replace(standing, fate=fates[standing.candidate.script_id]) for standing in counted.ranking))
    outcome = declare(period, told, rules, series_ids, closed_early_reason=early_reason(period, now))
    nobody = None if told.winners else "none of its scripts is selected"
    return outcome.model_copy(update={"reason": nobody, "reconstructed_at": now})


def as_selected(
    period: Period, partition_key: str, standing: Iterable[VariantVotes], selected_id: UUID, now: datetime
) -> ClipOutcome:
    """The outcome of a vote on variants of which one was selected without an outcome being recorded.

    The selected one (`selected_id`) stays, whatever the votes would have said: viewers have seen it. The votes give the
    order.

    Raises:
        NothingToSelect: no variant stands in it.
        ValueError: the selected one does not stand in it, or the period is a vote on scripts.
    """
    counted = decide(period, partition_key, standing, closed_early_reason=early_reason(period, now))
    chosen = next((one for one in counted.ranking if one.variant_id == selected_id), None)
    if chosen is None:
        raise ValueError(f"variant {selected_id} does not stand in period {period.id}: expected one of {partition_key}")
    return counted.model_copy(update={"selected": chosen, "reconstructed_at": now})


def recorded_fate(outcome: object, script_id: UUID) -> Fate:
    """What the outcome of a period says about a script; one that it does not know waits for the next period.

    A winner is one as soon as it is named as one, as the check reads it: the rest may be of somebody's hand.
    """
    winners = outcome.get("winners") if isinstance(outcome, dict) else None
    named = winners if isinstance(winners, list) else []
    if any(isinstance(one, dict) and one.get("script_id") == str(script_id) for one in named):
        return Fate.SELECTED
    try:
        recorded = Outcome.from_json(outcome)
    except ValidationError:
        return Fate.RETURNED
    return next((row.fate for row in recorded.ranking if row.script_id == script_id), Fate.RETURNED)
