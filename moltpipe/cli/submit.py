"""`moltpipe submit`: pilot scripts at the door."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from moltpipe.cli.report import Json, complain, out, print_json
from moltpipe.cli.session import Session, session
from moltpipe.ledger.scripts import StudioRefused, file_script, studio_genre
from moltpipe.studio.admission import read
from moltpipe.studio.documents import Refusal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="submit")(submit)


def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Pilot scripts as JSON.")],
    agent: Annotated[str, typer.Option(help="The agent that submits.")],
    studio: Annotated[
        str | None, typer.Option(help="Slug of the studio; the agent's for the genre if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate pilot scripts and file the good ones; a bad one is refused whole, with every error at once."""
    if not agent.strip():
        raise typer.BadParameter("an agent needs a name", param_hint="--agent")
    filed: list[dict[str, object]] = []
    refused: list[dict[str, object]] = []
    warned: list[dict[str, object]] = []
    with session() as opened:
        for file in files:
            outcome = _file(opened, file, agent.strip(), studio)
            if isinstance(outcome, list):
                refused.append({"file": str(file), "errors": [refusal.model_dump(mode="json") for refusal in outcome]})
                continue
            document, warnings = outcome
            filed.append({"file": str(file), **document})
            if warnings:
                warned.append({"file": str(file), "warnings": warnings})
    if as_json:
        print_json({"filed": filed, "refused": refused, "warned": warned})
    else:
        _tell(filed, refused, warned)
    sys.exit(1 if refused else 0)


def _file(
    opened: Session, file: Path, agent: str, studio: str | None
) -> tuple[dict[str, object], list[dict[str, object]]] | list[Refusal]:
    """File one script in a transaction of its own, or say all that is wrong with it."""
    try:
        text = file.read_bytes()
    except OSError as error:
        return [Refusal(path="", value=str(file), rule=f"the file cannot be read: {error.strerror}")]
    try:
        with opened.database.begin() as db:
            genre = studio_genre(db, studio) if studio else None
            admission = read(text, studio_genre=genre)
            if admission.script is None:
                return list(admission.refusals)
            script = file_script(
                db, admission.script, admission.document, agent_name=agent, studio_slug=studio, now=datetime.now(UTC)
            )
    except StudioRefused as error:
        return [Refusal(path=error.path, value=error.value, rule=error.rule)]
    return (
        {"script_id": str(script.script_id), "title": script.title, "studio": script.studio_slug},
        [warning.model_dump(mode="json") for warning in admission.warnings],
    )


def _tell(filed: list[dict[str, object]], refused: list[dict[str, object]], warned: list[dict[str, object]]) -> None:
    for one in filed:
        out.print(f"filed {one['file']}: {one['title']} as {one['script_id']} for {one['studio']}", markup=False)
    for one in warned:
        for warning in _rows(one["warnings"]):
            complain(f"note on {one['file']}: {warning['path']} = {warning['value']!r}: {warning['rule']}")
    for one in refused:
        complain(f"refused {one['file']}:")
        for error in _rows(one["errors"]):
            complain(f"  {error['path'] or '(document)'} = {error['value']!r}: {error['rule']}")


def _rows(value: object) -> list[dict[str, object]]:
    return value if isinstance(value, list) else []
