"""moltpipe's four stages with the work taken out, under moltpipe's executor and under Dagster's default one.

Here: the code location for `bench.overhead`. The assets have the names, dependencies, partitions and checks of the
real ones, and open the real line; each claims its episode, keeps its lease alive and settles, as the real ones do. Only
what makes media, scripts and reports is gone. Both jobs are the same but for the executor. There are no sensors, which
would start runs of their own.
"""

import dagster as dg

from moltpipe.defs.clips import clips
from moltpipe.defs.delivery import DELIVERY_CHECKS
from moltpipe.defs.episodes import stitched_episode
from moltpipe.defs.frame import work_in
from moltpipe.defs.partitions import EPISODES
from moltpipe.defs.resources import resources
from moltpipe.defs.scripts import episode_script
from moltpipe.defs.voiceovers import voiceover
from moltpipe.production.line import Line

STAGES = (episode_script, voiceover, clips, stitched_episode)
OURS, DEFAULT = "by_moltpipe", "by_default"


def _without_work(real: dg.AssetsDefinition) -> dg.AssetsDefinition:
    specs = list(real.check_specs)

    @dg.asset(
        name=real.key.to_user_string(),
        partitions_def=EPISODES,
        deps=[dependency.asset_key for spec in real.specs for dependency in spec.deps],
        check_specs=specs,
    )
    async def stage(  # type: ignore[no-untyped-def]  # noqa: ANN202 - with checks Dagster takes no annotation but a tuple's
        context: dg.AssetExecutionContext, line: dg.ResourceParam[Line]
    ):
        async with work_in(context, line):
            pass
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(check_name=spec.name, passed=True) for spec in specs]
        )

    return stage


_SELECTION = dg.AssetSelection.assets(*(stage.key for stage in STAGES)) | dg.AssetSelection.checks(
    *(spec.key for spec in DELIVERY_CHECKS)
)

defs = dg.Definitions(
    assets=[_without_work(stage) for stage in STAGES],
    jobs=[
        dg.define_asset_job(OURS, selection=_SELECTION, executor_def=dg.in_process_executor),
        dg.define_asset_job(DEFAULT, selection=_SELECTION),
    ],
    resources=resources(),
)
