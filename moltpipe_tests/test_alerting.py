from __future__ import annotations

import io
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from moltpipe.alerting import MOST_HANGING, Channel, channel_ids, channels, require_channels, send
from moltpipe.settings import SettingsError
from moltpipe.studio.alerts import Message
from moltpipe_tests.webhook import Manner, Received, Webhook, webhook

MESSAGE = Message("moltpipe: a script has no series (1)", "Found now.\n\nhttp://ui/runs/1", "failure")
SECRET = "g3heim-Zahlenwerk"  # noqa: S105 - of no door


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What reaches the log of a program that logs everything. (pytest's own reads loggers that pass nothing on.)"""
    root, text = logging.getLogger(), io.StringIO()
    handler, level = logging.StreamHandler(text), root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


def channel(url: str) -> Channel:
    (one,) = channels([url])
    return one


def test_a_message_arrives_with_its_title_text_and_tone(hook: Webhook) -> None:
    assert send(channel(hook.url("a")), MESSAGE) is None
    assert hook.taken("a") == [Received(MESSAGE.title, MESSAGE.body, "failure")]


def test_a_refusal_says_which_channel_and_why(hook: Webhook) -> None:
    hook.manners[SECRET] = Manner.REFUSES
    error = send(channel(hook.url(SECRET)), MESSAGE)
    assert error is not None
    assert error.startswith("channel 1 (json), after ")
    assert "500" in error


def test_a_channel_where_nobody_listens_fails() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        error = send(channel(f"json://127.0.0.1:{port}/x"), MESSAGE)
    assert error is not None
    assert "onnection error" in error


def test_a_channel_that_hangs_fails_in_time(hook: Webhook) -> None:
    hook.manners["a"] = Manner.HANGS
    began = time.monotonic()
    assert send(channel(hook.url("a") + "?rto=0.2"), MESSAGE) is not None
    assert time.monotonic() - began < 5


def test_a_channel_that_answers_in_drops_fails_in_time(hook: Webhook) -> None:
    """Each drop starts the reading time anew, so Apprise alone would wait for ever."""
    hook.manners["a"] = Manner.DRIPS
    began = time.monotonic()
    assert send(channel(hook.url("a")), MESSAGE, patience_s=1) == "channel 1 (json): no answer within 1 s"
    assert time.monotonic() - began < 5


def test_a_channel_that_hangs_for_weeks_does_not_fill_the_process_with_threads(hook: Webhook) -> None:
    hook.manners["a"] = Manner.DRIPS
    one = channel(hook.url("a"))
    said = [send(one, MESSAGE, patience_s=0.3) for _ in range(MOST_HANGING + 2)]
    hanging = [thread for thread in threading.enumerate() if thread.name == f"alert to {one.id}"]
    assert len(hanging) == MOST_HANGING
    assert said[-1] == f"channel 1 (json): {MOST_HANGING} earlier messages still hang"


@pytest.mark.parametrize(
    "url",
    [
        f"json://user:{SECRET}@127.0.0.1:9/x",
        f"json://127.0.0.1:9/{SECRET}/x",
        f"json://127.0.0.1:9/x?-key={SECRET}&+authorization={SECRET}",
        f"slack://{SECRET}",
        f"nonsense://{SECRET}/x",
        f"form://{SECRET}@127.0.0.1:9/x",
    ],
)
def test_no_secret_reaches_an_error_or_a_log(url: str, log: io.StringIO, capfd: pytest.CaptureFixture[str]) -> None:
    error = send(channel(url), MESSAGE, patience_s=10)
    said = capfd.readouterr()
    assert error is not None
    for text in (error, log.getvalue(), said.out, said.err, repr(channel(url))):
        assert SECRET.lower() not in text.lower()


def test_an_address_that_apprise_does_not_know_is_refused_by_its_place_alone() -> None:
    with pytest.raises(SettingsError) as refusal:
        require_channels(["json://127.0.0.1:9/x", f"slack://{SECRET}", f"nonsense://{SECRET}"])
    assert [line[: line.index(": expected")] for line in refusal.value.complaints] == [
        "MOLTPIPE_ALERT_URLS=(hidden): entry 2 of 3",
        "MOLTPIPE_ALERT_URLS=(hidden): entry 3 of 3",
    ]
    assert SECRET not in str(refusal.value)


def test_addresses_that_apprise_knows_pass_without_being_contacted(hook: Webhook) -> None:
    require_channels([hook.url("a"), "mailto://user:word@mail.example?to=a@mail.example,b@mail.example"])
    assert hook.asked("a") == 0


def test_a_channel_is_known_by_a_digest_of_its_address() -> None:
    urls = ["json://h/1", "json://h/2", "json://h/1"]
    ids = channel_ids(urls)
    assert len(ids) == len(set(ids)) == 2
    assert channel_ids(urls[1::-1]) == ids[::-1]
    assert [one.name for one in channels(urls)] == ["channel 1 (json)", "channel 2 (json)"]


def test_channels_are_written_to_side_by_side(hook: Webhook) -> None:
    hook.manners["slow"] = Manner.HANGS
    slow = threading.Thread(target=send, args=(channel(hook.url("slow")), MESSAGE))
    slow.start()
    hook.await_asked("slow")
    assert send(channel(hook.url("fast")), MESSAGE) is None
    assert slow.is_alive()
    hook.let_go.set()
    slow.join()


def test_a_message_that_is_too_long_for_a_service_is_cut_to_what_it_takes(hook: Webhook) -> None:
    """Refused as too long, it would be tried again for ever."""
    assert send(channel(hook.url("a")), Message("title", "word " * 20_000, "failure")) is None
    (taken,) = hook.taken("a")
    assert 30_000 < len(taken.body) <= 32_768


def test_apprise_is_imported_by_whoever_sends_and_by_nobody_else() -> None:
    """It takes half a second, which no other command need pay."""
    program = "import sys, moltpipe.cli, moltpipe.defs.alerts; sys.exit('apprise' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
