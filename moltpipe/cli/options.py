"""Options that several commands have.

Here: how they are declared, and what cannot be a name. Not here: options of one command (beside the command).
"""

from __future__ import annotations

import unicodedata
from typing import Annotated

import typer

MAX_AGENT_NAME = 200
"""Far below what fits into an index of Postgres, where a vote would fail on it."""


def _agent_name(text: str) -> str:
    name = text.strip()
    if not name:
        raise typer.BadParameter("an agent needs a name")
    if len(name) > MAX_AGENT_NAME:
        raise typer.BadParameter(f"a name has at most {MAX_AGENT_NAME} characters, this one has {len(name)}")
    if any(unicodedata.category(one) in ("Cc", "Cs") for one in name):
        raise typer.BadParameter("a name is UTF-8 text without control characters")
    return name


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
Agent = Annotated[str, typer.Option("--agent", callback=_agent_name, help="Name of the agent that acts.")]
