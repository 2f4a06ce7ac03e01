from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from moltpipe.settings import accounts, variables
from moltpipe_tests.fakes.__main__ import Control, environment, fakes
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen, serving

ROOT = Path(__file__).parents[2]


class Toy(Provider):
    """Takes whatever is posted; jobs never end."""

    prefix = "toy"

    def handle(self, seen: Seen) -> Answer:
        return self.at_the_door(lambda: self._take(seen))

    def _take(self, seen: Seen) -> Answer:
        self.accept(seen.json(), f"job-{len(self.starts)}")
        return Answer(201)


@contextmanager
def controlled(toy: Toy) -> Iterator[str]:
    with serving(toy, Control([toy])) as base:
        yield base


def post(url: str, body: object) -> httpx.Response:
    return httpx.post(url, json=body, trust_env=False, timeout=20)


def get(url: str) -> Any:  # noqa: ANN401 - whatever is told
    return httpx.get(url, trust_env=False, timeout=20).json()


def test_what_was_billed_is_told_to_another_process() -> None:
    with controlled(Toy()) as base:
        for given in ("a", "b", "b"):
            assert post(f"{base}/toy/jobs", {"prompt": given}).status_code == 201
        assert get(f"{base}/control/bills") == {
            "toy": {"billed": 3, "twice": ['{"prompt":"b"}'], "most_in_flight": 3}
        }  # fmt: skip


def test_a_fault_is_queued_from_another_process() -> None:
    with controlled(Toy()) as base:
        asked = {"fault": "throttled", "times": 2, "retry_after": 7}
        assert post(f"{base}/control/toy/faults", asked).json() == {"queued": 2}
        answers = [post(f"{base}/toy/jobs", {}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 429, 201]
    assert answers[0].headers["retry-after"] == "7"


@pytest.mark.parametrize("wrong", [{}, [], {"fault": "earthquake"}, {"fault": "delay", "times": "often"}])
def test_a_fault_that_does_not_exist_is_refused(wrong: object) -> None:
    with controlled(toy := Toy()) as base:
        answer = post(f"{base}/control/toy/faults", wrong)
    assert answer.status_code == 400
    assert "earthquake" not in [one.value for one in Fault]
    assert not any(toy.taken(fault) is not None for fault in Fault)


def test_control_over_nobody_is_not_found() -> None:
    with controlled(Toy()) as base:
        assert post(f"{base}/control/toi/faults", {"fault": "delay"}).status_code == 404
        assert httpx.get(f"{base}/control/toy", trust_env=False).status_code == 404


def test_every_fake_is_a_hosted_engines_and_there_is_one_of_each() -> None:
    prefixes = [provider.prefix for provider in fakes()]
    # MusicGen is one of the models at Replicate.
    assert prefixes == sorted(set(accounts()) - {"musicgen"})


def test_jobs_last_as_long_as_asked_for() -> None:
    assert {getattr(provider, "latency_s", 1.5) for provider in fakes(1.5)} == {1.5}


def test_the_variables_are_settings_that_send_every_engine_there() -> None:
    providers = fakes()
    with serving(*providers) as base:
        told = environment(providers)
        assert set(told) <= variables()
        for provider in providers:
            name = f"MOLTPIPE_{provider.prefix.upper()}"
            assert told[f"{name}_BASE_URL"].startswith(f"{base}/{provider.prefix}")
            assert told[f"{name}_API_KEY"]
        assert told["MOLTPIPE_REPLICATE_BASE_URL"] == f"{base}/replicate/v1"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_serves_until_it_is_told_to_end(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "moltpipe_tests.fakes", "--latency", "0.05"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        told = json.loads(program.stdout.readline())
        bills = get(f"{told['base']}/control/bills")
        queued = post(f"{told['base']}/control/stock/faults", {"fault": "unavailable"})
        program.send_signal(number)
        out, err = program.communicate(timeout=20)
    assert (program.returncode, out, err) == (0, "", "")
    assert queued.status_code == 200
    assert bills["stock"] == {"billed": 0, "twice": [], "most_in_flight": 0}
    assert told["environment"]["MOLTPIPE_STOCK_BASE_URL"] == f"{told['base']}/stock"
