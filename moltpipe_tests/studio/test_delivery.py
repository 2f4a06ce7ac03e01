from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe.studio.delivery import PICTURE_RULES, RULES, Delivery, Finding

FIGURES = st.dictionaries(
    st.text(min_size=1), st.none() | st.integers() | st.booleans() | st.text() | st.floats(allow_nan=False)
)
FINDINGS = st.builds(Finding, rule=st.sampled_from(list(RULES)), faults=st.lists(st.text()).map(tuple), figures=FIGURES)
DELIVERIES = st.builds(
    Delivery,
    findings=st.lists(FINDINGS).map(tuple),
    seconds=st.floats(0, 1e6),
    bytes=st.integers(0),
    medium=st.sampled_from(["video", "audio"]),
)


@given(DELIVERIES)
def test_a_delivery_comes_back_from_the_ledger_as_it_went_in(delivery: Delivery) -> None:
    assert Delivery.from_json(json.loads(json.dumps(delivery.as_json()))) == delivery


@given(DELIVERIES)
def test_a_cut_passes_only_when_every_rule_was_looked_into(delivery: Delivery) -> None:
    found = {finding.rule for finding in delivery.findings}
    wanted = set(RULES) - (PICTURE_RULES if delivery.medium == "audio" else set())
    if delivery.passed:
        assert wanted <= found
        assert delivery.faults == ()


def test_one_finding_too_few_is_not_a_pass() -> None:
    every = tuple(Finding(rule) for rule in RULES)
    assert Delivery(every, 1.0, 1).passed
    assert not Delivery(every[1:], 1.0, 1).passed
    heard = tuple(finding for finding in every if finding.rule not in PICTURE_RULES)
    assert Delivery(heard, 1.0, 1, medium="audio").passed
    assert not Delivery(heard, 1.0, 1).passed


def test_a_rule_of_another_version_is_left_out() -> None:
    record = Delivery((Finding("nothing_black"),), 1.0, 1).as_json()
    record["findings"].append({"rule": "nothing_boring", "faults": [], "figures": {}})
    assert [one.rule for one in Delivery.from_json(record).findings] == ["nothing_black"]


@pytest.mark.parametrize("record", [{}, {"findings": 3}, {"findings": [{}], "seconds": 1}, {"lufs": -14}])
def test_a_record_of_another_shape_is_refused(record: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a record of a delivery"):
        Delivery.from_json(record)
