"""Money: what calls may cost before they leave, and what they have cost.

Here: the caps, and the one lock under which a claim is weighed against them. Not here: what a request costs
(`engines.prices`), when a reservation becomes a cost (`ledger.calls`).

What counts as spent is the cost of the calls that are over and the reservation of those that are not. To count
costs alone was the alternative: fifty takes that start side by side would each see the money of none of the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_UP, Decimal
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.schema import episodes, provider_jobs
from moltpipe.settings import Settings
from moltpipe.studio.moments import spelled

_ONE_AT_A_TIME = 0x6D6F6E65  # any number will do, as long as every moltpipe uses the same, and nothing else does
_SMALLEST = Decimal("0.000001")

_SUM = sa.func.coalesce(sa.func.sum(provider_jobs.c.cost_usd + provider_jobs.c.reserved_usd), 0)


@dataclass(frozen=True)
class Caps:
    """The most that may be spent, in US dollars; None is no cap."""

    run_usd: Decimal | None = None
    """By one run, as it claimed its calls."""
    series_usd: Decimal | None = None
    """On all episodes of one series, ever."""
    day_usd: Decimal | None = None
    """By everybody on one day of UTC, the day of a cost being that of its claim."""

    @classmethod
    def of(cls, settings: Settings) -> Caps:
        """The caps that an operator has set."""
        return cls(settings.budget_run_usd, settings.budget_series_usd, settings.budget_day_usd)

    @property
    def are_set(self) -> bool:
        """Whether anything is capped."""
        return (self.run_usd, self.series_usd, self.day_usd) != (None, None, None)


NO_CAPS = Caps()


@dataclass(frozen=True)
class Purchase:
    """What a claim wants to spend, and on whose account."""

    engine: str
    quote_usd: Decimal | None
    basis: str
    """The reckoning behind the quote, in words."""
    process_uuid: str
    episode_id: UUID | None


class BudgetReached(Exception):
    """A call would cost more than a cap leaves. Nothing was claimed.

    `cap` is `run`, `series` or `day`. `until` is when it is worth trying again by itself: the next day of UTC for
    the cap of a day, unless the call alone costs more than that.
    """

    def __init__(
        self, cap: str, limit_usd: Decimal, spent_usd: Decimal, wanted_usd: Decimal, until: datetime | None
    ) -> None:
        then = f"wait until {spelled(until)}, when a new day begins, or " if until else ""
        super().__init__(
            f"MOLTPIPE_BUDGET_{cap.upper()}_USD={_dollars(limit_usd)} is reached: {_dollars(spent_usd)} USD are spent "
            f"or reserved {_OF_CAP[cap]}, and the next call would cost {_dollars(wanted_usd)} USD: {then}raise it"
        )
        self.cap = cap
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.wanted_usd = wanted_usd
        self.until = until


_OF_CAP = {"run": "by this run", "series": "on this series", "day": "today"}


class PriceUnknown(Exception):
    """A cap is set, and nobody knows what the request costs: it is not made."""

    def __init__(self, engine: str, basis: str) -> None:
        super().__init__(
            f"a request to {engine} is not made while a MOLTPIPE_BUDGET_… is set, because its price is not known "
            f"({basis}): add the price, or unset the budget"
        )
        self.engine = engine
        self.basis = basis


def lock_budget(db: Connection) -> datetime:
    """Let nobody else claim a paid call until this transaction ends; the database's clock from then on."""
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
    # A statement of its own: what is read below must have been committed before the lock was had.
    now: datetime = db.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return now.astimezone(UTC)


def reservation(db: Connection, purchase: Purchase, caps: Caps, now: datetime) -> Decimal:
    """What is to be reserved for a purchase that every cap allows. Call it after `lock_budget`, with its clock.

    A purchase that costs nothing is always allowed.

    Raises:
        BudgetReached: a cap does not leave enough.
        PriceUnknown: there is a cap and no price.
    """
    if purchase.quote_usd is None:
        if caps.are_set:
            raise PriceUnknown(purchase.engine, purchase.basis)
        return Decimal(0)
    # Up, not to the nearest: many small prices must not add up to more than was reserved for them.
    wanted = purchase.quote_usd.quantize(_SMALLEST, rounding=ROUND_UP)
    if not wanted:
        return wanted
    today = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if caps.run_usd is not None:
        _check("run", caps.run_usd, _spent(db, provider_jobs.c.claimed_by == purchase.process_uuid), wanted)
    if caps.series_usd is not None and purchase.episode_id is not None:
        _check("series", caps.series_usd, _spent(db, _of_series(purchase.episode_id)), wanted)
    if caps.day_usd is not None:
        until = today + timedelta(days=1) if wanted <= caps.day_usd else None
        _check("day", caps.day_usd, _spent(db, provider_jobs.c.claimed_at >= today), wanted, until)
    return wanted


def spend(db: Connection) -> Decimal:
    """All that was ever spent, in US dollars, with what is reserved for calls that are not over."""
    # Said as in the index, which holds no call that cost nothing.
    return _spent(db, provider_jobs.c.cost_usd + provider_jobs.c.reserved_usd > sa.literal_column("0"))


def reserved(db: Connection) -> Decimal:
    """What is reserved for calls that are not over, in US dollars; `spend` holds it as well."""
    total: Decimal = db.execute(
        sa.select(sa.func.coalesce(sa.func.sum(provider_jobs.c.reserved_usd), Decimal(0))).where(
            provider_jobs.c.reserved_usd > sa.literal_column("0")
        )
    ).scalar_one()
    return total


def spent_on(db: Connection, episode_id: UUID, operation: str) -> Decimal:
    """What the calls of one operation have cost for an episode, failed ones included, in US dollars."""
    total: Decimal = db.execute(
        sa.select(sa.func.coalesce(sa.func.sum(provider_jobs.c.cost_usd), Decimal(0))).where(
            provider_jobs.c.episode_id == episode_id, provider_jobs.c.operation == operation
        )
    ).scalar_one()
    return total


def _check(cap: str, limit: Decimal, spent: Decimal, wanted: Decimal, until: datetime | None = None) -> None:
    if spent + wanted > limit:
        raise BudgetReached(cap, limit, spent, wanted, until)


def _spent(db: Connection, of: sa.ColumnElement[bool]) -> Decimal:
    return Decimal(db.execute(sa.select(_SUM).where(of)).scalar_one())


def _of_series(episode_id: UUID) -> sa.ColumnElement[bool]:
    series = sa.select(episodes.c.series_id).where(episodes.c.id == episode_id).scalar_subquery()
    return provider_jobs.c.episode_id.in_(sa.select(episodes.c.id).where(episodes.c.series_id == series))


def _dollars(amount: Decimal) -> str:
    """An amount with at least its cents and nothing cut off: `1.50`, `0.0375`."""
    plain = f"{amount:f}"
    whole, _, fraction = plain.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"
