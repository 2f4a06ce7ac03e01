"""All subjects of the bench, in the order of the table: importing this module lists their cases.

Here: the list. A later stage of the line is one more module in it.
"""

from __future__ import annotations

from moltpipe_tests.bench import (
    at_rest,
    conforming,
    importing,
    long_episode,
    looking,
    overhead,
    scale,
    stitching,
    story,
    whole_series,
    with_moviepy,
)
from moltpipe_tests.bench.registry import CASES, Case

SUBJECTS = (
    importing,
    at_rest,
    whole_series,
    overhead,
    story,
    stitching,
    with_moviepy,
    long_episode,
    conforming,
    looking,
    scale,
)


def cases() -> list[Case]:
    """Every case, by subject, and within one as they stand in its module."""
    subjects = [subject.__name__ for subject in SUBJECTS]
    return sorted(CASES.values(), key=lambda one: subjects.index(one.run.__module__))
