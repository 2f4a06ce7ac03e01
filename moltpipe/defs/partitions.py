"""The two dynamic partition definitions.

Their names are global to a Dagster instance, so both are prefixed. Keys come from `studio.keys` alone:
Dagster takes any string for a dynamic key, commas and newlines included, and then fails far away.
"""

import dagster as dg

PERIODS = dg.DynamicPartitionsDefinition(name="moltpipe_periods")
EPISODES = dg.DynamicPartitionsDefinition(name="moltpipe_episodes")
PERIODS_NAME = "moltpipe_periods"
EPISODES_NAME = "moltpipe_episodes"
