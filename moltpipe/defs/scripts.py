"""Episode scripts: the shots of each of the five episodes."""

import asyncio

import dagster as dg
from PIL.Image import Image

from moltpipe.defs.config import Production
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Metadata, cost, link, picture, table
from moltpipe.defs.sizing import pod_of
from moltpipe.defs.voting import LIMITED_SERIES
from moltpipe.production.line import Line
from moltpipe.production.posters import SMALL, poster
from moltpipe.production.screenwriting import Screenplay, write_episode
from moltpipe.studio.narration import AUDIO
from moltpipe.studio.screenplay import spoken_line


@dg.asset(
    partitions_def=EPISODES,
    deps=[LIMITED_SERIES],
    group_name="production",
    kinds={"postgres", "s3"},
    owners=["team:studio"],
    op_tags=pod_of("episode_script"),
)
async def episode_script(
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """The shots of one episode: the pilot's as submitted, a later one's as the screenwriter continues them.

    Of an audio series, the passages of the submitted narration.
    """
    async with work_in(context, line) as work:
        screenplay, image = await asyncio.gather(
            write_episode(work, regenerate=config.regenerate),
            # Drawn while the screenwriter writes.
            asyncio.to_thread(poster, work.production.series, SMALL),
        )
    return dg.MaterializeResult(metadata=_report(screenplay, image, line))


def _report(screenplay: Screenplay, image: Image, line: Line) -> Metadata:
    series = screenplay.production.series
    shots = screenplay.shots
    filmed = series.medium != AUDIO
    report: Metadata = {
        "shots" if filmed else "passages": table(
            [
                {"shot" if filmed else "passage": shot.number, "seconds": shot.duration_seconds}
                | ({"camera": shot.prompt.camera, "scene": shot.prompt.scene} if filmed else {})
                | {"line": spoken.text if (spoken := spoken_line(shot.audio)) else f"({shot.audio.type.value})"}
                for shot in shots
            ]
        ),
        "poster": picture(image, alt="poster"),
    }
    if series.poster_key is not None:
        report["poster_link"] = link(line.media_url, series.poster_key)
    return report | {
        "series": dg.MetadataValue.text(series.title),
        "shot_count": dg.MetadataValue.int(len(shots)),
        "duration_seconds": dg.MetadataValue.float(sum(shot.duration_seconds for shot in shots)),
        "written_now": dg.MetadataValue.bool(screenplay.written_now),
        "cost_usd": cost(screenplay.cost_usd),
    }
