"""What a call to an engine gives back, and how its steps are written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from uuid import UUID

import stamina

from moltpipe.ledger.calls import Call
from moltpipe.ledger.database import Database, DatabaseUnavailable
from moltpipe.ledger.slots import to_its_end
from moltpipe.media.errors import MediaError

ResultT = TypeVar("ResultT")
T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[ResultT]):
    """A finished call: its row in the ledger, what the engine made, and the file where it made one."""

    call_id: UUID
    result: ResultT
    arrived: Path | None
    hosted: bool = False

    @property
    def file(self) -> Path:
        """The media, on this machine; the caller removes it.

        Raises:
            ValueError: this kind of result has none.
        """
        if self.arrived is None:
            raise ValueError(f"call {self.call_id} made no file")
        return self.arrived


class Unusable(Exception):
    """A hosted engine delivered media of which the house can make nothing."""

    def __init__(self, call_id: UUID, error: MediaError) -> None:
        super().__init__(f"{error}: `moltpipe repair --resubmit {call_id}` asks for another, and pays for it")
        self.call_id = call_id


@contextmanager
def using(answer: Answer[Any]) -> Iterator[Path]:
    """The media of an answer while something is made of it; it is removed afterwards.

    Raises:
        Unusable: nothing can be made of what a hosted engine delivered, and it was paid for.
    """
    try:
        yield answer.file
    except MediaError as error:
        if answer.hosted:
            raise Unusable(answer.call_id, error) from error
        raise
    finally:
        answer.file.unlink(missing_ok=True)


def outcome_of(call: Call) -> dict[str, object]:
    """What a log line says of a call that is over: what it cost, how long it took, and why it failed."""
    began = call.left_at or call.submitted_at
    told: dict[str, object] = {"call": str(call.id), "cost_usd": float(call.cost_usd)}
    if began is not None and call.finished_at is not None:
        told["seconds"] = round((call.finished_at - began).total_seconds(), 3)
    if call.error_class is not None:
        told |= {"error_class": call.error_class, "why": call.error}
    return told


async def written(database: Database, transaction: Callable[..., T], *values: Any, patience_s: float = 0.0) -> T:  # noqa: ANN401 - the transaction's own
    """Run one transaction of the ledger in a thread; again for as long as `patience_s` while Postgres is away.

    Who is cancelled meanwhile waits for its end, so that the row stands still when the next step looks at it.
    """

    def write() -> T:
        with database.begin() as db:
            return transaction(db, *values)

    if not patience_s:
        return await to_its_end(asyncio.to_thread(write))
    patient = stamina.retry(on=DatabaseUnavailable, attempts=None, timeout=patience_s, wait_max=10.0)(write)
    return await to_its_end(asyncio.to_thread(patient))
