"""Two small servers with OpenAI's speech API: Kokoro-FastAPI, and OpenAI itself.

With captions it is Kokoro-FastAPI: no key, its own voices, word times at `/dev/captioned_speech`, errors in
FastAPI's form. Without, it is OpenAI: a key, no list of voices, request ids, and a WAV whose header does not know its
length, as that of a stream.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from moltpipe_tests.fakes.media import speech, speech_seconds
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

VOICES = ("af_bella", "af_heart", "af_sky", "am_adam", "am_michael", "bf_emma", "bm_george", "jf_alpha", "am_v0adam")
OWN_VOICES = ("alloy", "ash", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer")
MOST_CHARACTERS = 4096
_TYPES = {"wav": "audio/wav", "mp3": "audio/mpeg"}
_FIELDS = frozenset({"model", "input", "voice", "response_format", "speed"})
_DOCUMENTED_FIELDS = _FIELDS | {"instructions", "stream_format"}
_OWN_FIELDS = _DOCUMENTED_FIELDS | {"stream"}
_KOKORO_FIELDS = _FIELDS | {"stream", "lang_code", "volume_multiplier", "normalization_options", "return_download_link"}
_CAPTIONED_FIELDS = _KOKORO_FIELDS | {"return_timestamps"}
_WORDS = {
    Fault.THROTTLED.value: (429, "rate_limit_exceeded"),
    Fault.ERROR_500.value: (500, "server_error"),
    Fault.UNAVAILABLE.value: (503, "overloaded"),
    Fault.UNAUTHORIZED.value: (401, "invalid_api_key"),
    Fault.NO_CREDIT.value: (429, "insufficient_quota"),
    Fault.INVALID.value: (400, "invalid_value"),
    Fault.FILTERED.value: (400, "content_policy_violation"),
}


class FakeOpenai(Provider):
    """Speaks. `captions` False makes it OpenAI; `timestamps` False says null for them, as older versions do.

    `strict` is the status with which `/audio/speech` refuses fields that OpenAI does not document: 400 in OpenAI's
    own words, 422 in FastAPI's. None lets `stream` pass, for which Kokoro-FastAPI has a meaning.
    """

    prefix = "openai"

    def __init__(
        self, *, latency_s: float = 0.2, captions: bool = True, timestamps: bool = True, strict: int | None = None
    ) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.captions = captions
        self.timestamps = timestamps
        self.strict = strict
        self.limits: dict[str, str] = {}
        """Headers that go with a 429."""
        self._numbers = count(1)

    def handle(self, seen: Seen) -> Answer:
        if not self.captions and not seen.headers.get("authorization", "").startswith("Bearer "):
            return self.refusal(401, Fault.UNAUTHORIZED.value)
        match seen.method, seen.path:
            case "POST", "/v1/audio/speech":
                return self._speak(seen, captioned=False)
            case "POST", "/dev/captioned_speech" if self.captions:
                return self._speak(seen, captioned=True)
            case "GET", "/v1/audio/voices" if self.captions:
                return self._list()
        return Answer(404, {"detail": "Not Found"}) if self.captions else self._said(404, "unknown_url")

    def _list(self) -> Answer:
        if self.taken(Fault.POLL_FAILS) is not None:
            return self._said(500, "server_error")
        return Answer(200, {"voices": [{"id": voice, "name": voice} for voice in VOICES]})

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        status, word = _WORDS.get(what, (status, what))
        return self._said(status, word, headers | (self.limits if status == 429 else {}))

    def _said(self, status: int, word: str, headers: Mapping[str, str] | None = None) -> Answer:
        message = f"This is what {word} means."
        if self.captions:
            document: dict[str, Any] = {"detail": {"error": word, "message": message, "type": "invalid_request_error"}}
        else:
            document = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": word}}
        return Answer(status, document, headers=dict(headers or {}))

    def _speak(self, seen: Seen, *, captioned: bool) -> Answer:
        body = seen.json()
        unknown = sorted(set(body) - _DOCUMENTED_FIELDS)
        if self.strict is not None and not captioned and unknown:
            return _unknown_field(self.strict, unknown[0], body)
        known = _CAPTIONED_FIELDS if captioned else _KOKORO_FIELDS if self.captions else _OWN_FIELDS
        voices = {*VOICES, *OWN_VOICES} if self.captions else {*OWN_VOICES}
        spoken_by = set(re.split(r"[+-]", re.sub(r"\([^)]*\)", "", body.get("voice", ""))))
        if set(body) - known or not body.get("input") or body.get("response_format", "mp3") not in _TYPES:
            return self._said(400, "validation_error")
        if not spoken_by <= voices or (not self.captions and len(body["input"]) > MOST_CHARACTERS):
            return self._said(400, "validation_error")
        if self.taken(Fault.FILTERED) is not None:
            return self.refusal(400, Fault.FILTERED.value)
        return self.at_the_door(lambda: self._spoken(body, captioned=captioned))

    def _spoken(self, body: Mapping[str, Any], *, captioned: bool) -> Answer:
        number = next(self._numbers)
        self.accept({"input": body["input"], "voice": body["voice"], "model": body["model"]}, f"job-{number}")
        time.sleep(self.latency_s)
        self.over(f"job-{number}")
        kind = body.get("response_format", "mp3")
        sound = speech(body["input"], kind)
        if not self.captions:
            answer = self.media(_as_stream(sound) if kind == "wav" else sound, _TYPES[kind])
            return Answer(200, content=answer.content, headers={**answer.headers, "x-request-id": f"req_{number:024d}"})
        answer = self.media(sound, _TYPES[kind])
        if not captioned:
            return answer
        return Answer(
            200,
            {
                "audio": base64.b64encode((answer.content or b"")[: answer.cut]).decode(),
                "audio_format": _TYPES[kind],
                "timestamps": spoken_tokens(body["input"]) if self.timestamps else None,
            },
        )


def _unknown_field(status: int, name: str, body: Mapping[str, Any]) -> Answer:
    if status == 422:
        wrong = {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
        return Answer(status, {"detail": [{**wrong, "input": body[name]}]})
    message = f"Unrecognized request argument supplied: {name}"
    return Answer(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})


def spoken_tokens(text: str) -> list[dict[str, Any]]:
    """What Kokoro says that it said: words and signs apart, evenly over the line, dollars read out."""
    tokens = re.findall(r"[^\W_]+(?:'\w+)?|[^\w\s]", re.sub(r"\$(\d+)", r"\1 dollars", text))
    share = speech_seconds(text) / max(1, len(tokens))
    return [
        {"word": token, "start_time": number * share, "end_time": (number + 1) * share}
        for number, token in enumerate(tokens)
    ]


def _as_stream(wav: bytes) -> bytes:
    """A WAV with the lengths that a stream writes, as it does not know them."""
    data = wav.index(b"data")
    unknown = b"\xff\xff\xff\xff"
    return wav[:4] + unknown + wav[8 : data + 4] + unknown + wav[data + 8 :]
