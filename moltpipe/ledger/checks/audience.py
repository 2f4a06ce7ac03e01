"""The second vote, and what it is for: of every published episode, one variant is the one that is served.

Here: pilots whose vote was never opened, episodes of which nothing was selected. Not here: periods that are due
(`checks.voting`), casting and counting (`ledger.audience`).
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from moltpipe.ledger.checks.finding import Check, Conditions
from moltpipe.ledger.schema import clip_variants, episodes, limited_series, production_jobs, voting_periods
from moltpipe.studio.screenplay import PILOT_VARIANTS

_HAS_SEVERAL_VARIANTS = sa.and_(episodes.c.episode_number == 1, limited_series.c.medium == "video")


def _unselected() -> sa.Subquery:
    """Episodes that have variants, none of which is selected, with the number of variants that are out."""
    selected = clip_variants.alias()
    is_served = sa.exists().where(selected.c.episode_id == clip_variants.c.episode_id, selected.c.is_selected)
    return (
        sa.select(clip_variants.c.episode_id, sa.func.count().label("variants"))
        .where(~is_served)
        .group_by(clip_variants.c.episode_id)
        .subquery()
    )


def _completed_at() -> sa.ScalarSelect[Any]:
    """When an episode was finished: a variant's row does not say since when it is there."""
    return (
        sa.select(sa.func.max(production_jobs.c.completed_at))
        .where(production_jobs.c.episode_id == episodes.c.id)
        .correlate(episodes)
        .scalar_subquery()
    )


def _without_vote(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    unselected = _unselected()
    return (
        sa.select(
            episodes.c.id.label("episode_id"),
            episodes.c.partition_key,
            limited_series.c.title,
            _completed_at().label("since"),
        )
        .join(unselected, unselected.c.episode_id == episodes.c.id)
        .join(limited_series, limited_series.c.id == episodes.c.series_id)
        .where(
            _HAS_SEVERAL_VARIANTS,
            unselected.c.variants == PILOT_VARIANTS,
            ~sa.exists().where(voting_periods.c.episode_id == episodes.c.id),
        )
    )


PILOTS_HAVE_THEIR_CLIP_VOTE = Check(
    "pilots_have_their_clip_vote",
    "stitched_episode",
    "Every pilot whose four variants are out has a period in which the audience votes on them.",
    _without_vote,
    remedy="`moltpipe repair` opens the vote.",
)


def _without_selection(_db: Connection, _conditions: Conditions) -> sa.Select[Any]:
    unselected = _unselected()
    vote_is_over = sa.and_(_HAS_SEVERAL_VARIANTS, voting_periods.c.is_processed.is_(sa.true()))
    return (
        sa.select(
            episodes.c.id.label("episode_id"),
            episodes.c.partition_key,
            limited_series.c.title,
            voting_periods.c.id.label("period_id"),
            sa.func.coalesce(voting_periods.c.processed_at, _completed_at()).label("since"),
        )
        .join(unselected, unselected.c.episode_id == episodes.c.id)
        .join(limited_series, limited_series.c.id == episodes.c.series_id)
        .outerjoin(voting_periods, voting_periods.c.episode_id == episodes.c.id)
        .where(vote_is_over | ~_HAS_SEVERAL_VARIANTS)
    )


PUBLISHED_EPISODES_HAVE_A_SELECTED_VARIANT = Check(
    "published_episodes_have_a_selected_variant",
    "stitched_episode",
    "Every episode that is out, and whose variants are not to be voted on any more, has the one that is served.",
    _without_selection,
    remedy="`moltpipe repair` selects the only variant, or the one that the vote chose.",
)
