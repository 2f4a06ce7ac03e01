"""Stitched episodes, the last stage of the line.

Here: the asset and its metadata, the job of one whole episode. Not here: how a cut is made
(`production.cutting`, `media`), when an episode is made (`defs.dispatch`).
"""

import asyncio
from dataclasses import asdict

import dagster as dg
from PIL.Image import Image

from moltpipe.defs.clips import clips
from moltpipe.defs.config import Production
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Metadata, cost, link, picture, table
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover
from moltpipe.production.cutting import Cutting, cut_variants
from moltpipe.production.line import Line
from moltpipe.production.posters import preview


@dg.asset(
    partitions_def=EPISODES,
    deps=[voiceover, clips],
    group_name="production",
    kinds={"ffmpeg", "s3", "postgres"},
    owners=["team:studio"],
)
async def stitched_episode(
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
) -> dg.MaterializeResult[None]:
    """One MP4 per variant: conformed takes joined by stream copy under one soundtrack, with captions beside it."""
    async with work_in(context, line) as work:
        cutting = await cut_variants(work, regenerate=config.regenerate)
        thumbnail = await asyncio.to_thread(preview, line, cutting.production)
    return dg.MaterializeResult(metadata=_report(cutting, thumbnail, line))


def _report(cutting: Cutting, thumbnail: Image, line: Line) -> Metadata:
    variants = [variant for _, variant in sorted(cutting.production.variants.items())]
    report: Metadata = {
        "variants": table(
            [
                {
                    "variant": variant.variant_number,
                    "seconds": variant.duration_seconds,
                    "bytes": variant.video.bytes,
                    "sha256": variant.video.sha256[:12],
                    "selected": variant.is_selected,
                }
                for variant in variants
            ]
        ),
        "thumbnail": picture(thumbnail, alt="thumbnail", width=240),
        "delivery": table(
            [
                {"variant": cut.variant.variant_number, "lufs": cut.loudness.after_lufs} | asdict(cut.delivery)
                for cut in cutting.cut_now
            ]
        ),
    }
    for variant in variants:
        report[f"variant_{variant.variant_number}"] = link(line.media_url, variant.video.key)
    return report | {
        "cost_usd": cost(cutting.cost_usd),
        "cut_now": dg.MetadataValue.int(len(cutting.cut_now)),
        "duration_seconds": dg.MetadataValue.float(max(variant.duration_seconds for variant in variants)),
    }


produce_episode = dg.define_asset_job(
    "produce_episode",
    selection=[episode_script, voiceover, clips, stitched_episode],
    description="Make one episode, from its script to its published variants.",
)
