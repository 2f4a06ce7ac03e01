"""Webhooks: whether one is what its provider signed, and the few words of it that are worth keeping.

Here: signatures, their age, and the id, status and call that an event names. Not here: HTTP (`runtime.webhooks`),
the inbox (`ledger.inbox`). Nothing else of an event is read: its body holds inputs and signed addresses.

The incident behind it: a webhook without a signature check, through which anybody could fail a whole job.

The scheme of Replicate is that of `standardwebhooks` on PyPI, which is alive. It is not used: a header that is
malformed makes it fail with whatever its parser raises, it asks the machine's clock itself, and the other provider
needs a scheme of its own anyway.

Sources: https://replicate.com/docs/topics/webhooks/verify-webhook ,
https://replicate.com/docs/topics/webhooks/receive-webhook , https://developers.heygen.com/docs/webhooks ,
https://developers.heygen.com/docs/webhook-events .
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

TOLERANCE = timedelta(minutes=5)
"""How far a webhook's time may lie from ours, in either direction."""

_KEY_PREFIX = "whsec_"
_NAME = re.compile(r"[\x21-\x7e]{1,200}")


class Forged(Exception):
    """A webhook is not signed with our secret, or not lately. The text holds no signature."""


class Unreadable(Exception):
    """A webhook is signed, and still not what its provider documents. The text names field and rule."""


@dataclass(frozen=True)
class Notice:
    """What a provider says of one of its jobs."""

    provider: str
    event_id: str
    """The same for every delivery of one event."""
    external_id: str
    status: str
    """The provider's own word."""
    call_id: UUID | None
    """The call that the job was made for, where the event names it."""


def replicate_key(secret: str) -> bytes:
    """The key in a secret such as `whsec_C2FV…`, from `GET /v1/webhooks/default/secret`.

    Raises:
        ValueError: it is none. The text does not show it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(_KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ValueError(f"expected {_KEY_PREFIX} and base64, as Replicate's API gives it")
    return key


def heygen_key(secret: str) -> bytes:
    """The key in a secret that HeyGen showed once: all of it as it stands, with its `whsec_`."""
    return secret.encode()


def replicate_notice(
    key: bytes, headers: Mapping[str, str], query: Mapping[str, str], body: bytes, now: datetime
) -> Notice:
    """The prediction that Replicate tells of. Names of `headers` are in lower case.

    Signature and time cover the id of the event, so that a replay cannot pass for news. They do not cover `query`,
    where our own call's id travels.

    Raises:
        Forged, Unreadable.
    """
    event_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    expected = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    signatures = [entry.removeprefix("v1,") for entry in headers.get("webhook-signature", "").split(" ")
                  if entry.startswith("v1,")]  # fmt: skip
    _refuse_unless_any(base64.b64encode(expected), signatures)
    _refuse_unless_recent(timestamp, now)
    prediction = _object(body)
    return Notice(
        "replicate",
        _name("webhook-id", event_id),
        _name("id", prediction.get("id")),
        _name("status", prediction.get("status")),
        _our_call(query.get("call")),
    )


def heygen_notice(
    key: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, str],  # noqa: ARG001 - as every provider's; HeyGen sends our reference in the body
    body: bytes,
    now: datetime,
) -> Notice | None:
    """The video that HeyGen tells of; None for an event about something else. Names of `headers` are in lower case.

    An event is told from another by kind and video, which are signed, and not by `Heygen-Event-Id`, which is not:
    whoever had seen one delivery could fill the inbox with it. `Heygen-Timestamp` is not signed either; it keeps
    out what is merely late. The older API sends neither, and its signature under another name.

    Raises:
        Forged, Unreadable.
    """
    signature = headers.get("heygen-signature") or headers.get("signature") or ""
    expected = hmac.new(key, body, hashlib.sha256).hexdigest().encode()
    _refuse_unless_any(expected, [signature.strip().lower()])
    if "heygen-timestamp" in headers:
        _refuse_unless_recent(headers["heygen-timestamp"], now)
    event = _object(body)
    told = event.get("event_data", event.get("data"))
    if not isinstance(told, dict):
        raise Unreadable("event_data: expected an object")
    if told.get("video_id") is None:
        return None
    video = _name("event_data.video_id", told["video_id"])
    kind = _name("event_type", event.get("event_type") or told.get("status"))
    return Notice("heygen", f"{kind}:{video}", video, kind, _call_or_none(told.get("callback_id")))


def _refuse_unless_any(expected: bytes, given: list[str]) -> None:
    if not any(hmac.compare_digest(expected, one.encode()) for one in given):
        raise Forged("no signature of this body with our secret")


def _refuse_unless_recent(timestamp: str, now: datetime) -> None:
    if not re.fullmatch(r"[0-9]{1,11}", timestamp):
        raise Forged("the timestamp is none: expected seconds since 1970")
    if abs(now - datetime.fromtimestamp(int(timestamp), UTC)) > TOLERANCE:
        raise Forged(f"the timestamp is more than {TOLERANCE.total_seconds() / 60:g} minutes away from now")


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable("the body: expected JSON") from None
    if not isinstance(document, dict):
        raise Unreadable("the body: expected a JSON object")
    return document


def _name(field: str, value: object) -> str:
    """An id or a word that fits into an index and a notification."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unreadable(f"{field}: expected 1 to 200 printable ASCII characters")
    return value


def _our_call(text: str | None) -> UUID | None:
    """Our own reference in an address of ours: a wrong one is an error."""
    call = _call_or_none(text)
    if text is not None and call is None:
        raise Unreadable("call: expected a UUID")
    return call


def _call_or_none(text: object) -> UUID | None:
    """A reference that may be somebody else's: an account's webhook gets the events of all its users."""
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None
