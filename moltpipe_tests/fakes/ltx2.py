"""LTX-2 behind a Modal web function: one address, an answer with the film in it, or 303 to go back to.

A request is held for `holds_s` at most (150 s at Modal); what lasts longer is answered with 303 and the call's id.
"""

from __future__ import annotations

import base64
import threading
import time
from dataclasses import dataclass
from typing import Any

from moltpipe_tests.fakes.media import clip
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "prompt": str, "audio_text": (str, type(None)), "negative_prompt": str, "num_frames": int, "fps": int,
    "width": int, "height": int, "num_inference_steps": int, "guidance_scale": float, "seed": (int, type(None)),
}  # fmt: skip
_PARAMETER = "__modal_function_call_id"
_MOST_FRAMES = 257
_MOST_SIDE = 1280
_INT4 = 2**31
_SPOILT = (Fault.EMPTY_MEDIA, Fault.NOT_MEDIA, Fault.TRUNCATED_MEDIA)


@dataclass(frozen=True)
class _Call:
    body: dict[str, Any]
    done_at: float
    fault: dict[str, Any] | None
    spoilt: Fault | None
    """What is wrong with the film."""


class FakeLtx2(Provider):
    """`key`: what has to come, as a bearer token or, if it is `wk-…:ws-…`, as Modal's pair; None asks for none."""

    prefix = "ltx2"

    def __init__(self, latency_s: float = 0.2, *, holds_s: float = 150.0, key: str | None = None) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.holds_s = holds_s
        self.key = key
        self.redirect_to: str | None = None
        """Another address for the next redirects than the provider's own."""
        self._calls: dict[str, _Call] = {}
        self._finished = threading.Event()

    def handle(self, seen: Seen) -> Answer:
        """Film, go on with a call, or say that the service is well."""
        if not self._may(seen):
            return _modal(401, "missing credentials for proxy authorization")
        if seen.path != "/":
            return _modal(404, "invalid function call")
        call_id = seen.query.get(_PARAMETER)
        if seen.method == "POST":
            return _modal(400, "bad redirect method") if call_id else self._film(seen.json())
        return self._look(call_id) if call_id else Answer(200, {"status": "ok", "service": "ltx2", "model": "LTX-2"})

    def finish(self) -> None:
        """Have every film done now, those that never end as well."""
        self._finished.set()

    def release(self) -> None:
        """Let go of what hangs, and of what is held."""
        super().release()
        self.finish()

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        """The service's own `{error}`; what Modal's front door refuses is plain text."""
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        if status in (401, 402, 503):
            told = {401: (401, "invalid credentials for proxy authorization"), 402: (404, "workspace ac-1 is disabled")}
            return _modal(*told.get(status, (status, what)))
        return Answer(
            status, {"error": f"{what}: guidance_scale must be positive" if status == 422 else what}, headers=headers
        )

    def _may(self, seen: Seen) -> bool:
        if self.key is None:
            return True
        token, _, secret = self.key.partition(":")
        if secret:
            return (seen.headers.get("modal-key"), seen.headers.get("modal-secret")) == (token, secret)
        return seen.headers.get("authorization") == f"Bearer {self.key}"

    def _film(self, body: dict[str, Any]) -> Answer:
        wrong = _wrong(body)
        if wrong:
            return Answer(400, {"error": wrong})
        if self.taken(Fault.FILTERED) is not None:
            return Answer(400, {"error": "the prompt was stopped by the safety filter"})
        return self.at_the_door(lambda: self._accept(body))

    def _accept(self, body: dict[str, Any]) -> Answer:
        call_id = f"fc-{self.billed + 1:06d}"
        never = self.taken(Fault.NEVER_ENDS) is not None
        call = _Call(
            body,
            done_at=time.monotonic() + (10**6 if never else self.latency_s),
            fault=self.taken(Fault.JOB_FAILS),
            spoilt=next((one for one in _SPOILT if self.taken(one) is not None), None),
        )
        self.accept(body, call_id)
        with self.lock:
            self._calls[call_id] = call
        return self._held(call_id, call)

    def _look(self, call_id: str) -> Answer:
        if self.taken(Fault.POLL_FAILS) is not None:
            return Answer(500, content=b"Internal Server Error", headers={"content-type": "text/plain"})
        with self.lock:
            call = self._calls.get(call_id)
        if call is None or self.taken(Fault.EXPIRED_URL) is not None:
            return _modal(404, "invalid function call")
        return self._held(call_id, call)

    def _held(self, call_id: str, call: _Call) -> Answer:
        left_s = max(0.0, call.done_at - time.monotonic())
        outlasts = left_s > self.holds_s
        if not self._finished.wait(min(left_s, self.holds_s)) and outlasts:
            there = self.redirect_to or self.base
            return Answer(303, content=b"", headers={"location": f"{there}?{_PARAMETER}={call_id}"})
        self.over(call_id)
        return _failed(call.fault) if call.fault is not None else _filmed(call)


def _filmed(call: _Call) -> Answer:
    body = call.body
    seconds = body["num_frames"] / body["fps"]
    if call.spoilt is Fault.NOT_MEDIA:
        film = b"<html>not a film</html>" * 100
    else:
        film = clip(round(seconds, 3), body["width"], body["height"], body["fps"], body["seed"] or 0, sound=False)
    lengths: dict[Fault | None, int] = {Fault.EMPTY_MEDIA: 0, Fault.TRUNCATED_MEDIA: len(film) // 2}
    kept = lengths.get(call.spoilt, len(film))
    return Answer(
        200,
        {
            "video_base64": base64.b64encode(film[:kept]).decode(),
            "duration": seconds,
            "wall_clock_time": 42.0,
            "width": body["width"],
            "height": body["height"],
            "seed": body["seed"],
            "model": "LTX-2",
        },
    )


def _failed(fault: dict[str, Any]) -> Answer:
    """`code`: `ok` for 200 with an error inside, `timeout` for Modal's own word; else the service's."""
    match fault.get("code", ""):
        case "ok":
            return Answer(200, {"error": "Traceback: the decoder failed"})
        case "timeout":
            return _modal(500, "internal error: function execution timed out")
        case "expired":
            return Answer(408, content=b"Missing request, possibly due to expiry or cancellation")
        case _:
            return Answer(500, {"error": "CUDA out of memory"})


def _modal(status: int, said: str) -> Answer:
    return Answer(status, content=f"modal-http: {said}".encode(), headers={"content-type": "text/plain"})


def _wrong(body: dict[str, Any]) -> str:
    """What the service refuses; empty for a good body."""
    for field in sorted(set(body) ^ set(_FIELDS)):
        return f"{field} is {'missing' if field in _FIELDS else 'unsupported'}"
    for field, kind in _FIELDS.items():
        if not isinstance(body[field], kind) or isinstance(body[field], bool):
            return f"{field} must be another type"
    rules = {
        "prompt must be a text": body["prompt"].strip() != "",
        "num_frames must be 8k+1": body["num_frames"] % 8 == 1 and 9 <= body["num_frames"] <= _MOST_FRAMES,
        "width and height must be divisible by 32": all(
            body[side] % 32 == 0 and 0 < body[side] <= _MOST_SIDE for side in ("width", "height")
        ),
        "fps must be 24, 25 or 30": body["fps"] in (24, 25, 30),
        "seed must be int4": body["seed"] is None or 0 <= body["seed"] < _INT4,
    }
    return next((rule for rule, kept in rules.items() if not kept), "")
