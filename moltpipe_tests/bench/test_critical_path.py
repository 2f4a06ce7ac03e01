"""The shortest time of a series: never less than its longest chain, nor than its work shared out among its places."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moltpipe_tests.bench.critical_path import (
    CAMERA,
    CORE,
    RUNS,
    VOICE,
    WRITER,
    Costs,
    Step,
    Wanted,
    critical_path_s,
    makespan_s,
)

PLENTY = {RUNS: 100, WRITER: 100, VOICE: 100, CAMERA: 100, CORE: 100}
COSTS = Costs(start_s=4, start_processor_s=3, call_s=5, take_processor_s=1, cut_processor_s=2)


def episode(*, written: bool = True, shots: int = 3, variants: int = 1, silent: bool = False) -> Wanted:
    return Wanted(written=written, spoken=(not silent,) * shots, variants=variants)


def test_with_room_for_everything_the_longest_chain_decides() -> None:
    start, script, voice, film, conform, cut = 4, 5, 5, 5, 1, 2
    series = [episode() for _ in range(5)]
    assert critical_path_s(series, COSTS, PLENTY) == start + script + voice + film + conform + cut


def test_a_pilot_waits_for_no_screenwriter_and_a_silent_shot_for_no_voice() -> None:
    full = critical_path_s([episode()], COSTS, PLENTY)
    assert critical_path_s([episode(written=False)], COSTS, PLENTY) == full - 5
    assert critical_path_s([episode(silent=True)], COSTS, PLENTY) == full - 5


def test_a_camera_with_few_places_is_the_longest_chain() -> None:
    series = [episode(written=False, silent=True, shots=6)]
    alone = critical_path_s(series, COSTS, PLENTY)
    assert critical_path_s(series, COSTS, PLENTY | {CAMERA: 2}) == alone + 2 * 5


def test_an_episode_waits_until_a_run_is_over() -> None:
    series = [episode(), episode()]
    alone = critical_path_s(series[:1], COSTS, PLENTY)
    assert critical_path_s(series, COSTS, PLENTY | {RUNS: 1}) == 2 * alone


def test_work_on_one_core_is_done_one_after_the_other() -> None:
    cuts = [Step(number, 2.0, CORE) for number in range(3)]
    assert makespan_s(cuts, PLENTY | {CORE: 1}) == 6
    assert makespan_s(cuts, PLENTY | {CORE: 3}) == 2


def test_steps_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        makespan_s([Step(0, 1.0, None, (1,)), Step(0, 1.0, None, (0,))], PLENTY)


@given(
    shots=st.integers(1, 6),
    variants=st.integers(1, 4),
    episodes=st.integers(1, 4),
    cameras=st.integers(1, 8),
    runs=st.integers(1, 4),
)
def test_it_is_never_less_than_the_work_shared_out_nor_more_than_all_of_it_in_a_row(
    shots: int, variants: int, episodes: int, cameras: int, runs: int
) -> None:
    series = [episode(shots=shots, variants=variants)] * episodes
    shortest = critical_path_s(series, COSTS, PLENTY | {CAMERA: cameras, RUNS: runs})
    takes = shots * variants * episodes
    assert shortest >= critical_path_s(series[:1], COSTS, PLENTY)
    assert shortest >= takes * COSTS.call_s / cameras
    in_a_row = (4 + 5 + shots * 5 + shots * variants * (5 + 1) + variants * 2) * episodes
    assert shortest <= in_a_row
