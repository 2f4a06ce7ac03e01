"""When a hosted job is looked at."""

from __future__ import annotations

from datetime import timedelta
from itertools import accumulate, islice

from hypothesis import given
from hypothesis import strategies as st

from moltpipe.engines.protocols import Hosting

HOSTING = Hosting("an account", max_concurrency=1, start_delay=timedelta(0), deadline=timedelta(hours=1))


def looks_s(hosting: Hosting, lasts_s: float, usual_s: float | None = None) -> list[float]:
    """When a job is looked at that lasts so long, in seconds from its submission, up to the look that finds its end."""
    looks = [0.0]
    for moment in accumulate(hosting.pauses_s(usual_s)):
        looks.append(moment)
        if moment >= lasts_s:
            return looks
    raise AssertionError("the pauses came to an end")


@given(lasts_s=st.floats(0, 3600), usual_s=st.none() | st.floats(0.01, 3600))
def test_a_job_is_seen_soon_after_its_end(lasts_s: float, usual_s: float | None) -> None:
    seen_s = looks_s(HOSTING, lasts_s, usual_s)[-1]
    longest_s = HOSTING.longest_pause.total_seconds()
    assert seen_s - lasts_s <= min(longest_s, HOSTING.first_look.total_seconds() + lasts_s / 5 + 1e-6)


def test_a_long_job_is_not_asked_after_all_the_time() -> None:
    assert len(looks_s(HOSTING, 60)) < 20
    assert list(islice(HOSTING.pauses_s(), 30))[-1] == HOSTING.longest_pause.total_seconds()


@given(usual_s=st.floats(1, 3600), part=st.floats(0.86, 1.14))
def test_a_job_that_takes_about_as_long_as_others_is_seen_at_once(usual_s: float, part: float) -> None:
    lasts_s = usual_s * part
    assert looks_s(HOSTING, lasts_s, usual_s)[-1] - lasts_s <= max(0.2, usual_s / 20) + 1e-6


@given(usual_s=st.floats(0.01, 3600), lasts_s=st.floats(0, 3600))
def test_that_takes_few_more_looks(usual_s: float, lasts_s: float) -> None:
    assert len(looks_s(HOSTING, lasts_s, usual_s)) <= len(looks_s(HOSTING, lasts_s)) + 8


def test_a_job_that_is_taken_up_again_is_looked_at_by_its_own_age() -> None:
    assert list(islice(HOSTING.pauses_s(usual_s=60, age_s=50.5), 2)) == [0.5, 1.0]
