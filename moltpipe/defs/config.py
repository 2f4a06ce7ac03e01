"""The one switch that an operator has in the launchpad."""

import dagster as dg
from pydantic import Field


class Production(dg.Config):
    """How a production asset is materialized."""

    regenerate: bool = Field(
        default=False,
        description="Make everything again as a new take. The old takes stay. Hosted engines charge for it.",
    )
