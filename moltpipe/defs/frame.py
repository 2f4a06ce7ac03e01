"""The frame around every stage's body: its episode, claimed in the name of its run.

Here: what Dagster knows that the line must be told. Not here: claims and heartbeats (`production.work`).
"""

from contextlib import AbstractAsyncContextManager

import dagster as dg

from moltpipe.production.line import Line
from moltpipe.production.work import Work, work_on

_ENDED = frozenset({dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED})


def work_in(context: dg.AssetExecutionContext, line: Line) -> AbstractAsyncContextManager[Work]:
    """Work on the partition's episode for as long as the body runs.

    A run that somebody terminates cancels its jobs at the providers; one whose process is merely stopped leaves
    them, for the next run to go on with.
    """

    def ended_by_a_person() -> bool:
        run = context.instance.get_run_by_id(context.run_id)
        return run is not None and run.status in _ENDED

    return work_on(line, context.partition_key, process_uuid=context.run_id, ended_by_a_person=ended_by_a_person)
