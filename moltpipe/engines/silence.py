"""The composer called `none`: there is no music, so there is no engine either.

Here: the one function that says so, in the form of an engine's maker. An engine that composed silence would cost a
job, a file and a mix for nothing to be heard; the line takes None for a composer and lays no music.
"""

from __future__ import annotations

from pathlib import Path

from moltpipe.engines.protocols import Composer

NAME = "none"


def no_composer(workdir: Path) -> Composer | None:  # noqa: ARG001 - the form of every maker in the registry
    """None, whatever the folder."""
    return None
