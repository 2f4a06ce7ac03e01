"""All that Dagster sees, one room per stage of the line: voting, scripts, voiceovers, clips, episodes.

Beside them: integrity (checks), dispatch (waiting jobs into runs), partitions, resources, reports
(metadata for the operator). Not here: any decision, SQL, FFmpeg argument or HTTP call.
"""
