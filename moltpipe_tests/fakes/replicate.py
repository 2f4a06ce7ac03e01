"""A small Replicate: predictions of a few models, their list, deadlines, webhooks with real signatures, and files.

As strict as the real one: an input that a model does not have is refused with 422, a missing key with 401, and its
errors are problem documents. Its list is newest first, in pages, with inputs or without. What the documentation leaves
open (what cancelling a prediction that is over answers, the words of most refusals) is made up here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import httpx

from moltpipe_tests.fakes.media import clip, music
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

WEBHOOK_SECRET = f"whsec_{base64.b64encode(b'the secret of a small Replicate').decode()}"
MUSICGEN = "671ac645ce5e552cc63a54a2bbff63fcf798043055d2dac5fc9e36a837eedcfb"
PLAIN = "c0ffee" * 10 + "c0de"
"""Version of a model that takes a prompt and nothing else."""

_OVER = ("succeeded", "failed", "canceled", "aborted")
_PROBLEM = {"content-type": "application/problem+json"}
_REQUEST_FIELDS = frozenset({"input", "webhook", "webhook_events_filter", "stream", "version"})
_WORDS = {
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: ("Insufficient credit", "You have insufficient credit to run this model."),
    404: ("Not found", "The requested resource could not be found."),
    422: ("Input validation failed", "- input: something about it is wrong"),
    429: ("Too many requests", "Request was throttled. Your rate limit resets in ~1s."),
    500: ("Internal server error", "Something went wrong on our side."),
    503: ("Service unavailable", "The service is temporarily unavailable."),
}

Rule = Callable[[Any], bool]


def _one_of(*values: object) -> Rule:
    return lambda given: given in values and not isinstance(given, bool)


def _text(given: object) -> bool:
    return isinstance(given, str)


def _truth(given: object) -> bool:
    return isinstance(given, bool)


def _whole(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= 0


_VEO: Mapping[str, Rule] = {
    "prompt": _text,
    "negative_prompt": _text,
    "image": _text,
    "last_frame": _text,
    "aspect_ratio": _one_of("16:9", "9:16"),
    "duration": _one_of(4, 6, 8),
    "resolution": _one_of("720p", "1080p"),
    "generate_audio": _truth,
    "seed": _whole,
}
_HAILUO: Mapping[str, Rule] = {
    "prompt": _text,
    "first_frame_image": _text,
    "last_frame_image": _text,
    "duration": _one_of(6, 10),
    "resolution": _one_of("512p", "768p", "1080p"),
    "prompt_optimizer": _truth,
}
_MUSICGEN: Mapping[str, Rule] = {
    "prompt": _text,
    "model_version": _one_of("stereo-melody-large", "stereo-large", "melody-large", "large"),
    "duration": _whole,
    "output_format": _one_of("wav", "mp3"),
    "normalization_strategy": _one_of("loudness", "clip", "peak", "rms"),
    "seed": _whole,
}
OFFICIAL: Mapping[str, Mapping[str, Rule]] = {
    "google/veo-3": _VEO,
    "google/veo-3-fast": _VEO,
    "google/veo-3.1": _VEO,
    "google/veo-3.1-fast": _VEO,
    "minimax/hailuo-02": _HAILUO,
    "minimax/hailuo-2.3": _HAILUO,
    "somebody/plain-film": {"prompt": _text},
}
VERSIONS: Mapping[str, tuple[str, Mapping[str, Rule]]] = {
    MUSICGEN: ("meta/musicgen", _MUSICGEN),
    PLAIN: ("somebody/plain-film", {"prompt": _text}),
}


@dataclass
class Prediction:
    """One prediction. Moments are monotonic seconds; `created_at` is what the world sees."""

    id: str
    model: str
    version: str
    given: dict[str, Any]
    created_at: datetime
    created: float
    starts: float | None
    """None: it stays in the queue."""
    ends: float | None
    """None: it never ends by itself."""
    deadline: float | None = None
    fate: str = "succeeded"
    error: str | None = None
    status: str = "starting"
    source: str = "api"
    webhook: str | None = None
    odd_looks: int = 0
    data_removed: bool = False
    signature: str = field(default_factory=lambda: secrets.token_hex(8))

    def settle(self, now: float) -> None:
        """Bring the status up to date."""
        if self.status in _OVER:
            return
        if self.ends is not None and now >= self.ends and (self.deadline is None or self.ends <= self.deadline):
            self.status = self.fate
        elif self.deadline is not None and now >= self.deadline:
            self.status = "aborted" if self.starts is None or self.starts > self.deadline else "canceled"
        elif self.starts is not None and now >= self.starts:
            self.status = "processing"

    @property
    def over_at(self) -> float | None:
        """When it will be over by itself."""
        return min((moment for moment in (self.ends, self.deadline) if moment is not None), default=None)


class FakeReplicate(Provider):
    """Speaks Replicate's HTTP API under `/v1`.

    Faults beside the common ones: `JOB_FAILS` takes `code` or `error`; `NEVER_ENDS` takes `started=False` for a
    prediction that stays in the queue, which its deadline then aborts.
    """

    prefix = "replicate"

    def __init__(
        self,
        *,
        latency_s: float = 0.2,
        key: str | None = None,
        webhook_secret: str = WEBHOOK_SECRET,
        webhook_early: bool = False,
        webhook_times: int = 1,
        page_size: int = 100,
        listing_lag_s: float = 0.0,
        lists_inputs: bool = True,
        hurry: float = 1.0,
        size: tuple[int, int] = (320, 180),
    ) -> None:
        """A small Replicate.

        `key` is the only one that is let in, None lets in any. `webhook_early` sends a prediction's webhook before
        its creation is answered. `listing_lag_s` is how much later than its creation the list shows a prediction.
        `lists_inputs` False makes the list leave out inputs, and whether they are removed, as some of the
        documentation's examples do. `hurry` is by how much deadlines run faster than their header says. `size` is
        that of every film, in pixels.
        """
        super().__init__()
        self.latency_s = latency_s
        self.key = key
        self.webhook_secret = webhook_secret
        self.webhook_early = webhook_early
        self.webhook_times = webhook_times
        self.page_size = page_size
        self.listing_lag_s = listing_lag_s
        self.lists_inputs = lists_inputs
        self.hurry = hurry
        self.size = size
        self.lists = True
        """False for one without a list: 404."""
        self.delivered: list[tuple[str, int]] = []
        """Address and answer of every webhook that was answered."""
        self.predictions: dict[str, Prediction] = {}

    # For tests ----------------------------------------------------------------------------------------------------

    def remove_data(self, job: str) -> None:
        """What the real one does an hour after a prediction."""
        with self.lock:
            self.predictions[job].data_removed = True

    def made_elsewhere(
        self, given: Mapping[str, Any], model: str, *, source: str = "api", age: timedelta = timedelta(0)
    ) -> str:
        """A finished prediction that this account made without us, and paid; not on our bill."""
        name, _, version = model.partition(":")
        made = self._new(name, version or "hidden", dict(given))
        made.source, made.status, made.created_at = source, "succeeded", made.created_at - age
        self.predictions[made.id] = made
        return made.id

    # The API ------------------------------------------------------------------------------------------------------

    def handle(self, seen: Seen) -> Answer:
        if seen.path.startswith("/media/"):
            return self._file(seen)
        scheme, _, key = seen.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or not key or (self.key is not None and key != self.key):
            return self.refusal(401, "")
        match seen.method, seen.path.strip("/").split("/"):
            case "POST", ["v1", "models", owner, name, "predictions"]:
                answer = self.at_the_door(lambda: self._create(seen, f"{owner}/{name}"))
            case "POST", ["v1", "predictions"]:
                answer = self.at_the_door(lambda: self._create(seen, None))
            case "GET", ["v1", "predictions"] if self.lists:
                answer = self._list(seen.query)
            case "GET", ["v1", "predictions", job]:
                answer = self._get(job)
            case "POST", ["v1", "predictions", job, "cancel"]:
                answer = self._cancel(job)
            case "GET", ["v1", "webhooks", "default", "secret"]:
                answer = Answer(document={"key": self.webhook_secret})
            case _:
                answer = self.refusal(404, "")
        return answer

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        """A problem document; what it says is the real one's, not `what`."""
        title, detail = _WORDS.get(status, ("Error", what))
        headers = dict(_PROBLEM)
        if retry_after is not None:
            headers["retry-after"] = f"{retry_after:g}"
            detail = f"Request was throttled. Your rate limit resets in ~{retry_after:g}s."
        return Answer(status, {"title": title, "detail": detail, "status": status}, headers=headers)

    def _create(self, seen: Seen, official: str | None) -> Answer:
        body = seen.json()
        if official is not None:
            model, version, rules = official, "hidden", OFFICIAL.get(official)
        else:
            version = str(body.get("version")).rpartition(":")[2]
            model, rules = VERSIONS.get(version, ("", None))
        if rules is None:
            return self.refusal(404, "")
        wrong = _wrong(body, rules, official is not None)
        lasts_s = _duration_s(seen.headers.get("cancel-after", ""))
        if lasts_s is not None and lasts_s < 5:
            wrong = "- Cancel-After: must be a duration of at least 5 seconds"
        if wrong:
            problem = {"title": "Input validation failed", "detail": f"{wrong}\n", "status": 422}
            return Answer(422, problem, headers=_PROBLEM)
        return self._accepted(self._new(model, version, body["input"]), body.get("webhook"), lasts_s)

    def _accepted(self, made: Prediction, webhook: str | None, lasts_s: float | None) -> Answer:
        made.webhook = webhook
        if lasts_s is not None:
            made.deadline = made.created + lasts_s / self.hurry
        self._decide(made)
        with self.lock:
            self.predictions[made.id] = made
        self.accept(made.given, made.id)
        if self.webhook_early and made.ends is not None:
            made.starts = made.ends = made.created
            self._end(made)
        else:
            self._later(made)
        document = self._document(made)
        return Answer(201, {**document, "status": "starting", "output": None, "error": None, "metrics": {}})

    def _decide(self, made: Prediction) -> None:
        failing = self.taken(Fault.JOB_FAILS)
        if failing is not None:
            code = failing.get("code", "E1000")
            made.fate, made.error = "failed", failing.get("error", f"Director: unexpected error ({code})")
        if self.taken(Fault.FILTERED) is not None:
            made.fate, made.error = "failed", "The input or output was flagged as sensitive (NSFW). Try again (E005)"
        odd = self.taken(Fault.UNKNOWN_STATUS)
        made.odd_looks = 0 if odd is None else int(odd.get("looks", 1))
        endless = self.taken(Fault.NEVER_ENDS)
        if endless is not None:
            made.ends = None
            made.starts = made.starts if endless.get("started", True) else None

    def _new(self, model: str, version: str, given: dict[str, Any]) -> Prediction:
        now = time.monotonic()
        return Prediction(
            id=secrets.token_hex(13),
            model=model,
            version=version,
            given=given,
            created_at=datetime.now(UTC),
            created=now,
            starts=now + self.latency_s / 2,
            ends=now + self.latency_s,
        )

    def _get(self, job: str) -> Answer:
        if self.taken(Fault.POLL_FAILS) is not None:
            return self.refusal(500, "")
        with self.lock:
            made = self.predictions.get(job)
            if made is None:
                return self.refusal(404, "")
            document = self._document(made)
            if made.odd_looks:
                made.odd_looks -= 1
                document |= {"status": "hibernating", "output": None}
            return Answer(document=document)

    def _cancel(self, job: str) -> Answer:
        with self.lock:
            made = self.predictions.get(job)
            if made is None:
                return self.refusal(404, "")
            made.settle(time.monotonic())
            stopped = made.status not in _OVER
            if stopped:
                made.status = "canceled"
            document = self._document(made)
        if stopped:
            self._end(made)
        return Answer(document=document)

    def _list(self, query: Mapping[str, str]) -> Answer:
        after = _moment(query.get("created_after")) or datetime.min.replace(tzinfo=UTC)
        cursor = _moment(query.get("cursor")) or datetime.max.replace(tzinfo=UTC)
        shown = datetime.now(UTC) - timedelta(seconds=self.listing_lag_s)
        with self.lock:
            entries = [made for made in self.predictions.values() if after <= made.created_at < min(cursor, shown)]
            entries.sort(key=lambda made: made.created_at, reverse=True)
            page = entries[: self.page_size]
            more = {**query, "cursor": page[-1].created_at.isoformat()} if len(entries) > len(page) else None
            return Answer(
                document={
                    "previous": None,
                    "next": f"{self.base}/v1/predictions?{urlencode(more)}" if more else None,
                    "results": [self._entry(made) for made in page],
                }
            )

    def _entry(self, made: Prediction) -> dict[str, Any]:
        left_out = () if self.lists_inputs else ("input", "output", "data_removed")
        return {name: value for name, value in self._document(made).items() if name not in left_out}

    def _document(self, made: Prediction) -> dict[str, Any]:
        made.settle(time.monotonic())
        address = f"{self.base}/v1/predictions/{made.id}"
        ready = made.status == "succeeded" and not made.data_removed
        kind = made.given.get("output_format", "wav") if made.model == "meta/musicgen" else "mp4"
        output = f"{self.base}/media/{made.id}/output.{kind}?sig={made.signature}"
        return {
            "id": made.id,
            "model": made.model,
            "version": made.version,
            "input": {} if made.data_removed else made.given,
            "output": output if ready else None,
            "logs": "",
            "error": made.error if made.status == "failed" else None,
            "status": made.status,
            "source": made.source,
            "data_removed": made.data_removed,
            "created_at": made.created_at.isoformat().replace("+00:00", "Z"),
            "metrics": {"predict_time": self.latency_s} if made.status in _OVER else {},
            "urls": {"web": f"https://replicate.com/p/{made.id}", "get": address, "cancel": f"{address}/cancel"},
        }

    # Ends and webhooks --------------------------------------------------------------------------------------------

    def _later(self, made: Prediction) -> None:
        if made.over_at is None:
            return
        timer = threading.Timer(max(0.0, made.over_at - time.monotonic()), self._end, [made])
        timer.daemon = True
        timer.start()

    def _end(self, made: Prediction) -> None:
        with self.lock:
            made.settle(time.monotonic())
            if made.status not in _OVER:
                # A timer may ring a moment early.
                self._later(made)
                return
            self.over(made.id)
            body = json.dumps(self._document(made)).encode()
            address, made.webhook = made.webhook, None
        if address is not None:
            event = f"msg_{secrets.token_hex(12)}"
            for _ in range(self.webhook_times):
                self._deliver(address, event, body)

    def _deliver(self, address: str, event: str, body: bytes) -> None:
        """As often as the real one tries: a few times, until somebody takes it."""
        for _ in range(3):
            headers = signed(self.webhook_secret, event, body, time.time())
            try:
                status = httpx.post(address, content=body, headers=headers, timeout=5, trust_env=False).status_code
            except httpx.HTTPError:
                status = 0
            if status:
                with self.lock:
                    self.delivered.append((address, status))
            if 200 <= status < 300:
                return
            time.sleep(0.2)

    # Files --------------------------------------------------------------------------------------------------------

    def _file(self, seen: Seen) -> Answer:
        _, _, job, *_ = seen.path.split("/")
        made = self.predictions.get(job)
        if made is None or made.data_removed or seen.query.get("sig") != made.signature:
            return self.refusal(404, "")
        seed = made.given.get("seed", zlib.crc32(made.given["prompt"].encode()))
        if made.model == "meta/musicgen":
            kind = made.given.get("output_format", "wav")
            return self.media(music(made.given.get("duration", 8), kind, seed), f"audio/{kind}")
        long, short = self.size
        width, height = (short, long) if made.given.get("aspect_ratio") == "9:16" else (long, short)
        sound = made.model in OFFICIAL and OFFICIAL[made.model] is _VEO and made.given.get("generate_audio", True)
        return self.media(clip(made.given.get("duration", 5), width, height, seed=seed, sound=sound), "video/mp4")


def signed(secret: str, event: str, body: bytes, now: float) -> dict[str, str]:
    """Headers of a webhook, signed as Replicate signs: HMAC-SHA256 over id, time in seconds and body."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{event}.{int(now)}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": event,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _wrong(body: Mapping[str, Any], rules: Mapping[str, Rule], official: bool) -> str:  # noqa: FBT001 - of one caller
    given = body.get("input")
    if not isinstance(given, dict):
        return "- input is required"
    allowed = _REQUEST_FIELDS - ({"version"} if official else set())
    complaints = [f"- Additional property {name} is not allowed" for name in sorted(set(body) - allowed)]
    complaints += [f"- input: Additional property {name} is not allowed" for name in sorted(set(given) - set(rules))]
    complaints += [f"- input.{name}: {value!r} is not allowed" for name, value in given.items()
                   if name in rules and not rules[name](value)]  # fmt: skip
    if "prompt" not in given:
        complaints.append("- input: prompt is required")
    if rules is _HAILUO and given.get("duration") == 10 and given.get("resolution", "1080p") != "768p":
        complaints.append("- input.duration: 10 seconds is only available for 768p resolution")
    return "\n".join(complaints)


def _duration_s(text: str) -> float | None:
    """`90`, `90s`, `5m` or `1h30m45s` in seconds; None for no header."""
    if not text:
        return None
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?", text)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    return float(hours * 3600 + minutes * 60 + seconds)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
