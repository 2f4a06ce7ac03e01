"""The house with its lights on: services up, tables made, environment ready.

Here: the one block that every command opens before it does its work. Not here: the parts it is made of.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moltpipe.runtime.environment import environment
from moltpipe.runtime.services import Services, services
from moltpipe.settings import Settings


@dataclass(frozen=True)
class House:
    """What a command has in hand while the house is open."""

    settings: Settings
    services: Services
    variables: dict[str, str]
    """What is laid over our own environment for a child process."""
    instance_yaml: Path | None = None
    """Another `dagster.yaml` than the project's."""

    def environ(self) -> dict[str, str]:
        """The whole environment of a child process."""
        return {**os.environ, **self.variables}


@contextmanager
def open_house(settings: Settings, *, instance_yaml: Path | None = None) -> Iterator[House]:
    """Services held and migrated for the length of a block. See `runtime.services.services` for who starts and stops.

    Raises:
        ServiceError: an embedded service does not come up.
    """
    # Alembic takes half a second to import, which `--help` need not pay.
    from moltpipe.ledger.migrate import migrate  # noqa: PLC0415

    with services(settings) as held:
        variables = environment(settings, held, instance_yaml=instance_yaml)
        migrate(variables["MOLTPIPE_DATABASE_URL"])
        yield House(settings, held, variables, instance_yaml)
