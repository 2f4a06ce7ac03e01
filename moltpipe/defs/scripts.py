"""Episode scripts: the shots of each of the five episodes."""

import asyncio

import dagster as dg

from moltpipe.defs.config import Production
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Metadata, cost, link, picture, table
from moltpipe.defs.voting import LIMITED_SERIES
from moltpipe.production.line import Line
from moltpipe.production.posters import poster
from moltpipe.production.screenwriting import Screenplay, write_episode
from moltpipe.production.work import work_on
from moltpipe.studio.screenplay import spoken_line


@dg.asset(
    partitions_def=EPISODES,
    deps=[LIMITED_SERIES],
    group_name="production",
    kinds={"postgres", "s3"},
    owners=["team:studio"],
)
async def episode_script(
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """The shots of one episode: the pilot's as submitted, a later one's as the screenwriter continues them."""
    async with work_on(line, context.partition_key, process_uuid=context.run_id) as work:
        screenplay = await write_episode(work, regenerate=config.regenerate)
        image = await asyncio.to_thread(poster, screenplay.production.series)
    return dg.MaterializeResult(metadata=_report(screenplay, line) | {"poster": picture(image, alt="poster")})


def _report(screenplay: Screenplay, line: Line) -> Metadata:
    series = screenplay.production.series
    shots = screenplay.shots
    report: Metadata = {
        "shots": table(
            [
                {
                    "shot": shot.number,
                    "camera": shot.prompt.camera,
                    "scene": shot.prompt.scene,
                    "sound": shot.audio.type.value,
                    "line": spoken.text if (spoken := spoken_line(shot.audio)) else "",
                    "clip_s": shot.gen_clip_seconds,
                    "shot_s": shot.duration_seconds,
                    "extend": shot.strategy.value,
                }
                for shot in shots
            ]
        ),
        "series": dg.MetadataValue.text(series.title),
        "shot_count": dg.MetadataValue.int(len(shots)),
        "duration_seconds": dg.MetadataValue.float(sum(shot.duration_seconds for shot in shots)),
        "written_now": dg.MetadataValue.bool(screenplay.written_now),
        "cost_usd": cost(screenplay.cost_usd),
    }
    if series.poster_key is not None:
        report["poster_link"] = link(line.media_url, series.poster_key)
    return report
