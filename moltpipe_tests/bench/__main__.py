"""`make bench`, or `python -m moltpipe_tests.bench`: everything is made, measured and reported in one run.

Here: the order of work and the options. The exit status is 0 also where a promise is not kept: figures of a machine
that does other work fail nobody, and no test asserts a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from moltpipe.runtime.signals import interrupted_once
from moltpipe_tests.bench.cases import SUBJECTS, cases
from moltpipe_tests.bench.measuring import CaseFailed, machine, measure
from moltpipe_tests.bench.registry import CASES, PREPARATIONS, Measurement
from moltpipe_tests.bench.report import Report

FILE_WIDTH = 160
"""Characters in a line where no terminal says how many there are."""


def main() -> None:
    """Run the bench."""
    subjects = ", ".join(subject.__name__.rpartition(".")[2] for subject in SUBJECTS)
    parser = argparse.ArgumentParser(prog="python -m moltpipe_tests.bench", description=f"Measures {subjects}.")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=CASES, help="these cases alone")
    parser.add_argument("--all", action="store_true", help="also those that take minutes and run on request")
    parser.add_argument(
        "--json", type=Path, default=Path("build/bench.json"), help="where the figures go (%(default)s)"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    options = parser.parse_args()
    console = Console()
    if options.markdown or not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    if options.list:
        for one in cases():
            console.print(f"{one.name}: {one.what}{' (on request)' if one.on_request else ''}", highlight=False)
        return
    before, began = machine(), time.monotonic()
    took: dict[str, Measurement] = {}
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="moltpipe-bench-") as name, Console(stderr=True).status("") as status:
        folder = Path(name)
        usual = [one for one in cases() if options.all or not one.on_request]
        chosen = [one for one in cases() if one.name in options.only] if options.only else usual
        for make in PREPARATIONS if any(one.material for one in chosen) else ():
            status.update(f"material: {(make.__doc__ or make.__name__).splitlines()[0]}")
            make(folder)
        for one in chosen:
            status.update(f"{one.name}: {one.what}")
            try:
                measured = measure(one, folder)
            except CaseFailed as failure:
                left_out[one.name] = str(failure)
                continue
            if measured is None:
                left_out[one.name] = "left out, MoviePy is not installed: `make bench` does that"
            else:
                took[one.name] = measured
    report = Report({**before, "bench_s": round(time.monotonic() - began)}, took, left_out)
    report.write(options.json)
    report.show(console, markdown=options.markdown)
    console.print(f"written to {options.json}", highlight=False)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt), interrupted_once():
        main()
