"""Voiceovers: every spoken line of an episode, with the time of each word."""

import dagster as dg

from moltpipe.defs.config import Production
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Metadata, cost, table
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.sizing import pod_of
from moltpipe.production.line import Line
from moltpipe.production.voicing import Voicing, voice_shots


@dg.asset(
    partitions_def=EPISODES,
    deps=[episode_script],
    group_name="production",
    kinds={"wav", "s3", "postgres"},
    owners=["team:studio"],
    op_tags=pod_of("voiceover"),
)
async def voiceover(
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """One WAV per spoken line. Sound comes before picture: a shot lasts as long as what is said in it."""
    async with work_in(context, line) as work:
        voicing = await voice_shots(work, regenerate=config.regenerate)
    return dg.MaterializeResult(metadata=_report(voicing))


def _report(voicing: Voicing) -> Metadata:
    voiceovers = voicing.production.voiceovers
    numbers = {shot.id: shot.number for shot in voicing.production.shots}
    return {
        "voiceovers": table(
            [
                {
                    "shot": numbers[one.shot_id],
                    "take": one.take_number,
                    "seconds": one.duration_seconds,
                    "words": len(one.words),
                    "text": " ".join(word.text for word in one.words),
                    "key": one.media.key,
                }
                for one in sorted(voiceovers.values(), key=lambda one: numbers[one.shot_id])
            ]
        ),
        "spoken_now": dg.MetadataValue.int(len(voicing.spoken_now)),
        "duration_seconds": dg.MetadataValue.float(sum(one.duration_seconds for one in voiceovers.values())),
        "engine": dg.MetadataValue.text(voicing.engine),
        "cost_usd": cost(voicing.cost_usd),
    }
