"""What came out of a demo, read back from the ledger: as JSON (a contract), and as a table.

Here: the shape of `demo.json`. Not here: making any of it (`cli.demo` waits, the runs work).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from moltpipe.cli.report import heading, print_table, say
from moltpipe.ledger.audience import outcome_of
from moltpipe.ledger.database import Database
from moltpipe.ledger.production import load_production
from moltpipe.ledger.series import episodes_of, first_take_at, load_series
from moltpipe.studio.audience import ClipOutcome
from moltpipe.studio.records import Period, Production

_HASH_DIGITS = 12


def account(database: Database, period: Period, series_ids: Sequence[UUID], elapsed_s: float) -> dict[str, Any]:
    """The period, its series with every published variant, and how long it took, as JSON."""
    with database.begin() as db:
        firsts = [first_take_at(db, series_id) for series_id in series_ids]
        series = [
            {
                "id": str(series_id),
                "title": load_series(db, series_id).title,
                "episodes": [
                    _episode(load_production(db, one.partition_key), outcome_of(db, one.id))
                    for one in episodes_of(db, series_id)
                ],
            }
            for series_id in series_ids
        ]
    first = min((moment for moment in firsts if moment is not None), default=None)
    return {
        "period": {"id": str(period.id)},
        "series": series,
        "elapsed_seconds": round(elapsed_s, 1),
        "closed_to_first_take_seconds": round((first - period.ends_at).total_seconds(), 1) if first else None,
    }


def tell_account(document: dict[str, Any]) -> None:
    """The same for people: a line per variant, narrow enough for 80 columns."""
    for series in document["series"]:
        heading(series["title"])
        print_table(
            ["episode", "variant", "seconds", "MB", "sha256"],
            [
                (
                    f"{episode['episode_number']} {episode['title']}",
                    variant["variant_number"],
                    f"{variant['duration_seconds']:.1f}",
                    f"{variant['bytes'] / 1e6:.1f}",
                    variant["sha256"][:_HASH_DIGITS],
                )
                for episode in series["episodes"]
                for variant in episode["variants"]
            ],
            numbers=["variant", "seconds", "MB"],
        )
        for episode in series["episodes"]:
            _tell_choice(episode)
    first = document["closed_to_first_take_seconds"]
    after = "" if first is None else f"; the first take {first:.0f} s after the period ended"
    say(f"made in {document['elapsed_seconds']:.0f} s{after}")


def _tell_choice(episode: dict[str, Any]) -> None:
    """Which variant the audience chose, where it had a choice."""
    vote, number = episode["clip_vote"], episode["selected_variant"]
    if vote is None:
        return
    votes = f"{vote['selected']['votes']} of {vote['votes']} votes"
    keys = [one["video_key"] for one in episode["variants"] if one["variant_number"] == number]
    say(f"the audience chose variant {number} of episode {episode['episode_number']}, with {votes}:")
    for key in keys:
        say(f"  {key}")


def _episode(production: Production, vote: ClipOutcome | None) -> dict[str, Any]:
    return {
        "id": str(production.episode.id),
        "episode_number": production.episode.number,
        "title": production.episode.title,
        "partition_key": production.episode.partition_key,
        "clip_vote": None if vote is None else vote.to_json(),
        "selected_variant": next((n for n, one in production.variants.items() if one.is_selected), None),
        "variants": [
            {
                "variant_number": variant.variant_number,
                "video_key": variant.video.key,
                "captions_key": variant.captions_key,
                "thumbnail_key": variant.thumbnail_key,
                "sha256": variant.video.sha256,
                "bytes": variant.video.bytes,
                "duration_seconds": variant.duration_seconds,
            }
            for _, variant in sorted(production.variants.items())
        ],
    }
