from __future__ import annotations

import email.utils
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.wire import Reply, Wire, account_of, base_url, is_loopback
from moltpipe_tests.engines.sites import Saying, Site, answer, open_site

KEY = "sk-live/0+1=abc"
BODY = {"prompt": "Möwen über der See", "seconds": 5}


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as opened:
        yield opened


def _wire(site: Site, **other: Any) -> Wire:  # noqa: ANN401 - arguments of Wire
    return Wire("ltx2", site.url("/v1"), secrets=[KEY], **other)


def _json(status: int, document: object, **headers: str) -> bytes:
    headers["content_type"] = "application/json"
    return answer(status, json.dumps(document).encode(), None, **headers)


async def _failed(wire: Wire, method: str, path: str = "/jobs") -> EngineError:
    with pytest.raises(EngineError) as failure:
        await (wire.post(path, BODY) if method == "POST" else wire.get(path))
    assert failure.value.engine == "ltx2"
    assert KEY not in str(failure.value)
    return failure.value


# What is sent ------------------------------------------------------------------------------------------------------


async def test_a_request_carries_its_body_headers_and_parameters(site: Site) -> None:
    site.says("/v1/jobs", _json(201, {"id": "j1"}, x_request_id="r1"))
    wire = _wire(site, headers={"authorization": f"Bearer {KEY}"}, params={"api_key": "k"})
    reply = await wire.post("/jobs", BODY, headers={"idempotency-key": "c1"})
    assert (reply.status, reply.ok, reply.document(), reply.headers["x-request-id"]) == (201, True, {"id": "j1"}, "r1")
    asked = site.asked[0]
    assert (asked.method, asked.target) == ("POST", "/v1/jobs?api_key=k")
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["idempotency-key"] == "c1"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body.decode() == '{"prompt":"Möwen über der See","seconds":5}'


async def test_a_question_carries_no_body_and_may_name_another_page(site: Site) -> None:
    site.says("/v1/jobs", _json(200, []))
    await _wire(site).get(site.url("/v1/jobs?cursor=2"))
    await _wire(site).get("/jobs", params={"page": 3})
    assert [asked.target for asked in site.asked] == ["/v1/jobs?cursor=2", "/v1/jobs?page=3"]
    assert all("content-type" not in asked.headers and asked.body == b"" for asked in site.asked)


async def test_redirects_are_left_to_the_engine(site: Site) -> None:
    site.says("/v1/jobs", answer(303, location="/v1/jobs?__call=1"))
    reply = await _wire(site).post("/jobs", BODY)
    assert (reply.status, reply.headers["location"]) == (303, "/v1/jobs?__call=1")
    assert len(site.asked) == 1


@pytest.mark.parametrize("body", [{"prompt": "\ud83d"}, {"prompt": ["\udc00"]}])
async def test_half_a_character_is_refused_at_the_door(site: Site, body: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="surrogate") as refusal:
        await _wire(site).post("/jobs", body)
    assert refusal.value.error_class is ErrorClass.INVALID_INPUT
    assert site.asked == []


@pytest.mark.parametrize("key", ["two\r\nlines", "schlüssel", "nul\0"])
@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_key_that_no_header_can_hold_is_refused_and_not_quoted(site: Site, key: str, method: str) -> None:
    error = await _failed(Wire("ltx2", site.url("/v1"), headers={"x-api-key": key}, secrets=[key]), method)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert "key" in error.message
    assert "lines" not in error.message
    assert "ssel" not in error.message
    assert site.asked == []


# What failed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_request_that_found_nobody_never_left(method: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        wire = Wire("ltx2", f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert (await _failed(wire, method)).error_class is ErrorClass.RETRY_SAFE


async def test_a_request_that_was_stopped_by_the_certificate_never_left(site: Site) -> None:
    wire = Wire("ltx2", site.url("/v1", scheme="https"))
    assert (await _failed(wire, "POST")).error_class is ErrorClass.RETRY_SAFE
    assert site.asked == []


async def test_a_request_that_the_proxy_refused_never_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", site.url(""))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    site.says("api.provider.example:443", answer(403))
    told: list[str] = []
    wire = Wire("ltx2", "https://api.provider.example/v1")
    with pytest.raises(EngineError) as failure:
        await wire.post("/jobs", BODY, departed=lambda: told.append("left"))
    assert failure.value.error_class is ErrorClass.RETRY_SAFE
    assert [asked.method for asked in site.asked] == ["CONNECT"]
    assert told == []


async def test_a_proxy_is_not_asked_for_this_machines_servers(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    site.says("/v1/jobs", _json(200, {}))
    assert (await _wire(site).get("/jobs")).ok


def _drop(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("method", "lost"), [("POST", ErrorClass.AMBIGUOUS), ("GET", ErrorClass.RETRY_SAFE)])
@pytest.mark.parametrize(
    "saying",
    [
        _drop,
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 201 Cre",
        answer(201, b'{"id"', length=100),
        answer(201, b"not gzip", content_encoding="gzip"),
        answer(303, location="https://[::1/x"),
        answer(303, location="https://host:port/"),
        answer(303, location="data:x/y;base64,AAAA"),
    ],
)
async def test_a_request_that_was_sent_and_not_answered(
    site: Site, saying: Saying, method: str, lost: ErrorClass
) -> None:
    site.says("/v1/jobs", saying)
    error = await _failed(_wire(site, params={"key": KEY}), method)
    assert error.error_class is lost
    assert "/v1/jobs" in error.message
    assert "?" not in error.message
    assert len(site.asked) == 1


@pytest.mark.parametrize(("method", "lost"), [("POST", ErrorClass.AMBIGUOUS), ("GET", ErrorClass.RETRY_SAFE)])
async def test_a_request_that_waits_too_long_for_its_answer(site: Site, method: str, lost: ErrorClass) -> None:
    let_go = threading.Event()

    def say_nothing(_connection: socket.socket) -> None:
        let_go.wait(10)

    site.says("/v1/jobs", say_nothing)
    begun = time.monotonic()
    error = await _failed(_wire(site, timeout_s=0.2), method)
    let_go.set()
    assert error.error_class is lost
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(("method", "lost"), [("POST", ErrorClass.AMBIGUOUS), ("GET", ErrorClass.RETRY_SAFE)])
async def test_an_answer_that_is_too_long_is_not_read_on(
    site: Site, method: str, lost: ErrorClass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moltpipe.engines.wire.MAX_ANSWER_BYTES", 1000)
    site.says("/v1/jobs", answer(200, b"x" * 1001))
    error = await _failed(_wire(site), method)
    assert error.error_class is lost
    assert "1000 bytes" in error.message


# When it left ------------------------------------------------------------------------------------------------------


async def test_the_departure_is_told_once_after_the_body_and_before_the_answer(site: Site) -> None:
    left = threading.Event()
    told: list[str] = []

    def departed() -> None:
        told.append("left")
        left.set()

    def saying(connection: socket.socket) -> None:
        assert left.wait(10)
        told.append(f"answered {len(site.asked[0].body)} bytes")
        connection.sendall(_json(200, {}))

    site.says("/v1/jobs", saying)
    await _wire(site).post("/jobs", {"text": "x" * 100_000}, departed=departed)
    assert told == ["left", f"answered {len(json.dumps({'text': 'x' * 100_000}, separators=(',', ':')))} bytes"]


async def test_a_departure_that_did_not_happen_is_not_told() -> None:
    told: list[str] = []
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        wire = Wire("ltx2", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(EngineError):
            await wire.post("/jobs", BODY, departed=lambda: told.append("left"))
    assert told == []


# What a status means -----------------------------------------------------------------------------------------------

_SAID = {"detail": "so it is"}


@pytest.mark.parametrize(
    ("status", "document", "accepting", "otherwise"),
    [
        (400, _SAID, ErrorClass.INVALID_INPUT, ErrorClass.INVALID_INPUT),
        (401, _SAID, ErrorClass.AUTH, ErrorClass.AUTH),
        (402, _SAID, ErrorClass.QUOTA, ErrorClass.QUOTA),
        (403, _SAID, ErrorClass.AUTH, ErrorClass.AUTH),
        (404, _SAID, ErrorClass.INVALID_INPUT, ErrorClass.INVALID_INPUT),
        (408, _SAID, ErrorClass.RETRY_SAFE, ErrorClass.RETRY_SAFE),
        (413, None, ErrorClass.INVALID_INPUT, ErrorClass.INVALID_INPUT),
        (422, _SAID, ErrorClass.INVALID_INPUT, ErrorClass.INVALID_INPUT),
        (425, None, ErrorClass.RETRY_SAFE, ErrorClass.RETRY_SAFE),
        (429, _SAID, ErrorClass.THROTTLED, ErrorClass.THROTTLED),
        (500, _SAID, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
        (500, None, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
        (502, _SAID, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
        (503, _SAID, ErrorClass.RETRY_SAFE, ErrorClass.RETRY_SAFE),
        (503, None, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
        (504, _SAID, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
        (524, _SAID, ErrorClass.AMBIGUOUS, ErrorClass.RETRY_SAFE),
    ],
)
async def test_a_status_means_one_thing_before_and_another_after_money_is_spent(
    site: Site, status: int, document: object, accepting: ErrorClass, otherwise: ErrorClass
) -> None:
    page = answer(status, b"<html>a gateway</html>", content_type="text/html")
    site.says("/v1/jobs", page if document is None else _json(status, document))
    wire = _wire(site)
    reply = await wire.post("/jobs", BODY)
    assert not reply.ok
    assert wire.refusal(reply, accepting=True).error_class is accepting
    assert wire.refusal(reply).error_class is otherwise
    said = f"HTTP {status}" + (": so it is" if document else "")
    assert wire.refusal(reply).message == said


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no such voice", "code": 3}}', "no such voice"),
        (b'{"error": "quota"}', "quota"),
        (b'{"detail": {"status": "quota_exceeded"}}', "quota_exceeded"),
        (b'{"detail": [{"loc": ["seed"], "msg": "too large"}]}', '[{"loc": ["seed"], "msg": "too large"}]'),
        (b'{"title": "Bad", "detail": ""}', "Bad"),
        (b"plainly wrong", "plainly wrong"),
        (b"<html>oh</html>", ""),
        (b"", ""),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"[" * 100_000, "[" * 300),
    ],
)
def test_what_a_provider_says_is_found_wherever_it_stands(body: bytes, said: str) -> None:
    assert Reply(400, {}, body).detail() == said


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000, b"[1]", b'"x"'])
def test_a_body_that_is_no_object_is_an_empty_one(body: bytes) -> None:
    assert Reply(200, {}, body).document() == {}


# How long to wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "header", "detail", "seconds"),
    [
        (429, "30", "", 30),
        (503, "1.5", "", 1.5),
        (429, " 7 ", "resets in ~30s", 7),
        (429, "soon", "", None),
        (429, "-3", "", None),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", "", 0),
        (429, "", "Request was throttled. Your rate limit resets in ~30s.", 30),
        (429, "", "Please try again in 7m12.5s. Visit our page.", 432.5),
        (429, "", "Please try again in 1h2m3s", 3723),
        (429, "", "try again in 20ms.", 0.02),
        (429, "", "Expected available in 12 seconds.", 12),
        (429, "", "Retry after 2 minutes", 120),
        (429, "", "used 9 of 10 in 30 messages", None),
        (429, "", "Slow down.", None),
        (400, "", "the clip breaks off in 5s", None),
    ],
)
def test_the_hint_how_long_to_wait(status: int, header: str, detail: str, seconds: float | None) -> None:
    reply = Reply(status, {"retry-after": header} if header else {}, json.dumps({"detail": detail}).encode())
    assert reply.retry_after_s() == (None if seconds is None else pytest.approx(seconds))


def test_the_hint_may_be_a_date() -> None:
    header = email.utils.formatdate(time.time() + 90, usegmt=True)
    assert Reply(503, {"retry-after": header}, b"").retry_after_s() == pytest.approx(90, abs=5)


async def test_a_refusal_carries_the_hint(site: Site) -> None:
    site.says("/v1/jobs", _json(429, {"detail": "slow down"}, retry_after="12"))
    wire = _wire(site)
    assert wire.refusal(await wire.post("/jobs", BODY), accepting=True).retry_after_s == 12


# What stays secret -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"Incorrect key {KEY} given", "Incorrect key *** given"),
        ("Incorrect key sk-live%2F0%2B1%3Dabc given", "Incorrect key *** given"),
        ("see https://cdn.example/a.mp4?X-Sig=1&b=2, please", "see https://cdn.example/a.mp4?*** please"),
        ('{"url": "http://h/x?k=1"}', '{"url": "http://h/x?***"}'),
        ("why? because https://h/x is there", "why? because https://h/x is there"),
        ("two\n  lines", "two lines"),
        ("x" * 400, "x" * 299 + "…"),
    ],
)
def test_keys_and_queries_are_blotted_out(text: str, scrubbed: str) -> None:
    wire = Wire("ltx2", "https://h", secrets=[KEY, "", "sk-live"])
    assert wire.scrub(text) == scrubbed
    assert wire.error(ErrorClass.AUTH, text).message == scrubbed


async def test_a_provider_that_repeats_the_key_does_not_get_it_into_the_error(site: Site) -> None:
    site.says("/v1/jobs", _json(401, {"error": {"message": f"the key {KEY} is unknown"}}))
    wire = _wire(site)
    assert wire.refusal(await wire.post("/jobs", BODY)).message == "HTTP 401: the key *** is unknown"


async def test_no_key_and_no_query_gets_into_any_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    signed = "X-Signature=s1gned"
    site.says("/v1/jobs", _json(200, {}, location=f"https://cdn.example/x?{signed}"))
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        wire = _wire(site, headers={"x-api-key": KEY}, params={"api_key": KEY})
        await wire.post("/jobs", BODY)
        await wire.get(site.url(f"/v1/jobs?{signed}"))
    assert len(site.asked) == 2
    for secret in (KEY, "sk-live", "api_key", "s1gned"):
        assert secret not in caplog.text


# Addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("https://proxy.example/openai/v1/", "https://proxy.example/openai/v1"),
    ],
)
def test_a_bare_host_means_the_usual_path(given: str, meant: str) -> None:
    assert base_url(given, "/v1") == meant


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://LOCALHOST", True),
        ("http://[::1]:1", True),
        ("http://127.0.0.1.example", False),
        ("http://h@127.0.0.1.example/", False),
        ("nonsense", False),
    ],
)
def test_which_addresses_are_this_machine(url: str, *, ours: bool) -> None:
    assert is_loopback(url) is ours


def test_an_account_is_its_host_and_key_and_shows_no_key() -> None:
    account = account_of("https://api.example/v1", KEY)
    assert account.startswith("api.example-")
    assert KEY not in account
    assert account == account_of("https://api.example/v1/", KEY)
    assert account != account_of("https://api.example/v1", "another")
    assert account != account_of("https://api.example/v2", KEY)
