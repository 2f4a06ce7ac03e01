"""What can go wrong in the cutting room.

Here: the two error types that leave `media`. Not here: why a rule of the delivery gate exists (`media.gate`).
"""

from __future__ import annotations

from pathlib import Path


class MediaError(Exception):
    """A file could not be read, made or joined. The text says which file, what was expected and what came."""


class DeliveryRefused(MediaError):
    """A finished cut breaks at least one rule of delivery. `failures` lists every broken rule, one sentence each."""

    def __init__(self, path: Path, failures: tuple[str, ...]) -> None:
        super().__init__(f"{path.name} is not fit for delivery: {'; '.join(failures)}")
        self.path = path
        self.failures = failures
