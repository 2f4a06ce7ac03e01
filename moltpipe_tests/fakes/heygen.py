"""HeyGen's version 3: ordering, looking at and listing videos, films behind signed addresses, webhooks.

An engine's `base_url` is the server's address with `/heygen`, with or without a version. Strict as the real one is: a
field that it does not know is a 400. It fetches the voiceover when a video is ordered, and refuses the order when it
cannot: a link that works only on the engine's side is found out. The film lasts as long as the voiceover, if that is
sound, else `SILENT_S`. An `Idempotency-Key` gives the first answer again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import re
import secrets
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from moltpipe.media.errors import MediaError
from moltpipe.media.probe import probe
from moltpipe_tests.fakes.media import clip
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

SILENT_S = 4.0
WEBHOOK_SECRET = "whsec_of_the_fake_heygen"  # noqa: S105 - guards nothing

_FIELDS = {
    "type", "avatar_id", "audio_url", "audio_asset_id", "script", "voice_id", "title", "resolution", "aspect_ratio",
    "output_format", "background", "callback_url", "callback_id", "engine", "fit",
}  # fmt: skip
_SIZES = {"16:9": (640, 360), "9:16": (360, 640)}
_CODES = {
    401: (401, "unauthorized"),
    402: (402, "insufficient_credit"),
    404: (404, "video_not_found"),
    409: (409, "request_in_progress"),
    422: (400, "invalid_parameter"),
    429: (429, "rate_limit_exceeded"),
    503: (503, "service_unavailable"),
}
_DELIVERIES = 3


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.document)
        self.answer = answer


@dataclass
class _Video:
    id: str
    body: dict[str, Any]
    seconds: float
    accepted_at: float
    ready_at: float
    created_at: int
    failure: dict[str, str] | None = None
    strange_looks: int = 0
    signature: str = field(default_factory=lambda: secrets.token_hex(16))


class FakeHeygen(Provider):
    """Videos are done `latency_s` after they were accepted. Any key is right unless a fault says otherwise."""

    prefix = "heygen"

    def __init__(self, latency_s: float = 0.2, webhook_secret: str = WEBHOOK_SECRET) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.webhook_secret = webhook_secret
        self.lists = True
        """Whether there is a listing at all."""
        self.page = 100
        """The most that a page of the listing holds."""
        self.delivered = threading.Semaphore(0)
        """Released once for every webhook that was delivered or given up."""
        self._videos: dict[str, _Video] = {}
        self._answers: dict[str, Answer] = {}

    def handle(self, seen: Seen) -> Answer:
        if seen.path.startswith("/media/"):
            return self._film(seen)
        if not seen.headers.get("x-api-key"):
            return self.refusal(401, "Unauthorized")
        self._settle()
        if seen.path == "/v3/videos" and seen.method == "POST":
            return self._first_answer(seen)
        if seen.path == "/v3/videos" and seen.method == "GET" and self.lists:
            return self._listing(seen)
        video = re.fullmatch(r"/v3/videos/([\w-]+)", seen.path)
        if video and seen.method == "GET":
            return self._look(video[1])
        return self.refusal(404, "Not found")

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        status, code = _CODES.get(status, (status, "internal_error"))
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        doc = f"https://developers.heygen.com/docs/error-codes#{code.replace('_', '-')}"
        return Answer(status, {"error": {"code": code, "message": what, "doc_url": doc}}, headers=headers)

    def _first_answer(self, seen: Seen) -> Answer:
        key = seen.headers.get("idempotency-key", "")
        with self.lock:
            if key in self._answers:
                return self._answers[key]
        return self.at_the_door(lambda: self._order(seen, key))

    def _order(self, seen: Seen, key: str) -> Answer:
        try:
            body = self._checked(seen.json())
            seconds = self._heard(body)
        except _Refused as refused:
            return refused.answer
        video = self._begun(body, seconds)
        answer = Answer(200, {"data": {"video_id": video.id, "status": "waiting", "output_format": "mp4"}})
        with self.lock:
            self._videos[video.id] = video
            self.accept(_input(body), video.id)
            if key:
                self._answers[key] = answer
        if body.get("callback_url") and video.ready_at != float("inf"):
            teller = threading.Timer(self.latency_s, self._tell, [video])
            teller.daemon = True
            teller.start()
        return answer

    def _begun(self, body: dict[str, Any], seconds: float) -> _Video:
        now = time.monotonic()
        fails = self.taken(Fault.JOB_FAILS)
        failure = None
        if self.taken(Fault.FILTERED) is not None:
            failure = {"failure_code": "moderation_failed", "failure_message": "The content violates our policies."}
        elif fails is not None:
            message = fails.get("message", "Avatar rendering timed out")
            failure = {"failure_code": fails.get("code", "rendering_failed"), "failure_message": message}
        strange = self.taken(Fault.UNKNOWN_STATUS)
        never = self.taken(Fault.NEVER_ENDS) is not None
        return _Video(
            id=secrets.token_hex(16),
            body=body,
            seconds=seconds,
            accepted_at=now,
            ready_at=float("inf") if never else now + self.latency_s,
            created_at=int(time.time()),
            failure=failure,
            strange_looks=0 if strange is None else strange.get("looks", 1),
        )

    def _checked(self, body: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was sent
        for name in sorted(set(body) - _FIELDS):
            raise _Refused(self.refusal(422, f"{name}: Extra inputs are not permitted"))
        if body.get("type") != "avatar" or not body.get("avatar_id"):
            raise _Refused(self.refusal(422, "type, avatar_id: expected an avatar"))
        if len({"audio_url", "audio_asset_id", "script"} & set(body)) != 1:
            raise _Refused(self.refusal(422, "Exactly one of script, audio_url and audio_asset_id is required"))
        if body.get("aspect_ratio", "16:9") not in _SIZES or body.get("resolution", "1080p") not in ("720p", "1080p"):
            raise _Refused(self.refusal(422, "aspect_ratio, resolution: not among the supported values"))
        return dict(body)

    def _heard(self, body: dict[str, Any]) -> float:
        """Seconds of the voiceover, fetched from where the request says that it lies."""
        if "audio_url" not in body:
            return SILENT_S
        try:
            sound = httpx.get(body["audio_url"], trust_env=False, timeout=10).raise_for_status().content
        except httpx.HTTPError as failure:
            told = {"code": "download_failed", "message": f"Failed to download audio_url: {type(failure).__name__}"}
            raise _Refused(Answer(400, {"error": told})) from None
        with tempfile.NamedTemporaryFile() as file:
            file.write(sound)
            file.flush()
            try:
                return probe(Path(file.name)).duration_seconds
            except MediaError:
                return SILENT_S

    def _look(self, video_id: str) -> Answer:
        failing = self.taken(Fault.POLL_FAILS)
        if failing is not None:
            return self.refusal(failing.get("status", 500), "The look failed.")
        with self.lock:
            video = self._videos.get(video_id)
            if video is None:
                return self.refusal(404, f"Video {video_id} not found")
            if video.strange_looks:
                video.strange_looks -= 1
                return Answer(200, {"data": {"id": video.id, "status": "Daydreaming"}})
        return Answer(200, {"data": self._detail(video)})

    def _detail(self, video: _Video) -> dict[str, Any]:
        detail = {"id": video.id, "title": video.body.get("title"), "created_at": video.created_at}
        now = time.monotonic()
        if now < video.ready_at:
            begins_at = video.accepted_at + self.latency_s / 4
            return {**detail, "status": "pending" if now < begins_at else "processing"}
        if video.failure is not None:
            return {**detail, "status": "failed", **video.failure}
        done = {"status": "completed", "video_url": self._address(video), "duration": round(video.seconds, 3)}
        return {**detail, **done, "completed_at": int(time.time())}

    def _listing(self, seen: Seen) -> Answer:
        first, limit = int(seen.query.get("token", 0)), min(int(seen.query.get("limit", 10)), self.page)
        with self.lock:
            newest_first = sorted(self._videos.values(), key=lambda one: -one.accepted_at)
        wanted = [one for one in newest_first if seen.query.get("title", "") in (one.body.get("title") or "")]
        has_more = first + limit < len(wanted)
        document = {"data": [self._detail(one) for one in wanted[first : first + limit]], "has_more": has_more}
        return Answer(200, {**document, "next_token": str(first + limit) if has_more else None})

    def _address(self, video: _Video) -> str:
        return f"{self.base}/media/{video.id}.mp4?sig={video.signature}"

    def _film(self, seen: Seen) -> Answer:
        video = self._videos.get(seen.path.removeprefix("/media/").removesuffix(".mp4"))
        if video is None or seen.query.get("sig") != video.signature:
            return Answer(403, content=b"<Error><Code>AccessDenied</Code></Error>")
        width, height = _SIZES[video.body.get("aspect_ratio", "16:9")]
        return self.media(clip(round(video.seconds, 3), width, height, rate=25, seed=30), "video/mp4")

    def _tell(self, video: _Video) -> None:
        """Deliver the webhook, signed with all that HeyGen documents."""
        told = {"video_id": video.id, "callback_id": video.body.get("callback_id")}
        if video.failure is None:
            event = {"event_type": "avatar_video.success", "event_data": {**told, "url": self._address(video)}}
        else:
            event = {"event_type": "avatar_video.fail", "event_data": {**told, "msg": video.failure["failure_message"]}}
        body = json.dumps(event).encode()
        headers = {
            "content-type": "application/json",
            "heygen-signature": hmac.new(self.webhook_secret.encode(), body, hashlib.sha256).hexdigest(),
            "heygen-timestamp": str(int(time.time())),
            "heygen-event-id": f"evt_{video.id}",
        }
        for _ in range(_DELIVERIES):
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.post(
                    video.body["callback_url"], content=body, headers=headers, trust_env=False, timeout=10
                )
                if answer.is_success:
                    break
            time.sleep(self.latency_s)
        self.delivered.release()

    def _settle(self) -> None:
        with self.lock:
            for video in self._videos.values():
                if video.ready_at <= time.monotonic():
                    self.over(video.id)


def _input(body: dict[str, Any]) -> dict[str, Any]:
    """What an order is for, without what differs between two orders of the same: references and signatures."""
    kept = {name: value for name, value in body.items() if not name.startswith("callback_")}
    without_reference = re.sub(r"\s*[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", kept.get("title") or "")
    return {**kept, "title": without_reference, "audio_url": urlsplit(kept.get("audio_url") or "").path}
