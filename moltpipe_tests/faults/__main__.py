"""`make faults`, or `python -m moltpipe_tests.faults`: damage at random moments of real work, and what is left of it.

Here: the order of work, the options, the table. The exit status is 1 when anything was lost, made twice, or cannot be
explained; the seed that is printed plays the same damages again at the same moments of the clock.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from rich.console import Console
from rich.table import Table

from moltpipe.runtime.signals import interrupted_once
from moltpipe_tests.faults.damages import DAMAGES, Damage, drawn
from moltpipe_tests.faults.rounds import Log, Round, await_rest, count_runs, play, prepare
from moltpipe_tests.faults.rules import Verdict, judged, selections
from moltpipe_tests.faults.world import World, a_world

ROUNDS = 20
WAVE = 5
_FILE_WIDTH = 180
_STOPPED = 130


def main() -> None:
    """Play the rounds and print what came of them."""
    options = _options()
    seeds = options.seed or [secrets.randbelow(10**6)]
    told = " and ".join(map(str, seeds))
    console = Console(stderr=False)
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(f"faults: seed {told}, {options.rounds} rounds each", highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="moltpipe-faults-"))
    began = time.monotonic()
    try:
        with interrupted_once(), a_world(folder) as world:
            verdict = _play_all(world, console, seeds, options)
    except KeyboardInterrupt:
        console.print(f"stopped; logs: {folder}", highlight=False)
        sys.exit(_STOPPED)
    console.print(
        f"seed {told}: {options.rounds * len(seeds)} rounds in {time.monotonic() - began:.0f} s:"
        f" {len(verdict.lost)} lost, {len(verdict.duplicated)} duplicated, {len(verdict.unexplained)} unexplained"
        f" ({verdict.orphans} objects of broken uploads, all named)",
        highlight=False,
    )
    if verdict.kept:
        shutil.rmtree(folder)
        return
    console.print(f"logs: {folder}", highlight=False)
    sys.exit(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m moltpipe_tests.faults", description="Breaks a studio at random moments of its work."
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often (%(default)s)")
    parser.add_argument("--seed", type=int, nargs="+", help="of an earlier run; several are played one after the other")
    parser.add_argument("--wave", type=int, default=WAVE, help="rounds that overlap (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="DAMAGE", choices=[one.name for one in DAMAGES], default=[])
    return parser.parse_args()


def _play_all(world: World, console: Console, seeds: Sequence[int], options: argparse.Namespace) -> Verdict:
    log, verdict = Log(), Verdict()
    possible = _possible(world, console, options.only)
    plan = [one for seed in seeds for one in _plan(seed, options.rounds, possible)]
    prepare(world)
    played: list[Round] = []
    for start in range(0, len(plan), options.wave):
        wave: list[Round] = []
        for number, (damage, seed, random) in enumerate(plan[start : start + options.wave], start + 1):
            wave.append(play(world, damage, number, seed, random))
            console.print(f"  round {number}: {damage.name}: {wave[-1].happened}", highlight=False)
        healed = time.monotonic()
        restless = await_rest(world, wave, log)
        for one in wave:
            one.quiet_after_s = time.monotonic() - healed
        count_runs(world, wave)
        found = judged(world, wave, log, restless)
        played += wave
        _tell(console, found)
        verdict.add(found)
    restless = await_rest(world, played, log, clip_votes_too=True)
    last = selections(world, played)
    last.lost += restless
    world.up.end()
    last.unexplained += [f"left behind: {one}" for one in world.up.left_behind()]
    _tell(console, last)
    verdict.add(last)
    console.print(_table(played))
    for what, told in (("sent again by a person", log.decided), ("out of attempts, retried by a person", log.retried)):
        if told:
            console.print(f"{what}, after a check had named it: {len(told)}", highlight=False)
            for which in told:
                console.print(f"  {which}", highlight=False, markup=False)
    console.print(f"put off and made due: {log.made_due}; starts of `moltpipe up`: {world.up.starts}", highlight=False)
    return verdict


def _plan(seed: int, rounds: int, possible: Sequence[Damage]) -> list[tuple[Damage, int, Random]]:
    """Every round has its own source of chance: how much one takes from it depends on the machine."""
    damages = drawn(Random(seed), rounds, possible)  # noqa: S311 - damage is no secret
    return [(one, seed, Random(f"{seed} {number}")) for number, one in enumerate(damages)]  # noqa: S311 - as above


def _possible(world: World, console: Console, only: Sequence[str]) -> list[Damage]:
    possible = []
    for damage in DAMAGES:
        why_not = damage.cannot(world)
        if only and damage.name not in only:
            continue
        if why_not is None:
            possible.append(damage)
        else:
            console.print(f"  SKIPPED on this machine: {damage.name}: {why_not}", highlight=False)
    return possible


def _tell(console: Console, verdict: Verdict) -> None:
    for kind, found in (
        ("LOST", verdict.lost),
        ("DUPLICATED", verdict.duplicated),
        ("UNEXPLAINED", verdict.unexplained),
    ):
        for one in found:
            console.print(f"  {kind}: {one}", highlight=False, markup=False)


def _table(played: Sequence[Round]) -> Table:
    table = Table()
    for column in ("round", "seed", "damage", "at s", "for s", "what happened", "runs", "failed", "at rest after s"):
        table.add_column(column, justify="left" if column in ("damage", "what happened") else "right")
    for one in played:
        table.add_row(
            str(one.number),
            str(one.seed),
            one.damage,
            f"{one.moment_s:.1f}",
            f"{one.lasts_s:.1f}",
            one.happened,
            str(one.runs),
            str(one.runs_failed),
            f"{one.quiet_after_s:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
