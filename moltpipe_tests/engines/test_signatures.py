from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import hypothesis
import pytest
from hypothesis import strategies as st

from moltpipe.engines.signatures import (
    TOLERANCE,
    Forged,
    Notice,
    Unreadable,
    heygen_key,
    heygen_notice,
    replicate_key,
    replicate_notice,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
HEYGENS = "whsec_not_base64!"
CALL = UUID("5f2d9a52-6a0e-4c7e-9f2b-0d7c1f6f2b11")
PREDICTION = b'{"id": "p1", "status": "succeeded", "input": {"prompt": "a lamp"}, "output": "https://cdn/x?sig=1"}'
VIDEO = json.dumps(
    {
        "event_type": "avatar_video.success",
        "event_data": {"video_id": "v1", "callback_id": str(CALL), "url": "https://x"},
    }
).encode()


def signed(body: bytes, *, event_id: str = "msg_1", at: datetime = NOW, key: bytes = KEY) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    digest = hmac.digest(key, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def signed_by_heygen(body: bytes, *, shared: str = HEYGENS, at: datetime | None = NOW) -> dict[str, str]:
    headers = {"heygen-signature": hmac.new(shared.encode(), body, hashlib.sha256).hexdigest()}
    return headers if at is None else {**headers, "heygen-timestamp": str(int(at.timestamp()))}


def replicate(headers: dict[str, str], body: bytes = PREDICTION, **query: str) -> Notice:
    return replicate_notice(replicate_key(SECRET), headers, query, body, NOW)


def heygen(headers: dict[str, str], body: bytes = VIDEO) -> Notice | None:
    return heygen_notice(heygen_key(HEYGENS), headers, {}, body, NOW)


def test_the_published_example_of_the_scheme_is_genuine() -> None:
    """Source: the example in Svix's documentation of this scheme; its body is no prediction."""
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    key = replicate_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    with pytest.raises(Unreadable, match=r"^id: "):
        replicate_notice(key, headers, {}, b'{"test": 2432232314}', datetime.fromtimestamp(1614265330, UTC))


def test_of_a_prediction_id_status_and_call_are_kept() -> None:
    notice = replicate(signed(PREDICTION), call=str(CALL))
    assert notice == Notice("replicate", "msg_1", "p1", "succeeded", CALL)


def test_a_prediction_without_a_call_is_taken() -> None:
    assert replicate(signed(PREDICTION)).call_id is None


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_good_signature_among_several_is_enough(position: int) -> None:
    headers = signed(PREDICTION)
    entries = ["v1,bm90IHRoaXM=", "v2,bm9yIHRoaXM="]
    entries.insert(position, headers["webhook-signature"])
    assert replicate({**headers, "webhook-signature": " ".join(entries)}).external_id == "p1"


def _without(name: str) -> dict[str, str]:
    return {key: value for key, value in signed(PREDICTION).items() if key != name}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        signed(PREDICTION, key=b"another key"),
        signed(b"{}"),
        {**signed(PREDICTION), "webhook-id": "msg_2"},
        {**signed(PREDICTION), "webhook-timestamp": str(int(NOW.timestamp()) + 1)},
        {**signed(PREDICTION), "webhook-signature": signed(PREDICTION)["webhook-signature"].replace("v1,", "v2,")},
        {**signed(PREDICTION), "webhook-signature": "v1"},
        {**signed(PREDICTION), "webhook-signature": "v1,ÿ v1, ,,"},
        *(_without(name) for name in signed(PREDICTION)),
    ],
)
def test_what_is_not_signed_with_our_secret_is_forged(headers: dict[str, str]) -> None:
    with pytest.raises(Forged):
        replicate(headers)


@pytest.mark.parametrize("away", [TOLERANCE + timedelta(seconds=1), -TOLERANCE - timedelta(seconds=1)])
def test_what_is_too_old_or_from_the_future_is_forged(away: timedelta) -> None:
    with pytest.raises(Forged, match="5 minutes"):
        replicate(signed(PREDICTION, at=NOW + away))
    with pytest.raises(Forged, match="5 minutes"):
        heygen(signed_by_heygen(VIDEO, at=NOW + away))


@pytest.mark.parametrize("away", [TOLERANCE, -TOLERANCE])
def test_within_the_tolerance_clocks_may_differ(away: timedelta) -> None:
    assert replicate(signed(PREDICTION, at=NOW + away)).external_id == "p1"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"not JSON", "the body"),
        (b"\xff\xfe", "the body"),
        (b"[" * 100_000, "the body"),
        (b"[]", "the body"),
        (b'{"status": "succeeded"}', "id"),
        (b'{"id": 7, "status": "succeeded"}', "id"),
        (b'{"id": "a b", "status": "succeeded"}', "id"),
        (b'{"id": "\\u0000", "status": "succeeded"}', "id"),
        (json.dumps({"id": "p" * 201, "status": "succeeded"}).encode(), "id"),
        (b'{"id": "p1"}', "status"),
    ],
)
def test_a_prediction_that_is_none_is_named_by_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unreadable, match=rf"^{field}: expected "):
        replicate(signed(body), body)


def test_a_call_that_is_no_uuid_is_unreadable() -> None:
    with pytest.raises(Unreadable, match=r"^call: expected a UUID"):
        replicate(signed(PREDICTION), call="7")


@pytest.mark.parametrize("given", ["", "whsec_", "whsec_abc", "whsec_äöü", "r8_of another kind"])
def test_a_secret_that_is_none_is_refused_without_being_shown(given: str) -> None:
    with pytest.raises(ValueError, match=r"^expected whsec_ and base64") as refusal:
        replicate_key(given)
    assert given in ("", "whsec_") or given not in str(refusal.value)


def test_of_a_video_id_kind_and_call_are_kept() -> None:
    notice = heygen(signed_by_heygen(VIDEO))
    assert notice == Notice("heygen", "avatar_video.success:v1", "v1", "avatar_video.success", CALL)


def test_the_older_api_signs_under_another_name_and_without_time() -> None:
    signature = signed_by_heygen(VIDEO, at=None)["heygen-signature"]
    assert heygen({"signature": signature.upper()}) == heygen(signed_by_heygen(VIDEO))


def test_the_older_apis_words_are_understood() -> None:
    body = json.dumps({"data": {"video_id": "v1", "status": "completed", "callback_id": str(CALL)}}).encode()
    assert heygen(signed_by_heygen(body), body) == Notice("heygen", "completed:v1", "v1", "completed", CALL)


def test_a_replay_under_another_event_id_is_the_same_event() -> None:
    headers = signed_by_heygen(VIDEO)
    first = heygen({**headers, "heygen-event-id": "evt_1"})
    replayed = heygen({**headers, "heygen-event-id": "evt_2"})
    assert first is not None
    assert first == replayed


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"heygen-signature": ""},
        {"heygen-signature": "ÿ"},
        signed_by_heygen(VIDEO, shared="another"),
        signed_by_heygen(b"{}"),
        {**signed_by_heygen(VIDEO), "heygen-timestamp": "yesterday"},
        {"heygen-signature": "0" * 64, "signature": signed_by_heygen(VIDEO)["heygen-signature"]},
    ],
)
def test_what_heygen_did_not_sign_is_forged(headers: dict[str, str]) -> None:
    with pytest.raises(Forged):
        heygen(headers)


def test_an_event_about_something_else_is_no_notice() -> None:
    body = b'{"event_type": "instant_avatar.success", "event_data": {"avatar_id": "a1"}}'
    assert heygen(signed_by_heygen(body), body) is None


def test_somebody_elses_reference_is_left_out() -> None:
    body = b'{"event_type": "avatar_video.fail", "event_data": {"video_id": "v2", "callback_id": "order 7"}}'
    assert heygen(signed_by_heygen(body), body) == Notice(
        "heygen", "avatar_video.fail:v2", "v2", "avatar_video.fail", None
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", "event_data"),
        (b'{"event_data": "v1"}', "event_data"),
        (b'{"event_data": {"video_id": "v1"}}', "event_type"),
        (b'{"event_type": "avatar_video.fail", "event_data": {"video_id": 7}}', "event_data.video_id"),
    ],
)
def test_a_video_that_is_none_is_named_by_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unreadable, match=rf"^{field}: expected "):
        heygen(signed_by_heygen(body), body)


@hypothesis.given(body=st.binary(max_size=200), changed=st.binary(max_size=200), key=st.binary(min_size=1, max_size=64))
def test_a_changed_body_is_always_forged(body: bytes, changed: bytes, key: bytes) -> None:
    headers = signed(body, event_id=str(uuid4()), key=key)
    try:
        replicate_notice(key, headers, {}, changed, NOW)
    except Forged:
        assert body != changed
    except Unreadable:
        assert body == changed
