"""`moltpipe submit`: pilot scripts and audio packs at the door.

Here: reading files and telling what became of each. Not here: judging them (`studio.admission`), filing them
(`ledger.scripts`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from moltpipe.cli.options import Agent, Json
from moltpipe.cli.report import complain, print_json, report, say
from moltpipe.cli.session import session
from moltpipe.ledger.database import Database
from moltpipe.ledger.scripts import FiledScript, StudioRefused, file_script, studio_genre
from moltpipe.studio.admission import read
from moltpipe.studio.documents import MAX_BYTES, Refusal, ScriptNote
from moltpipe.studio.narration import AUDIO


@dataclass(frozen=True)
class _Verdict:
    """What became of one file: a script that was filed, or refusals."""

    file: str
    script: FiledScript | None = None
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[ScriptNote, ...] = ()


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="submit")(submit)


def submit(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Pilot scripts and audio packs as JSON.")],
    agent: Agent,
    studio: Annotated[
        str | None, typer.Option(help="Slug of the studio; if not given, the agent's for the genre, made when missing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """File pilot scripts and audio packs.

    A bad one is refused whole, with every error at once; the others are filed all the same.
    """
    with session() as opened:
        verdicts = [_file(opened.database, file, agent, studio) for file in files]
    if as_json:
        print_json(_document(verdicts))
    else:
        for verdict in verdicts:
            _tell(verdict)
    turned_down = sum(verdict.script is None for verdict in verdicts)
    if turned_down:
        complain(f"{turned_down} of {len(verdicts)} refused")
        sys.exit(1)


def _file(database: Database, file: Path, agent: str, studio: str | None) -> _Verdict:
    """File one script in a transaction of its own, or say all that is wrong with it."""
    name = printed_name(file)
    try:
        text = read_file(file)
    except OSError as error:
        return _Verdict(name, refusals=(unreadable(error),))
    try:
        with database.begin() as db:
            admission = read(text, studio_genre=studio_genre(db, studio) if studio is not None else None)
            if admission.script is None:
                return _Verdict(name, refusals=admission.refusals)
            script = file_script(
                db, admission.script, admission.document, agent_name=agent, studio_slug=studio, now=datetime.now(UTC)
            )
    except StudioRefused as error:
        return _Verdict(name, refusals=(Refusal(path=error.path, value=error.value, rule=error.rule),))
    return _Verdict(name, script=script, notes=admission.warnings)


def read_file(file: Path) -> bytes:
    """What stands in a script's file, up to one byte more than can be accepted: a device without end is not read.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def unreadable(error: OSError) -> Refusal:
    """A file that cannot be read, told as what is wrong with a script is told."""
    return Refusal(path="", rule=f"the file cannot be read: {error.strerror}")


def printed_name(file: Path) -> str:
    """The file's name as text: a name that is none can neither be printed nor stand in JSON."""
    return os.fsencode(file).decode("utf-8", "replace")


def refused(file: str, refusals: Iterable[Refusal]) -> dict[str, Any]:
    """A refused file, for JSON."""
    return {"file": file, "errors": [refusal.model_dump(mode="json") for refusal in refusals]}


def tell_refused(file: str, refusals: Iterable[Refusal]) -> None:
    """The same for people: where, what and why."""
    complain(f"refused {file}")
    for refusal in refusals:
        complain(f"  {_spelled(refusal)}")


def _document(verdicts: list[_Verdict]) -> dict[str, Any]:
    return {
        "filed": [
            {
                "file": one.file,
                "script_id": str(one.script.script_id),
                "title": one.script.title,
                "studio": one.script.studio_slug,
                "medium": one.script.medium,
            }
            for one in verdicts
            if one.script
        ],
        "refused": [refused(one.file, one.refusals) for one in verdicts if one.script is None],
        "warned": [
            {"file": one.file, "warnings": [note.model_dump(mode="json") for note in one.notes]}
            for one in verdicts
            if one.notes
        ],
    }


def _tell(verdict: _Verdict) -> None:
    if verdict.script is None:
        tell_refused(verdict.file, verdict.refusals)
        return
    script = verdict.script
    heard = ", an audio series" if script.medium == AUDIO else ""
    say(f"filed {script.script_id}  “{script.title}” for studio {script.studio_slug}{heard}")
    for note in verdict.notes:
        report(f"  note: {_spelled(note)}")


def _spelled(remark: Refusal | ScriptNote) -> str:
    place = remark.path or "the document"
    value = "" if remark.value is None else f" = {json.dumps(remark.value, ensure_ascii=False)}"
    return f"{place}{value}: {remark.rule}"
