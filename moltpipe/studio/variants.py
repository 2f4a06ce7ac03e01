"""Variants: what sets the cuts of one episode apart, and the seeds that their takes are made from.

Here: the words that a camera engine gets for each variant, and the derivation of seeds. Not here: how an
engine turns the words into pictures (`engines`), how many variants an episode has (`studio.records`).

Source: the old server's four style suffixes, their meaning kept. It seeded takes with epoch milliseconds, which do
not fit its own int4 column, and used the same seed again when it retried.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

STYLE_SUFFIXES = (
    "atmospheric fog, volumetric light shafts, soft diffused depth",
    "slow dolly move, shallow depth of field, background out of focus",
    "high contrast, deep shadows, strong silhouettes",
    "dynamic camera, vivid saturated colour, restless energy",
)

_SEED_BITS = 31
"""Seeds are int4 in the ledger and at several providers: 0 to 2**31-1."""


def style_suffix(variant_number: int, variants_wanted: int) -> str:
    """The words that set a variant apart, empty where an episode has only one variant.

    Raises:
        ValueError: there is no such variant.
    """
    if not 1 <= variant_number <= variants_wanted <= len(STYLE_SUFFIXES):
        raise ValueError(
            f"variant {variant_number} of {variants_wanted}: expected 1 to {variants_wanted}, "
            f"and at most {len(STYLE_SUFFIXES)} variants"
        )
    return STYLE_SUFFIXES[variant_number - 1] if variants_wanted > 1 else ""


def seed(shot_id: UUID, variant_number: int, take_number: int) -> int:
    """The seed of a take, 0 to 2**31-1: the same take gets the same seed on every machine, a new take a new one."""
    digest = hashlib.sha256(f"{shot_id}/{variant_number}/{take_number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> (32 - _SEED_BITS)
