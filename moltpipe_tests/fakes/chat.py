"""A chat server such as Groq's: it takes what Groq takes, refuses what Groq refuses, and writes an episode by itself.

The episode is made of the ids that it finds in the series material, so it is valid for any series, and different for
every request. Spoilt ones are queued as `Fault.JOB_FAILS` with one of `SPOILS` as `code`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

_FIELDS = frozenset(
    {"model", "messages", "temperature", "max_completion_tokens", "max_tokens", "stream", "response_format", "seed"}
)
_NOT_IN_STRICT_MODE = ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "pattern")
_CUT = 40

SPOILS = (
    "invalid_json",
    "unknown_anchor",
    "unknown_speaker",
    "too_few_shots",
    "too_long_line",
    "fenced",
    "parts",
    "object",
    "json_validate_failed",
    "length",
    "refusal",
    "no_id",
    "no_choices",
)
"""Ways in which an answer can be wrong or odd."""


class FakeChat(Provider):
    """`formats`: which `response_format` types the server takes; plain text it always does."""

    prefix = "chat"

    def __init__(
        self, latency_s: float = 0.2, *, formats: tuple[str, ...] = ("json_schema", "json_object"), xai: bool = False
    ) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.formats = formats
        self.xai = xai
        """Whether it words its errors as xAI does."""

    def handle(self, seen: Seen) -> Answer:
        """Answer a completion."""
        if (seen.method, seen.path) != ("POST", "/v1/chat/completions"):
            return Answer(404, _error(f"Unknown request URL: {seen.method} {seen.path}.", code="unknown_url"))
        if not re.fullmatch(r"Bearer \S+", seen.headers.get("authorization", "")):
            return self.refusal(401, "unauthorized")
        body = seen.json()
        wrong = self._wrong(body)
        if wrong is not None:
            return Answer(400, wrong)
        if self.taken(Fault.FILTERED) is not None:
            return self._withheld(body)
        return self.at_the_door(lambda: self._complete(body))

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        """Groq's words, or xAI's."""
        if self.xai:
            return self._xai_refusal(status, what)
        told = {
            401: _error("Invalid API Key", code="invalid_api_key"),
            402: _error("You exceeded your current quota", kind="insufficient_quota", code="insufficient_quota"),
            413: _error("Request too large for model", kind="tokens", code="rate_limit_exceeded"),
            422: _error("Please reduce the length of the messages", code="context_length_exceeded"),
            429: _error(
                "Rate limit reached for model `m` in organization `org_1` service tier `on_demand` on tokens per day "
                "(TPD): Limit 100000, Used 97050, Requested 3619. Please try again in 1m38.016s.",
                kind="tokens",
                code="rate_limit_exceeded",
            ),
            500: _error("Internal Server Error", kind="internal_server_error"),
            503: _error("Service Unavailable", kind="service_unavailable"),
        }.get(status, _error(what))
        headers = {"x-ratelimit-remaining-requests": "99", "x-ratelimit-reset-tokens": "7.66s"}
        if retry_after is not None:
            headers["retry-after"] = f"{retry_after:g}"
        return Answer(400 if status == 422 else status, told, headers=headers)

    def _xai_refusal(self, status: int, what: str) -> Answer:
        told = {
            401: (400, "Client specified an invalid argument", "Incorrect API key provided: xai-***."),
            402: (403, "The caller does not have permission", "Your team has used all available credits."),
        }.get(status, (status, what, what))
        return Answer(told[0], {"code": told[1], "error": told[2]})

    def _withheld(self, body: dict[str, Any]) -> Answer:
        if self.xai:
            return Answer(
                403, {"code": "The caller does not have permission", "error": "Content violates usage guidelines."}
            )
        return self.at_the_door(lambda: self._answer(body, "", finish="content_filter"))

    def _wrong(self, body: Any) -> dict[str, Any] | None:  # noqa: ANN401 - whatever was sent
        unknown = sorted(set(body) - _FIELDS)
        if unknown:
            return _error(f"property '{unknown[0]}' is unsupported")
        talk = body.get("messages")
        if not isinstance(talk, list) or not all(
            isinstance(one.get("content"), str) and one["content"] for one in talk
        ):
            return _error("'messages' : content is missing")
        asked = body.get("response_format")
        if asked is None:
            return None
        if asked["type"] not in self.formats:
            return _error(f"This model does not support response format `{asked['type']}`.")
        if asked["type"] == "json_object" and "json" not in json.dumps(talk).lower():
            return _error("'messages' must contain the word 'json' in some form, to use 'response_format'")
        fault = _not_strict(asked["json_schema"]["schema"]) if asked["type"] == "json_schema" else None
        return _error(f"invalid JSON schema for response_format: {fault}") if fault else None

    def _complete(self, body: dict[str, Any]) -> Answer:
        spoilt = self.taken(Fault.JOB_FAILS)
        way = "" if spoilt is None else str(spoilt.get("code", "invalid_json"))
        episode = _episode(body)
        _spoil(episode, way)
        text = json.dumps(episode)
        if way == "json_validate_failed":
            self._bill(body)
            failed = _error("Generated JSON does not match the expected schema.", code="json_validate_failed")
            failed["error"]["failed_generation"] = text[:_CUT]
            return Answer(400, failed)
        return self._answer(body, text, way=way)

    def _answer(self, body: dict[str, Any], text: str, *, way: str = "", finish: str = "stop") -> Answer:
        job = self._bill(body)
        contents: dict[str, object] = {
            "invalid_json": text[:_CUT],
            "fenced": f"<think>A plan: {{shots}}.</think>Here it is:\n```json\n{text}\n```\nEnjoy!",
            "parts": [{"type": "text", "text": text[:_CUT]}, {"type": "text", "text": text[_CUT:]}],
            "object": {"json": json.loads(text)} if text else {},
            "length": text[:_CUT],
        }
        message: dict[str, object] = {"role": "assistant", "content": contents.get(way, text)}
        if way == "refusal":
            message |= {"content": None, "refusal": "I cannot write that."}
        document = {
            "id": job,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "length" if way == "length" else finish}],
            "usage": {"prompt_tokens": 3000, "completion_tokens": 2000, "total_tokens": 5000},
        }
        if way in ("no_id", "no_choices"):
            del document["id" if way == "no_id" else "choices"]
        return Answer(200, document)

    def _bill(self, body: dict[str, Any]) -> str:
        job = f"chatcmpl-{self.billed + 1}"
        self.accept(body, job)
        time.sleep(self.latency_s)
        self.over(job)
        return job


def _error(message: str, *, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, **({} if code is None else {"code": code})}}


def _not_strict(schema: dict[str, Any]) -> str | None:
    """What strict mode does not take."""
    for keyword in _NOT_IN_STRICT_MODE:
        if keyword in schema:
            return f"{keyword} is not supported"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "additionalProperties:false must be set on every object"
        if sorted(schema.get("required", [])) != sorted(schema["properties"]):
            return "all properties must be required"
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", [])]
    inner += [schema["items"]] if "items" in schema else []
    return next((fault for one in inner if (fault := _not_strict(one))), None)


def _episode(body: dict[str, Any]) -> dict[str, Any]:
    """Seven shots of 6 seconds with the places and people of the series."""
    told = body["messages"][1]["content"]
    mark = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:6]
    places = sorted(set(re.findall(r'"id":"(LOC_[A-Z0-9_]+)"', told))) or ["the place of the pilot"]
    people = sorted(set(re.findall(r'"id":"(CHAR_[A-Z0-9_]+)"', told)))
    cameras = ["wide_establishing", "medium_shot", "close_up", "tracking_shot", "low_angle", "aerial", "static"]
    return {
        "title": f"Tide {mark}",
        "shots": [
            {
                "prompt": {
                    "camera": camera,
                    "scene": f"Shot {number} of {mark}: {places[number % len(places)]} in the rain.",
                    "details": "Cold light.",
                    "motion": "subtle_motion",
                },
                "audio": _sound(number, people),
                "gen_clip_seconds": 5,
                "duration_seconds": 6,
                "edit_extend_strategy": "hold_last_frame",
            }
            for number, camera in enumerate(cameras)
        ],
    }


def _sound(number: int, people: list[str]) -> dict[str, Any]:
    if number % 3 == 0 and people:
        line = {"speaker": people[number % len(people)], "line": f"Listen, number {number}."}
        return {"type": "dialogue", "description": "", "dialogue": line}
    if number % 3 == 1:
        return {"type": "narration", "description": f"It rained for {number} days.", "dialogue": None}
    return {"type": "ambient", "description": "Rain on stone.", "dialogue": None}


def _spoil(episode: dict[str, Any], way: str) -> None:
    shots = episode["shots"]
    if way == "unknown_anchor":
        shots[2]["prompt"]["scene"] = "LOC_NOWHERE in fog."
    elif way == "unknown_speaker":
        shots[1]["audio"] = {
            "type": "dialogue", "description": "", "dialogue": {"speaker": "Nobody", "line": "Hello."}
        }  # fmt: skip
    elif way == "too_few_shots":
        del shots[5:]
    elif way == "too_long_line":
        shots[1]["audio"]["description"] = "It rained. " * 20
