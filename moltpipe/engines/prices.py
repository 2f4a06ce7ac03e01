"""What hosted engines charge: data with a date, and the reckoning from it.

Here: reading `prices.toml` and multiplying. Not here: how many seconds or characters a request has (the engine
knows what it will really send), caps (`ledger`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_UP, Decimal
from functools import cache
from importlib.resources import files

from moltpipe.engines.protocols import Quote

_MICRO = Decimal("0.000001")
_AMOUNT = re.compile(r"(?<![\w.$-])\d+(?:\.\d+)?(?= [^:;$(]*(?: at \$| of \S+: no price))")
"""A quantity in the words of `reckon`, wherever it stands in a quote's basis."""


@dataclass(frozen=True)
class Price:
    """One line of `prices.toml`."""

    engine: str
    model: str
    """Without its version; `*` for all models of the engine."""
    option: str
    """What else the price depends on, in the engine's words, such as `audio`; empty where nothing."""
    unit: str
    usd: Decimal
    as_of: date
    source: str


def price_of(engine: str, model: str, option: str = "") -> Price | None:
    """The price of a model, or of all models of its engine; None where none is known."""
    name = model.partition(":")[0]
    for wanted in (name, "*"):
        for price in prices():
            if (price.engine, price.model, price.option) == (engine, wanted, option):
                return price
    return None


def reckon(
    engine: str, model: str, quantity: Decimal, unit: str, *, option: str = "", own_price_usd: Decimal | None = None
) -> Quote:
    """A quote for `quantity` units: by one's own price where one is set, else by the price list.

    Rounded up to a millionth, so that a sum of quotes never falls short of what it is to cover.
    """
    amount = f"{_plain(quantity)} {unit}"
    if own_price_usd is not None:
        return Quote(_round(quantity * own_price_usd), f"{amount} at ${own_price_usd:f} (your own price)")
    price = price_of(engine, model, option)
    if price is None or price.unit != unit:
        return Quote(
            None, f"{amount} of {model}: no price is known, set MOLTPIPE_{engine.upper()}_PRICE_USD per {unit}"
        )
    return Quote(_round(quantity * price.usd), f"{amount} at ${price.usd:f} ({price.as_of:%Y-%m-%d})")


def summed(bases: Iterable[str]) -> tuple[str, ...]:
    """The reckonings of several quotes as one for each price, their quantities added up.

    Words that are not those of `reckon` are told once.
    """
    sums: dict[tuple[str, ...], list[Decimal]] = {}
    for basis in bases:
        wording = tuple(_AMOUNT.split(basis))
        amounts = [Decimal(amount) for amount in _AMOUNT.findall(basis)]
        so_far = sums.get(wording) or [Decimal(0)] * len(amounts)
        sums[wording] = [one + another for one, another in zip(so_far, amounts, strict=True)]
    return tuple(
        "".join(f"{words}{amount}" for words, amount in zip(wording, [*map(_plain, amounts), ""], strict=True))
        for wording, amounts in sums.items()
    )


@cache
def prices() -> tuple[Price, ...]:
    """All lines of the price list."""
    text = (files("moltpipe.engines") / "prices.toml").read_text(encoding="utf-8")
    return tuple(
        Price(
            engine=line["engine"],
            model=line["model"],
            option=line.get("option", ""),
            unit=line["unit"],
            usd=Decimal(line["usd"]),
            as_of=line["as_of"],
            source=line["source"],
        )
        for line in tomllib.loads(text)["price"]
    )


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _round(amount: Decimal) -> Decimal:
    return amount.quantize(_MICRO, rounding=ROUND_UP)
