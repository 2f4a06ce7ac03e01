"""A code location in which nothing is: Dagster's own price, for `bench.at_rest`.

Here: a job of one step that does nothing. Nothing of moltpipe is imported.
"""

import dagster as dg


@dg.op
def do_nothing() -> None:
    """The step."""


@dg.job(executor_def=dg.in_process_executor)
def nothing() -> None:
    """One process for the run, as moltpipe's jobs have it."""
    do_nothing()


defs = dg.Definitions(jobs=[nothing])
