from __future__ import annotations

import tomllib
from decimal import Decimal
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.engines.prices import Price, price_of, prices, reckon, summed
from moltpipe.engines.registry import CAMERAS, COMPOSERS, SCREENWRITERS, VOICES

_NAMED = [price for price in prices() if price.model != "*"]
_FOR_ALL = [price for price in prices() if price.model == "*"]


def _line(price: Price) -> str:
    return f"{price.engine}-{price.model}-{price.option}"


@pytest.mark.parametrize("price", prices(), ids=_line)
def test_every_line_is_a_price_with_a_date_and_a_source(price: Price) -> None:
    assert price.engine in {*SCREENWRITERS, *VOICES, *CAMERAS, *COMPOSERS}
    assert price.model
    assert ":" not in price.model, "a price stands for every version of a model"
    assert price.unit
    assert price.usd.is_finite()
    assert price.usd >= 0
    assert price.as_of.year >= 2024
    assert price.source.startswith("https://")


def test_no_line_is_written_with_binary_fractions() -> None:
    text = (files("moltpipe.engines") / "prices.toml").read_text(encoding="utf-8")
    assert all(isinstance(line["usd"], str) for line in tomllib.loads(text)["price"])


def test_no_two_lines_are_about_the_same() -> None:
    keys = [(price.engine, price.model, price.option) for price in prices()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("price", _NAMED, ids=_line)
def test_a_price_holds_for_every_version_of_its_model(price: Price) -> None:
    assert price_of(price.engine, f"{price.model}:5c7d5dc6", price.option) == price


@pytest.mark.parametrize("price", _FOR_ALL, ids=_line)
def test_a_price_for_all_models_holds_for_one_that_has_none_of_its_own(price: Price) -> None:
    assert price_of(price.engine, "a-model-of-next-year", price.option) == price


def test_what_has_no_line_has_no_price() -> None:
    price = _NAMED[0]
    assert price_of(price.engine, "a-model-of-next-year") is None
    assert price_of(price.engine, price.model, "an option nobody has") is None
    assert price_of("an engine nobody has", price.model, price.option) is None


def test_a_quote_is_quantity_times_price_and_says_so() -> None:
    price = _NAMED[0]
    quote = reckon(price.engine, price.model, Decimal("2.50"), price.unit, option=price.option)
    assert quote.cost_usd == Decimal("2.5") * price.usd
    assert quote.basis == f"2.5 {price.unit} at ${price.usd:f} ({price.as_of:%Y-%m-%d})"


def test_ones_own_price_goes_before_the_list_and_stands_in_where_there_is_none() -> None:
    price = _NAMED[0]
    for model, unit in ((price.model, price.unit), ("a-model-of-next-year", "second")):
        quote = reckon(price.engine, model, Decimal(3), unit, option=price.option, own_price_usd=Decimal("0.07"))
        assert quote.cost_usd == Decimal("0.21")
        assert quote.basis == f"3 {unit} at $0.07 (your own price)"


def test_ones_own_price_may_be_nothing() -> None:
    assert reckon("ltx2", "mine", Decimal(3), "second", own_price_usd=Decimal(0)).cost_usd == 0


def test_an_unknown_price_is_not_a_price_of_nothing() -> None:
    quote = reckon("ltx2", "mine", Decimal(3), "second")
    assert quote.cost_usd is None
    assert quote.basis == "3 second of mine: no price is known, set MOLTPIPE_LTX2_PRICE_USD per second"


def test_a_price_per_something_else_is_no_price() -> None:
    price = _NAMED[0]
    assert reckon(price.engine, price.model, Decimal(3), "fortnight", option=price.option).cost_usd is None


@given(
    quantity=st.decimals(min_value=0, max_value=10_000, places=6),
    price=st.decimals(min_value=0, max_value=100, places=4),
)
def test_a_quote_is_never_less_than_the_cost_nor_a_millionth_more(quantity: Decimal, price: Decimal) -> None:
    cost = reckon("ltx2", "mine", quantity, "second", own_price_usd=price).cost_usd
    assert cost is not None
    assert 0 <= cost - quantity * price < Decimal("0.000001")


@pytest.mark.parametrize(
    ("quantity", "said"), [("1E+3", "1000"), ("0.00", "0"), ("5.000", "5"), ("0.000001", "0.000001")]
)
def test_a_quantity_is_written_plainly(quantity: str, said: str) -> None:
    quote = reckon("ltx2", "mine", Decimal(quantity), "second", own_price_usd=Decimal("0.1"))
    assert quote.basis.startswith(f"{said} second at")


def test_reckonings_at_one_price_add_up() -> None:
    own = [reckon("ltx2", "mine", Decimal(n), "second", own_price_usd=Decimal("0.1")).basis for n in (5, 8)]
    unknown = [reckon("ltx2", "mine", Decimal(n), "second").basis for n in (1, 2)]
    assert summed([own[0], unknown[0], own[1], unknown[1]]) == (
        "13 second at $0.1 (your own price)",
        "3 second of mine: no price is known, set MOLTPIPE_LTX2_PRICE_USD per second",
    )
