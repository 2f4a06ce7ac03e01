"""Orders for engines under test."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from moltpipe.engines.protocols import Order


def order(**other: Any) -> Order:  # noqa: ANN401 - any field of the order
    """An order of a new call that leaves now, with what a test wants to be different."""
    return Order(**{"call_id": uuid4(), "left_at": datetime.now(UTC), **other})
