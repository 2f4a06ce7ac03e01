"""`moltpipe estimate`: what a series from a script would cost, before anybody votes for it.

Here: reading the script and telling the sum. Not here: the reckoning (`production.estimate`). It asks no service, no
provider and for no key: all it needs is the script, the settings and the price list.
"""

from __future__ import annotations

import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from moltpipe.cli.options import Json
from moltpipe.cli.report import complain, heading, print_json, print_table, report, say
from moltpipe.cli.submit import printed_name, read_file, refused, tell_refused, unreadable
from moltpipe.engines.errors import EngineError
from moltpipe.production.estimate import Cap, Estimate, caps, crew_without_keys, estimate
from moltpipe.production.line import finish_of
from moltpipe.settings import Settings, lacking_for_crew, load_settings, variable
from moltpipe.studio.admission import read
from moltpipe.studio.documents import Refusal

_CENT = Decimal("0.01")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="estimate")(estimate_series)


def estimate_series(
    script: Annotated[Path, typer.Argument(metavar="SCRIPT", help="A pilot script or an audio pack as JSON.")],
    as_json: Json = False,
) -> None:
    """Say what a series from a pilot script or an audio pack would cost with the engines of the settings.

    Nothing is sent or filed.
    """
    settings = load_settings(with_keys=False)
    name = printed_name(script)
    try:
        admission = read(read_file(script))
    except OSError as error:
        _refuse(name, (unreadable(error),), as_json=as_json)
    if admission.script is None:
        _refuse(name, admission.refusals, as_json=as_json)
    try:
        with tempfile.TemporaryDirectory(prefix="moltpipe-estimate-") as folder:
            engines = crew_without_keys(settings, Path(folder))
            found = estimate(
                admission.script, admission.document, engines, settings.profile, finish=finish_of(settings)
            )
    except EngineError as error:
        complain(str(error))
        sys.exit(1)
    held = caps(found, run=settings.budget_run_usd, series=settings.budget_series_usd, day=settings.budget_day_usd)
    if as_json:
        print_json(_document(name, found, held))
    else:
        _tell(found, held, settings)


def _refuse(name: str, refusals: tuple[Refusal, ...], *, as_json: bool) -> NoReturn:
    """End as `submit` does for a script that cannot be filed."""
    if as_json:
        print_json({"refused": [refused(name, refusals)]})
    else:
        tell_refused(name, refusals)
    sys.exit(1)


# For machines --------------------------------------------------------------------------------------------------------


def _document(name: str, found: Estimate, held: tuple[Cap, ...]) -> dict[str, Any]:
    return {
        "script": name,
        "title": found.title,
        "total_usd": float(found.known_usd),
        "unknown_prices": [
            {"stage": one.stage, "engine": one.engine, "model": one.model, "calls": one.unpriced}
            for one in found.bills
            if one.unpriced
        ],
        "lines": [
            {
                "stage": one.stage,
                "engine": one.engine,
                "model": one.model,
                "calls": one.calls,
                "basis": "; ".join(one.bases),
                "usd": None if one.unpriced else float(one.known_usd),
            }
            for one in found.bills
        ],
        "per_episode": [
            {
                "episode_number": one.number,
                "title": one.title,
                "seconds": round(one.seconds, 3),
                "usd": float(one.known_usd),
                "unknown_prices": one.unpriced,
            }
            for one in found.episodes
        ],
        "caps": {
            one.name: {
                "limit_usd": None if one.limit_usd is None else float(one.limit_usd),
                "needed_usd": float(one.needed_usd),
                "fits": one.fits,
            }
            for one in held
        },
    }


# For people ----------------------------------------------------------------------------------------------------------


def _tell(found: Estimate, held: tuple[Cap, ...], settings: Settings) -> None:
    filmed = any(one.stage == "picture" for one in found.bills)
    heading(f"“{found.title}” at {settings.profile.name}" if filmed else f"“{found.title}”, an audio series")
    print_table(
        ["stage", "engine", "calls", "reckoning", "USD"],
        [
            (one.stage, one.engine, one.calls, "; ".join(one.bases), _dollars(one.known_usd, unpriced=one.unpriced))
            for one in found.bills
        ],
        numbers=["calls", "USD"],
    )
    say()
    print_table(
        ["episode", "seconds", "USD"],
        [
            (f"{one.number} {one.title}", f"{one.seconds:.0f}", _dollars(one.known_usd, unpriced=one.unpriced))
            for one in found.episodes
        ],
        numbers=["seconds", "USD"],
    )
    say()
    say(f"total: {_dollars(found.known_usd, unpriced=found.unpriced)} USD")
    for one in found.bills:
        if one.unpriced:
            say(f"no price is known for {one.unpriced} calls of {one.engine} ({one.model})")
    for cap in held:
        if cap.limit_usd is not None:
            say(_verdict(cap))
    drafted = any(one.stage == "script" for one in found.bills)
    report(
        ("episodes 2 to 5 are drafted for this; " if drafted else "")
        + "the lengths of voices are assumed from their lines"
    )
    for line in lacking_for_crew(settings):
        report(f"nothing is made before this is set: {line}")


def _dollars(amount: Decimal, *, unpriced: int = 0) -> str:
    """An amount to the cent, to the millionth where it is less than one; "at least" where a price is missing."""
    if unpriced and not amount:
        return "unknown"
    shown = f"{amount:.2f}" if amount >= _CENT or not amount else f"{amount:.6f}"
    return f"at least {shown}" if unpriced else shown


def _verdict(cap: Cap) -> str:
    words = {
        True: "is enough",
        False: "is not enough",
        None: "holds calls back whose price is not known",
    }
    needed = _dollars(cap.needed_usd, unpriced=cap.unpriced)
    return f"{variable(cap.name)}={cap.limit_usd:f} {words[cap.fits]} ({needed} USD needed)"
