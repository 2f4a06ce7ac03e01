from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import ipaddress
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from moltpipe.engines import transfer, wire
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.protocols import Download
from moltpipe.engines.transfer import Address, Fetched, Limits, Reach, reach_of
from moltpipe_tests.engines.sites import Site, answer, chunked, open_site

SECRET = "s3cr3t-signature"  # noqa: S105 - looked for in error texts
HOME = "http://127.0.0.1:9/v1"
AWAY = "https://api.provider.example/v1"
FILM = bytes(range(256)) * 64
LIMITS: dict[str, Any] = {
    "max_bytes": 1024 * 1024,
    "allow_private": False,
    "attempts": 2,
    "stall_s": 5.0,
    "total_s": 20.0,
    "first_pause_s": 0.01,
}


@pytest.fixture
def site() -> Iterator[Site]:
    with open_site() as opened:
        yield opened


@pytest.fixture
def other_site() -> Iterator[Site]:
    with open_site() as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "arrivals"
    made.mkdir()
    return made


class Names:
    """A resolver that knows what a test has told it, answer after answer; the last one is repeated."""

    def __init__(self, **known: list[list[str]]) -> None:
        self._known = {name.replace("_", "."): answers for name, answers in known.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        if host not in self._known:
            return await transfer.addresses_of(host, port)
        answers = self._known[host]
        return [ip_address(one) for one in (answers.pop(0) if len(answers) > 1 else answers[0])]


async def fetched(
    url: str,
    folder: Path,
    *,
    base_url: str = HOME,
    headers: tuple[tuple[str, str], ...] = (),
    names: Names | None = None,
    **limits: Any,  # noqa: ANN401 - fields of Limits
) -> Fetched:
    return await transfer.fetch(
        Download(url, headers),
        folder / "take.mp4",
        engine="ltx2",
        base_url=base_url,
        limits=Limits(**{**LIMITS, **limits}),
        resolve=names or Names(),
    )


def _lying_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def refused(url: str, folder: Path, **given: Any) -> EngineError:  # noqa: ANN401 - as for `fetched`
    """The error of a fetching that must fail, leave nothing behind and give no secret away."""
    before = _lying_in(folder)
    with pytest.raises(EngineError) as refusal:
        await fetched(url, folder, **given)
    assert _lying_in(folder) == before
    assert SECRET not in str(refusal.value)
    assert "sig=" not in str(refusal.value)
    return refusal.value


# What arrives -------------------------------------------------------------------------------------------------------


async def test_a_result_arrives_whole_with_its_digest_size_and_type(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM, content_type="Video/MP4; codecs=avc1"))
    got = await fetched(site.url(f"/film?sig={SECRET}"), folder)
    assert got == Fetched(hashlib.sha256(FILM).hexdigest(), len(FILM), "video/mp4")
    assert _lying_in(folder) == ["take.mp4"]
    assert (folder / "take.mp4").read_bytes() == FILM
    assert site.asked[0].target == f"/film?sig={SECRET}"


async def test_a_result_without_a_type_or_a_length_is_a_result(site: Site, folder: Path) -> None:
    site.says("/film", b"HTTP/1.0 200 OK\r\n\r\n" + FILM)
    assert await fetched(site.url("/film"), folder) == Fetched(
        hashlib.sha256(FILM).hexdigest(), len(FILM), "application/octet-stream"
    )


async def test_the_bytes_are_asked_for_as_they_are(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    await fetched(site.url("/film"), folder)
    assert site.asked[0].headers["accept-encoding"] == "identity"


async def test_bytes_that_come_encoded_all_the_same_are_refused(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=gzip.compress(FILM), content_encoding="gzip"))
    assert (await refused(site.url("/film"), folder)).error_class is ErrorClass.PROVIDER_FAULT


async def test_a_stores_note_of_how_it_was_uploaded_changes_nothing(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM, content_encoding="aws-chunked"))
    assert (await fetched(site.url("/film"), folder)).bytes == len(FILM)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "application/problem+json"])
async def test_an_error_page_is_no_result(site: Site, folder: Path, kind: str) -> None:
    site.says("/film", answer(body=b"<html>sorry</html>", content_type=kind))
    error = await refused(site.url(f"/film?sig={SECRET}"), folder)
    assert error.error_class is ErrorClass.PROVIDER_FAULT
    assert kind.partition(";")[0] in str(error)


@pytest.mark.parametrize("nothing", [answer(body=b""), chunked(), answer(status=204)])
async def test_nothing_is_no_result(site: Site, folder: Path, nothing: bytes) -> None:
    site.says("/film", nothing)
    assert (await refused(site.url("/film"), folder)).error_class is ErrorClass.PROVIDER_FAULT
    assert len(site.asked) == 1


async def test_a_failure_leaves_what_was_there(site: Site, folder: Path) -> None:
    (folder / "take.mp4").write_bytes(b"earlier")
    site.says("/film", answer(body=FILM, length=len(FILM) + 1))
    await refused(site.url("/film"), folder)
    assert (folder / "take.mp4").read_bytes() == b"earlier"


async def test_a_fetching_that_is_cancelled_leaves_nothing(site: Site, folder: Path) -> None:
    half_said, let_go = threading.Event(), threading.Event()

    def half(connection: socket.socket) -> None:
        connection.sendall(answer(body=FILM, length=2 * len(FILM)))
        half_said.set()
        let_go.wait(10)

    site.says("/film", half)
    task = asyncio.create_task(fetched(site.url("/film"), folder))
    await asyncio.to_thread(half_said.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    let_go.set()
    assert _lying_in(folder) == []


async def test_a_disk_that_cannot_be_written_is_not_the_providers_fault(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    with pytest.raises(FileNotFoundError):
        await fetched(site.url("/film"), folder / "that is not there")


# How much, how long ------------------------------------------------------------------------------------------------


async def test_an_announced_size_over_the_limit_is_not_even_begun(site: Site, folder: Path) -> None:
    def announce(connection: socket.socket) -> None:
        connection.sendall(answer(length=1001))
        connection.recv(1)

    site.says("/film", announce)
    error = await refused(site.url("/film"), folder, max_bytes=1000)
    assert error.error_class is ErrorClass.PROVIDER_FAULT
    assert "1000 bytes" in str(error)


async def test_an_unannounced_size_over_the_limit_is_cut_short(site: Site, folder: Path) -> None:
    def endless(connection: socket.socket) -> None:
        connection.sendall(chunked(FILM, end=b""))
        while True:
            connection.sendall(b"%x\r\n%s\r\n" % (len(FILM), FILM))

    site.says("/film", endless)
    assert (await refused(site.url("/film"), folder)).error_class is ErrorClass.PROVIDER_FAULT
    assert await asyncio.to_thread(site.answered.acquire, timeout=10), "the server was left talking"


async def test_a_result_of_exactly_the_limit_is_fine(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    assert (await fetched(site.url("/film"), folder, max_bytes=len(FILM))).bytes == len(FILM)


async def test_a_server_that_drips_for_ever_is_left_in_the_end(site: Site, folder: Path) -> None:
    gone = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(answer(length=1_000_000))
        while not gone.wait(0.05):
            connection.sendall(b".")

    site.says("/film", drip)
    error = await refused(site.url(f"/film?sig={SECRET}"), folder, total_s=0.4)
    gone.set()
    assert error.error_class is ErrorClass.RETRY_SAFE
    assert "0.4 s" in str(error)


# Trying again ------------------------------------------------------------------------------------------------------


def _hang_up(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "failure",
    [
        answer(body=FILM, length=len(FILM) + 1),
        chunked(FILM, end=b""),
        chunked(FILM, end=b"no length\r\n"),
        b"nonsense\r\n\r\n",
        b"",
        _hang_up,
        answer(status=500),
        answer(status=503, retry_after="0.01"),
        answer(status=429),
        answer(status=408),
    ],
)
async def test_what_may_pass_is_tried_again(site: Site, folder: Path, failure: Any) -> None:  # noqa: ANN401
    site.says("/film", failure, answer(body=FILM))
    assert (await fetched(site.url("/film"), folder)).sha256 == hashlib.sha256(FILM).hexdigest()
    assert (folder / "take.mp4").read_bytes() == FILM
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    ("failure", "error_class"),
    [
        (answer(body=FILM, length=len(FILM) + 1), ErrorClass.RETRY_SAFE),
        (chunked(FILM, end=b""), ErrorClass.RETRY_SAFE),
        (answer(status=502), ErrorClass.RETRY_SAFE),
        (answer(status=429, retry_after="7200"), ErrorClass.THROTTLED),
    ],
)
async def test_what_does_not_pass_may_still_be_fetched_later(
    site: Site, folder: Path, failure: bytes, error_class: ErrorClass
) -> None:
    site.says("/film", failure)
    error = await refused(site.url(f"/film?sig={SECRET}"), folder, attempts=3, longest_pause_s=0.02)
    assert error.error_class is error_class
    assert error.retry_after_s == (7200 if error_class is ErrorClass.THROTTLED else None)
    assert "127.0.0.1" in str(error)
    assert len(site.asked) == 3


async def test_a_server_is_left_alone_for_as_long_as_it_asks(site: Site, folder: Path) -> None:
    site.says("/film", answer(status=503, retry_after="0.3"), answer(body=FILM))
    begun = time.monotonic()
    await fetched(site.url("/film"), folder)
    assert time.monotonic() - begun >= 0.3


async def test_a_server_is_not_waited_for_longer_than_makes_sense(site: Site, folder: Path) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    site.says("/film", answer(status=503, retry_after=tomorrow), answer(body=FILM))
    assert (await fetched(site.url("/film"), folder, longest_pause_s=0.1)).bytes == len(FILM)


async def test_a_result_that_stalls_is_tried_again(site: Site, folder: Path) -> None:
    let_go = threading.Event()

    def stall(connection: socket.socket) -> None:
        connection.sendall(answer(body=FILM, length=2 * len(FILM)))
        let_go.wait(10)

    site.says("/film", stall, answer(body=FILM))
    assert (await fetched(site.url("/film"), folder, stall_s=0.2)).bytes == len(FILM)
    site.says("/film", stall)
    error = await refused(site.url("/film"), folder, stall_s=0.2)
    let_go.set()
    assert error.error_class is ErrorClass.RETRY_SAFE
    assert "0.2 s" in str(error)


@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_address_that_no_longer_answers_is_expired(site: Site, folder: Path, status: int) -> None:
    site.says("/film", answer(status=status))
    assert (await refused(site.url(f"/film?sig={SECRET}"), folder)).error_class is ErrorClass.EXPIRED
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("status", "error_class"),
    [(401, ErrorClass.AUTH), (400, ErrorClass.PROVIDER_FAULT), (206, ErrorClass.PROVIDER_FAULT)],
)
async def test_other_refusals_are_final(site: Site, folder: Path, status: int, error_class: ErrorClass) -> None:
    site.says("/film", answer(status=status, body=b"{}"))
    assert (await refused(site.url("/film"), folder)).error_class is error_class
    assert len(site.asked) == 1


async def test_a_server_that_is_not_there_is_retry_safe(folder: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/film?sig={SECRET}"
        assert (await refused(url, folder)).error_class is ErrorClass.RETRY_SAFE


async def test_a_name_that_nobody_knows_is_retry_safe(folder: Path) -> None:
    async def unknown(_host: str, _port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(EngineError, match=r"media\.provider\.example") as refusal:
        await transfer.fetch(
            Download(f"https://media.provider.example/film?sig={SECRET}"),
            folder / "take.mp4",
            engine="veo",
            base_url=AWAY,
            limits=Limits(**LIMITS),
            resolve=unknown,
        )
    assert refusal.value.error_class is ErrorClass.RETRY_SAFE


async def test_the_next_address_is_tried_when_the_first_does_not_answer(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    names = Names(media_test=[["127.0.0.2", "127.0.0.1"]])
    assert (await fetched(site.url("/film", "media.test"), folder, names=names, attempts=1)).bytes == len(FILM)


# From where --------------------------------------------------------------------------------------------------------

_NOT_PUBLIC = [
    "127.0.0.1", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "[fd00::1]", "[::ffff:10.0.0.1]",
    "[64:ff9b::10.0.0.1]", "[2002:a00:1::1]", "[2001:0:a00:1::1]", "169.254.169.254", "[fe80::1]",
    "[::ffff:169.254.169.254]", "224.0.0.1", "[ff02::1]", "240.0.0.1", "255.255.255.255", "0.0.0.0",  # noqa: S104
    "0.0.0.1", "[::]", "[fec0::1]", "[::7f00:1]", "localhost",
]  # fmt: skip


@pytest.mark.parametrize("host", _NOT_PUBLIC)
async def test_nothing_is_fetched_from_inside_however_it_is_spelt(folder: Path, host: str) -> None:
    error = await refused(f"https://{host}/latest/meta-data?sig={SECRET}", folder, base_url=AWAY)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert host.strip("[]") in str(error)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "224.0.0.1", "0.0.0.0", "[::ffff:169.254.169.254]"])  # noqa: S104
async def test_some_addresses_are_nobodys_whatever_is_allowed(folder: Path, host: str) -> None:
    error = await refused(f"http://{host}/latest", folder, base_url=HOME, allow_private=True)
    assert error.error_class is ErrorClass.INVALID_INPUT


@pytest.mark.parametrize("host", ["10.0.0.1", "[fd00::1]", "169.254.169.254"])
async def test_a_provider_on_this_machine_opens_this_machine_alone(folder: Path, host: str) -> None:
    assert (await refused(f"https://{host}/film", folder, base_url=HOME)).error_class is ErrorClass.INVALID_INPUT


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        ("93.184.216.34", Reach.PUBLIC),
        ("2606:4700:4700::1111", Reach.PUBLIC),
        ("64:ff9b::5db8:d822", Reach.PUBLIC),
        ("::ffff:93.184.216.34", Reach.PUBLIC),
        ("127.8.8.8", Reach.LOOPBACK),
        ("64:ff9b::127.0.0.1", Reach.LOOPBACK),
        ("198.18.0.1", Reach.PRIVATE),
        ("192.0.0.170", Reach.PRIVATE),
        ("fd12::1", Reach.PRIVATE),
        ("2001:db8::1", Reach.PRIVATE),
        ("3fff::1", Reach.PRIVATE),
        ("5f00::1", Reach.NOWHERE),
        ("239.1.1.1", Reach.NOWHERE),
    ],
)
def test_the_reach_of_an_address(address: str, reach: Reach) -> None:
    assert reach_of(ipaddress.ip_address(address)) is reach


async def test_http_is_for_this_machine_alone(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    names = Names(media_test=[["93.184.216.34"]])
    error = await refused(f"http://media.test/film?sig={SECRET}", folder, names=names)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert "https" in str(error)
    # Of a provider elsewhere, this machine's servers are no results.
    assert (await refused(site.url("/film"), folder, base_url=AWAY)).error_class is ErrorClass.INVALID_INPUT
    assert site.asked == []


async def test_http_and_private_networks_can_be_allowed(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    assert (await fetched(site.url("/film"), folder, base_url=AWAY, allow_private=True)).bytes == len(FILM)


@pytest.mark.parametrize("addresses", [["93.184.216.34", "127.0.0.1"], ["93.184.216.34", "2606:4700::1", "10.0.0.1"]])
async def test_one_bad_address_of_a_name_spoils_it(folder: Path, addresses: list[str]) -> None:
    names = Names(media_test=[addresses])
    error = await refused("https://media.test/film", folder, base_url=AWAY, names=names)
    assert error.error_class is ErrorClass.INVALID_INPUT


async def test_a_name_that_changes_its_mind_is_connected_where_it_was_checked(site: Site, folder: Path) -> None:
    site.says("/film", answer(body=FILM))
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    assert (await fetched(site.url("/film", "rebind.test"), folder, names=names)).bytes == len(FILM)
    assert names.asked == ["rebind.test"]
    assert site.asked[0].headers["host"] == f"rebind.test:{site.port}"


async def test_every_attempt_is_checked_anew(site: Site, folder: Path) -> None:
    site.says("/film", answer(status=503))
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    error = await refused(site.url("/film", "rebind.test"), folder, names=names)
    assert error.error_class is ErrorClass.INVALID_INPUT
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@93.184.216.34/film",
        "https://127.0.0.1@93.184.216.34/film",
        "http://127.0.0.1\\@evil.example/",
        "https://93.184.216.34:25/film",
        "https://93.184.216.34:0/film",
        "https://93.184.216.34:99999/film",
        "file:///etc/passwd",
        "ftp://93.184.216.34/film",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "//93.184.216.34/film",
        "https:///film",
        "film.mp4",
        "",
    ],
)
async def test_strange_addresses_are_refused(folder: Path, url: str) -> None:
    error = await refused(url, folder, base_url=AWAY)
    assert error.error_class is ErrorClass.INVALID_INPUT


@pytest.mark.parametrize(
    "url", ["https://a b/\x00", "https://host:port/film", "https://[::1/film", "https://0177.0.0.1/"]
)
async def test_what_is_no_address_at_all_is_the_providers_fault(folder: Path, url: str) -> None:
    assert (await refused(url, folder)).error_class is ErrorClass.PROVIDER_FAULT


async def test_a_proxy_of_the_environment_is_not_asked(
    site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.says("/film", answer(body=FILM))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    names = Names(media_test=[["127.0.0.1"]])
    assert (await fetched(site.url("/film", "media.test"), folder, names=names)).bytes == len(FILM)


# Certificates ------------------------------------------------------------------------------------------------------


def _certificate(folder: Path, name: str) -> ssl.SSLContext:
    """A server's side of TLS with a certificate for this name alone, which `folder/ca.pem` makes trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(secret + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


@pytest.fixture
def trusting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """The server's side of a certificate for `media.test` that this process trusts."""
    context = _certificate(tmp_path, "media.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    wire._trusted.cache_clear()  # noqa: SLF001 - it is read once per process
    yield context
    wire._trusted.cache_clear()  # noqa: SLF001 - as above


async def test_the_certificate_is_asked_for_and_checked_by_name(trusting: ssl.SSLContext, folder: Path) -> None:
    asked: list[str | None] = []
    trusting.sni_callback = lambda _socket, name, _context: asked.append(name)
    names = Names(media_test=[["127.0.0.1"]])
    with open_site(trusting) as site:
        site.says("/film", answer(body=FILM))
        got = await fetched(site.url("/film", "media.test", "https"), folder, names=names)
    assert got.bytes == len(FILM)
    assert asked == ["media.test"]


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1"])
async def test_a_certificate_of_another_name_is_not_accepted(trusting: ssl.SSLContext, folder: Path, host: str) -> None:
    names = Names(other_test=[["127.0.0.1"]])
    with open_site(trusting) as site:
        error = await refused(site.url(f"/film?sig={SECRET}", host, "https"), folder, names=names)
        assert site.asked == []
    assert error.error_class is ErrorClass.RETRY_SAFE
    assert "certificate" in str(error)


# Redirects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(site: Site, folder: Path, status: int) -> None:
    site.says("/film", answer(status=status, location="../there/film?x=1"))
    site.says("/there/film", answer(body=FILM))
    assert (await fetched(site.url("/film"), folder)).bytes == len(FILM)
    assert site.asked[1].target == "/there/film?x=1"


async def test_redirects_end_somewhere(site: Site, folder: Path) -> None:
    for number in range(6):
        site.says(f"/{number}", answer(status=302, location=f"/{number + 1}"))
    site.says("/5", answer(body=FILM))
    assert (await fetched(site.url("/0"), folder)).bytes == len(FILM)
    site.says("/5", answer(status=302, location=f"/0?sig={SECRET}"))
    site.asked.clear()
    assert (await refused(site.url("/0"), folder)).error_class is ErrorClass.PROVIDER_FAULT
    assert len(site.asked) == 6


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest",
        "http://93.184.216.34/film",
        "https://10.0.0.1/film",
        "file:///etc/passwd",
        "data:video/mp4;base64,AAAA",
        f"//user:{SECRET}@93.184.216.34/film",
        "https://93.184.216.34:22/",
    ],
)
async def test_a_redirect_leads_nowhere_that_an_address_may_not(site: Site, folder: Path, location: str) -> None:
    site.says("/film", answer(status=302, location=location))
    assert (await refused(site.url("/film"), folder)).error_class is ErrorClass.INVALID_INPUT


@pytest.mark.parametrize("location", ["https://[::1/film", "https://host:port/"])
async def test_a_redirect_to_no_address_is_the_providers_fault(site: Site, folder: Path, location: str) -> None:
    site.says("/film", answer(status=302, location=location))
    assert (await refused(site.url("/film"), folder)).error_class is ErrorClass.PROVIDER_FAULT


async def test_a_key_stays_with_the_host_that_asked_for_it(site: Site, other_site: Site, folder: Path) -> None:
    site.says("/film", answer(status=302, location="/again"))
    site.says("/again", answer(status=302, location=other_site.url("/film")))
    other_site.says("/film", answer(status=302, location=site.url("/back")))
    site.says("/back", answer(body=FILM))
    await fetched(site.url("/film"), folder, headers=(("X-Goog-Api-Key", SECRET),))
    assert [asked.headers.get("x-goog-api-key") for asked in site.asked] == [SECRET, SECRET, None]
    assert "x-goog-api-key" not in other_site.asked[0].headers


async def test_a_key_goes_along_again_with_the_next_attempt(site: Site, other_site: Site, folder: Path) -> None:
    site.says("/film", answer(status=302, location=other_site.url("/film")))
    other_site.says("/film", answer(status=503), answer(body=FILM))
    await fetched(site.url("/film"), folder, headers=(("X-Goog-Api-Key", SECRET),))
    assert [asked.headers.get("x-goog-api-key") for asked in site.asked] == [SECRET, SECRET]
    assert all("x-goog-api-key" not in asked.headers for asked in other_site.asked)


async def test_cookies_of_one_hop_do_not_reach_the_next(site: Site, folder: Path) -> None:
    site.says("/film", answer(status=302, location="/there", set_cookie="session=1; Path=/"))
    site.says("/there", answer(body=FILM))
    await fetched(site.url("/film"), folder)
    assert "cookie" not in site.asked[1].headers


# Results that lie in their address ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "data:video/mp4;base64," + base64.b64encode(FILM).decode(),
        "DATA:video/mp4;base64," + base64.b64encode(FILM).decode().replace("+", "%2B"),
        "data:video/mp4," + "".join(f"%{byte:02x}" for byte in FILM),
    ],
)
async def test_a_result_may_lie_in_its_address(folder: Path, url: str) -> None:
    got = await fetched(url, folder, base_url=AWAY, max_bytes=len(FILM))
    assert got == Fetched(hashlib.sha256(FILM).hexdigest(), len(FILM), "video/mp4")
    assert (folder / "take.mp4").read_bytes() == FILM


@pytest.mark.parametrize(
    "url",
    [
        "data:video/mp4;base64," + base64.b64encode(FILM + b"more").decode(),
        "data:video/mp4," + "x" * (len(FILM) + 1),
        "data:text/html;base64,PGh0bWw+",
        "data:video/mp4;base64,no base64 at all!",
        "data:video/mp4;base64",
        "data:video/mp4;base64,",
    ],
)
async def test_an_address_that_holds_no_result_is_refused(folder: Path, url: str) -> None:
    assert (await refused(url, folder, max_bytes=len(FILM))).error_class is ErrorClass.PROVIDER_FAULT


# Memory ------------------------------------------------------------------------------------------------------------

_MIB = 1024 * 1024
_FETCHER = """
import asyncio, json, re, sys
from pathlib import Path
from moltpipe.engines.protocols import Download
from moltpipe.engines.transfer import Limits, fetch

def peak():
    # Not getrusage: a child begins with the peak of the process that it was forked from.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

url, target = sys.argv[1:]
async def main():
    before = peak()
    limits = Limits(max_bytes=2**31, allow_private=False)
    got = await fetch(Download(url), Path(target), engine="ltx2", base_url=url, limits=limits)
    print(json.dumps({"bytes": got.bytes, "raised": peak() - before}))
asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's own peak is read from /proc")
def test_a_gibibyte_takes_less_than_a_hundred_mebibytes_of_memory(site: Site, folder: Path) -> None:
    def gibibyte(connection: socket.socket) -> None:
        block = bytes(_MIB)
        connection.sendall(answer(length=1024 * _MIB))
        for _ in range(1024):
            connection.sendall(block)

    site.says("/film", gibibyte)
    child = subprocess.run(
        [sys.executable, "-c", _FETCHER, site.url("/film"), str(folder / "take.mp4")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    (folder / "take.mp4").unlink()
    assert found["bytes"] == 1024 * _MIB
    assert found["raised"] < 100 * _MIB
