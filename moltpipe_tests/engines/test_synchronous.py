from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from uuid import uuid4

import pytest

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import ExternalId, LineRequest, Order, Recorded, Whereabouts
from moltpipe.engines.synchronous import KEPT_S, Answers, SynchronousEngine
from moltpipe_tests.engines.orders import order

JOB = ExternalId("req-1")
STRANGE = [
    "",
    "../../etc/passwd",
    "a/b\\c",
    "*",
    "[a-z]",
    ".hidden",
    "zwölf Boxkämpfer",
    "x" * 5000,
    "\0",
    "\ud83d",
    "a\nb",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "answers"


@pytest.fixture
def answers(folder: Path) -> Answers:
    return Answers(folder)


def _grow_old(folder: Path, seconds: float) -> None:
    for file in folder.iterdir():
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


def test_an_answer_is_found_by_its_job_and_by_its_call(answers: Answers) -> None:
    mine, others = order(), order()
    answers.keep(mine, JOB, b"paid for")
    answers.keep(others, ExternalId("req-2"), b"another")
    assert answers.of_job(JOB) == b"paid for"
    assert answers.of_call(mine) == JOB
    assert answers.of_call(others) == "req-2"


def test_what_was_not_kept_is_not_there(answers: Answers) -> None:
    assert answers.of_job(JOB) is None
    assert answers.of_call(order()) is None
    answers.drop(JOB)
    answers.keep(order(), JOB, b"paid for")
    assert answers.of_job(ExternalId("req-2")) is None
    assert answers.of_call(order()) is None


def test_an_answer_that_is_dropped_is_gone(answers: Answers, folder: Path) -> None:
    mine = order()
    answers.keep(mine, JOB, b"paid for")
    answers.drop(JOB)
    assert answers.of_job(JOB) is None
    assert answers.of_call(mine) is None
    assert list(folder.iterdir()) == []


def test_an_answer_that_is_kept_twice_is_the_later_one(answers: Answers, folder: Path) -> None:
    mine = order()
    answers.keep(mine, JOB, b"first")
    answers.keep(mine, JOB, b"second")
    assert answers.of_job(JOB) == b"second"
    assert len(list(folder.iterdir())) == 1


def test_what_is_kept_aside_is_no_calls_answer(answers: Answers) -> None:
    mine = order()
    answers.keep_aside(ExternalId("draft-1"), b"half done")
    assert answers.of_job(ExternalId("draft-1")) == b"half done"
    assert answers.of_call(mine) is None


@pytest.mark.parametrize("job", STRANGE)
def test_an_id_may_be_anything(answers: Answers, folder: Path, job: str) -> None:
    mine = order()
    answers.keep(mine, ExternalId(job), b"\x00\xffpaid for")
    assert answers.of_job(ExternalId(job)) == b"\x00\xffpaid for"
    assert answers.of_call(mine) == job
    assert {file.parent for file in folder.parent.rglob("*") if file.is_file()} == {folder}
    answers.drop(ExternalId(job))
    assert answers.of_job(ExternalId(job)) is None


def test_an_empty_answer_is_an_answer(answers: Answers) -> None:
    answers.keep(order(), JOB, b"")
    assert answers.of_job(JOB) == b""


_KEEPER = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID
from moltpipe.engines.protocols import ExternalId, Order
from moltpipe.engines.synchronous import Answers
order = Order(call_id=UUID(sys.argv[2]), left_at=datetime.now(UTC))
Answers(Path(sys.argv[1])).keep(order, ExternalId("req-1"), b"paid for" * 100_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_answer_outlives_the_process_that_got_it(answers: Answers, folder: Path) -> None:
    mine = order()
    keeper = subprocess.run([sys.executable, "-c", _KEEPER, str(folder), str(mine.call_id)], check=False)
    assert keeper.returncode == -signal.SIGKILL
    assert answers.of_call(mine) == JOB
    assert answers.of_job(JOB) == b"paid for" * 100_000


def test_an_answer_that_was_never_finished_is_never_read(answers: Answers, folder: Path) -> None:
    """As a process leaves it that is killed in the middle of writing: the whole file, but for its name."""
    mine = order()
    answers.keep(mine, JOB, b"paid for")
    whole = next(folder.iterdir())
    whole.rename(whole.with_name(f".{whole.name}.{os.getpid()}"))
    assert answers.of_job(JOB) is None
    assert answers.of_call(mine) is None


def test_readers_see_an_answer_whole_or_not_at_all(answers: Answers) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]
    mine = order()
    answers.keep(mine, JOB, contents[0])
    done = threading.Event()
    seen: set[bytes | None] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(answers.of_job(JOB))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in contents:
            answers.keep(mine, JOB, content)
    finally:
        done.set()
        reader.join()
    assert seen <= set(contents)


def test_a_reader_does_not_stumble_over_what_another_one_drops(answers: Answers) -> None:
    mine = order()
    done = threading.Event()

    def drop() -> None:
        while not done.is_set():
            answers.drop(JOB)

    dropper = threading.Thread(target=drop)
    dropper.start()
    try:
        for _ in range(50):
            answers.keep(mine, JOB, b"paid for")
            assert answers.of_job(JOB) in (b"paid for", None)
            assert answers.of_call(mine) in (JOB, None)
    finally:
        done.set()
        dropper.join()


def test_what_nobody_took_up_for_days_is_swept(answers: Answers, folder: Path) -> None:
    old, young = order(), order()
    answers.keep(old, ExternalId("old"), b"paid for")
    (folder / f".{uuid4()}.half.1").write_bytes(b"left by a killed process")
    _grow_old(folder, KEPT_S - 60)
    answers.keep(young, ExternalId("young"), b"paid for")
    assert answers.of_call(old) == "old", "swept before its time"
    _grow_old(folder, 120)
    answers.keep(order(), ExternalId("new"), b"paid for")
    assert answers.of_call(old) is None
    assert answers.of_call(young) == "young"
    assert len(list(folder.iterdir())) == 2


class _Voice(SynchronousEngine[LineRequest, Recorded]):
    name = "parrot"

    def __init__(self, answers: Path) -> None:
        super().__init__(answers)
        self.asked = 0

    async def ask(self, request: LineRequest, order: Order) -> tuple[ExternalId, bytes]:
        self.asked += 1
        if not request.text:
            raise EngineError(self.name, ErrorClass.AMBIGUOUS, "no answer")
        return ExternalId(f"said-{order.call_id}"), request.text.encode()

    def read(self, answer: bytes) -> Recorded:
        return Recorded(file=Path(answer.decode()))


LINE = LineRequest(text="Who wrote this?", speaker="MARA")


async def test_an_engine_of_the_next_process_reads_the_answer_of_the_last_one(folder: Path) -> None:
    mine = order()
    job = await _Voice(folder).submit(LINE, mine)
    later = _Voice(folder)
    for _ in range(2):
        result = await later.poll(job)
        assert isinstance(result, Recorded)
        assert result.local == Path(LINE.text)
    assert await later.find(LINE, mine) == job
    assert later.asked == 0


async def test_a_call_without_an_answer_here_is_anybodys_guess(folder: Path) -> None:
    voice = _Voice(folder)
    mine = order()
    with pytest.raises(EngineError):
        await voice.submit(LINE.model_copy(update={"text": ""}), mine)
    assert await voice.find(LINE, mine) is Whereabouts.UNKNOWN


async def test_an_answer_of_another_machine_is_expired(folder: Path) -> None:
    with pytest.raises(EngineError) as refusal:
        await _Voice(folder).poll(ExternalId("said-elsewhere"))
    assert refusal.value.error_class is ErrorClass.EXPIRED
    assert refusal.value.engine == "parrot"


async def test_cancelling_is_no_error_however_often(folder: Path) -> None:
    voice = _Voice(folder)
    job = await voice.submit(LINE, order())
    await voice.cancel(job)
    await voice.cancel(job)
    with pytest.raises(EngineError):
        await voice.poll(job)
