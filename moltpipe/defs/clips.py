"""Clips: the takes of an episode, one for every shot of every variant."""

import dagster as dg

from moltpipe.defs.config import Production
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Metadata, cost, link, table
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.sizing import pod_of
from moltpipe.defs.voiceovers import voiceover
from moltpipe.engines import stock
from moltpipe.production.filming import Filming, film_shots
from moltpipe.production.line import Line

_CUTTING = "stitched_episode"
"""The asset that comes next, in a run that has it."""


@dg.asset(
    partitions_def=EPISODES,
    deps=[episode_script, voiceover],
    group_name="production",
    kinds={"ffmpeg", "s3", "postgres"},
    owners=["team:studio"],
    op_tags=pod_of("clips"),
)
async def clips(
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """One conformed take for every shot of every variant: four variants for a pilot, one for the others."""
    async with work_in(context, line) as work:
        cut_ahead = context.job_def.has_node_named(_CUTTING)
        filming = await film_shots(work, regenerate=config.regenerate, cut_ahead=cut_ahead)
    return dg.MaterializeResult(metadata=_report(filming, line))


def _report(filming: Filming, line: Line) -> Metadata:
    takes = filming.production.takes
    numbers = {shot.id: shot.number for shot in filming.production.shots}
    ordered = sorted(takes.values(), key=lambda take: (take.variant_number, numbers[take.shot_id]))
    report: Metadata = {
        "takes": table(
            [
                {
                    "variant": take.variant_number,
                    "shot": numbers[take.shot_id],
                    "take": take.take_number,
                    "engine": take.engine,
                    "seconds": take.duration_seconds,
                    "bytes": take.media.bytes,
                    "key": take.media.key,
                }
                for take in ordered
            ]
        ),
    }
    if ordered:
        report["first_take"] = link(line.media_url, ordered[0].media.key)
    credits_due = sorted({take.credit for take in ordered if take.credit})
    if credits_due:
        report["credits"] = dg.MetadataValue.md(
            "\n".join(f"- {one}" for one in [*credits_due, stock.ENDORSEMENT_NOTICE])
        )
    return report | {
        "filmed_now": dg.MetadataValue.int(len(filming.filmed_now)),
        "take_count": dg.MetadataValue.int(len(takes)),
        "cost_usd": cost(filming.cost_usd),
    }
