"""What can go wrong in the cutting room.

Here: the two error types that leave `media`. Not here: why a rule of the delivery gate exists (`media.gate`).
"""

from __future__ import annotations

from pathlib import Path

from moltpipe.studio.delivery import Delivery


class MediaError(Exception):
    """A file could not be read, made or joined. The text says which file, what was expected and what came."""


class DeliveryRefused(MediaError):
    """A finished cut breaks at least one rule of delivery. `failures` lists every broken rule, one sentence each."""

    def __init__(self, path: Path, delivery: Delivery) -> None:
        super().__init__(f"{path.name} is not fit for delivery: {'; '.join(delivery.faults)}")
        self.path = path
        self.delivery = delivery
        self.failures = delivery.faults
