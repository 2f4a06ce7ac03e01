"""The shortest time in which a series could be made: what cannot be done before what, and how many may do it at once.

Here: the reckoning, over plain numbers. Not here: measuring what it is fed with (`bench.whole_series`).

What has to wait for what is taken from the work and not from the graph of assets, which is stricter than it must be: a
shot is filmed once its own line is spoken, not once all lines are; a variant is cut once its own shots are there. Every
episode is a run, which cannot do anything before it has started. Calls wait
for a place at their provider, episodes for one of the runs that may be at work, and whatever computes for one of the
machine's cores: the processor time of a start, of conforming and of cutting, as it was measured alone in the same run.
Nothing else takes time: no sensor's interval, no queue, no claim, no look at a job, no upload.

Steps begin as soon as they can, those of earlier episodes first. For so many places that is no proven optimum, and a
studio that is held against it is held against a good plan.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One piece of work of one episode."""

    episode: int
    seconds: float
    place: str | None = None
    """What it keeps busy, such as a core or a place at a provider; None for mere waiting."""
    after: tuple[int, ...] = ()
    """The steps, by their place in the list, that have to be done before."""


@dataclass(frozen=True)
class Wanted:
    """What one episode consists of."""

    written: bool
    """Whether a screenwriter is asked: a pilot comes with its script."""
    spoken: tuple[bool, ...]
    """Of every shot, whether something is said in it."""
    variants: int


@dataclass(frozen=True)
class Costs:
    """What each step takes alone on this machine, in seconds."""

    start_s: float
    """From a run's launch to its first step."""
    start_processor_s: float
    """How much of that the processor is busy."""
    call_s: float
    """The latency of every engine."""
    take_processor_s: float
    """To look at one take as it arrived, and to conform it."""
    cut_processor_s: float
    """To cut one variant: its shots, its sound, the stitch and the delivery gate."""


RUNS, WRITER, VOICE, CAMERA, CORE = "runs", "writer", "voice", "camera", "core"


def critical_path_s(series: Sequence[Wanted], costs: Costs, places: Mapping[str, int]) -> float:
    """Seconds from the end of the period to the last variant. `places` says how many there are of each."""
    return makespan_s(_steps(series, costs), places)


def makespan_s(steps: Sequence[Step], places: Mapping[str, int]) -> float:
    """Seconds until all steps are done, where an episode also keeps one of the `RUNS` from its first step to its last.

    Raises:
        ValueError: some steps wait for each other.
    """
    free = dict(places)
    left = {episode: sum(one.episode == episode for one in steps) for episode in {one.episode for one in steps}}
    waiting, done, running = set(range(len(steps))), set[int](), set[int]()
    at_work: list[tuple[float, int]] = []
    now = 0.0
    while waiting or at_work:
        for number in sorted(waiting):
            step = steps[number]
            if not done.issuperset(step.after) or (step.place is not None and not free[step.place]):
                continue
            if step.episode not in running:
                if not free[RUNS]:
                    continue
                running.add(step.episode)
                free[RUNS] -= 1
            if step.place is not None:
                free[step.place] -= 1
            waiting.discard(number)
            heapq.heappush(at_work, (now + step.seconds, number))
        if not at_work:
            raise ValueError(f"{len(waiting)} steps wait for each other")
        now, number = heapq.heappop(at_work)
        step = steps[number]
        done.add(number)
        left[step.episode] -= 1
        if step.place is not None:
            free[step.place] += 1
        if not left[step.episode]:
            free[RUNS] += 1
    return now


def _steps(series: Sequence[Wanted], costs: Costs) -> list[Step]:
    steps: list[Step] = []

    def add(episode: int, seconds: float, place: str | None, *after: int) -> int:
        steps.append(Step(episode, seconds, place, after))
        return len(steps) - 1

    for episode, wanted in enumerate(series):
        started = add(episode, costs.start_processor_s, CORE)
        ready = add(episode, max(0.0, costs.start_s - costs.start_processor_s), None, started)
        if wanted.written:
            ready = add(episode, costs.call_s, WRITER, ready)
        voices = [add(episode, costs.call_s, VOICE, ready) if spoken else ready for spoken in wanted.spoken]
        for _ in range(wanted.variants):
            filmed = [add(episode, costs.call_s, CAMERA, voice) for voice in voices]
            takes = [add(episode, costs.take_processor_s, CORE, one) for one in filmed]
            add(episode, costs.cut_processor_s, CORE, *takes)
    return steps
