"""Stitched episodes, the last stage of the line.

Here: the asset and its metadata, the job of one whole episode. Not here: how a cut is made
(`production.cutting`, `media`), what the gate's findings become (`defs.delivery`), when an episode is made
(`defs.dispatch`).
"""

import dagster as dg

from moltpipe.defs.clips import clips
from moltpipe.defs.config import Production
from moltpipe.defs.delivery import DELIVERY_CHECKS, NO_CUT, Judged, measured, published, refused, results
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.reports import Cell, Metadata, cost, drawing, link, picture, table
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.sizing import pod_of
from moltpipe.defs.voiceovers import voiceover
from moltpipe.media.offload import offload
from moltpipe.production.cuts import Cutting
from moltpipe.production.cutting import cut_variants
from moltpipe.production.line import Line
from moltpipe.production.posters import Stills, stills
from moltpipe.studio.records import Variant


@dg.asset(
    partitions_def=EPISODES,
    deps=[voiceover, clips],
    group_name="production",
    kinds={"ffmpeg", "s3", "postgres"},
    owners=["team:studio"],
    check_specs=DELIVERY_CHECKS,
    op_tags=pod_of("stitched_episode"),
)
async def stitched_episode(  # type: ignore[no-untyped-def]  # noqa: ANN201 -- Dagster knows no asynchronous generator's type
    context: dg.AssetExecutionContext, config: Production, line: dg.ResourceParam[Line]
):
    """One MP4 per variant: conformed takes joined by stream copy under one soundtrack, with captions beside it."""
    # Nothing is yielded inside the work: Dagster resumes this generator in another task, and the work belongs to the
    # one that began it.
    try:
        async with work_in(context, line) as work:
            cutting = await cut_variants(work, regenerate=config.regenerate)
            pictures = await offload(stills, line, cutting.production)
    except Exception as error:
        # The run fails, and the figures that a cut failed with are on record all the same.
        for result in results(context.partition_key, refused(error) or [Judged("the cut", None, NO_CUT)]):
            yield result
        raise
    yield dg.MaterializeResult(
        metadata=_report(cutting, pictures, line),
        check_results=list(results(context.partition_key, published(cutting.production.variants))),
    )


def _report(cutting: Cutting, pictures: Stills, line: Line) -> Metadata:
    variants = [variant for _, variant in sorted(cutting.production.variants.items())]
    report: Metadata = {"variants": table([_row(variant) for variant in variants])}
    if pictures.sheet is not None:
        report["contact_sheet"] = drawing(pictures.sheet, alt="contact sheet")
    report |= {
        "waveform": drawing(pictures.waveform, alt="waveform"),
        "thumbnail": picture(pictures.thumbnail, alt="thumbnail", width=240),
        "delivery": table(
            measured(
                published(cutting.production.variants),
                {f"variant {cut.variant.variant_number}": cut.loudness.before_lufs for cut in cutting.cut_now},
            )
        ),
    }
    for variant in variants:
        report[f"variant_{variant.variant_number}"] = link(line.media_url, variant.video.key)
    return report | {
        "cost_usd": cost(cutting.cost_usd),
        "cut_now": dg.MetadataValue.int(len(cutting.cut_now)),
        "duration_seconds": dg.MetadataValue.float(max(variant.duration_seconds for variant in variants)),
    }


def _row(variant: Variant) -> dict[str, Cell]:
    return {
        "variant": variant.variant_number,
        "seconds": variant.duration_seconds,
        "bytes": variant.video.bytes,
        "sha256": variant.video.sha256[:12],
        "selected": variant.is_selected,
    }


produce_episode = dg.define_asset_job(
    "produce_episode",
    # The gate's checks come with the cut. Those of integrity, on the same assets, are looked at by their sensor: as
    # steps of every run they took longer than some of its stages.
    selection=dg.AssetSelection.assets(episode_script, voiceover, clips, stitched_episode).without_checks()
    | dg.AssetSelection.checks(*(spec.key for spec in DELIVERY_CHECKS)),
    description="Make one episode, from its script to its published variants.",
)
