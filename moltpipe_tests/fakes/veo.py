"""The Gemini API as far as Veo: `POST /v1beta/models/{model}:predictLongRunning`, operations, and files behind the key.

An engine's `base_url` is the server's address with `/veo/v1beta`. Strict as the real one is: a parameter that Veo does
not know is refused by name, and 1080p at any length but eight seconds too. Films are small, whatever was asked for, so
that tests stay fast; shape and length are as asked.
"""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from moltpipe_tests.fakes.media import clip
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

_PARAMETERS = {"aspectRatio", "durationSeconds", "resolution", "personGeneration", "seed", "sampleCount"}
_SIZES = {"16:9": (640, 360), "9:16": (360, 640)}
_COLOURS = 6
_STATUS = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 500: "INTERNAL", 503: "UNAVAILABLE"}


class _Refused(Exception):
    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.document)
        self.answer = answer


@dataclass
class _Operation:
    name: str
    parameters: dict[str, Any]
    ready_at: float
    error: dict[str, Any] | None = None
    is_filtered: bool = False
    strange_looks: int = 0
    file: str = field(default_factory=lambda: secrets.token_hex(6))
    signature: str = field(default_factory=lambda: secrets.token_hex(16))


class FakeVeo(Provider):
    """Operations are done `latency_s` after they were accepted. Any key is right unless a fault says otherwise."""

    prefix = "veo"

    def __init__(self, latency_s: float = 0.2) -> None:
        super().__init__()
        self.latency_s = latency_s
        self._operations: dict[str, _Operation] = {}

    def handle(self, seen: Seen) -> Answer:
        if seen.path.startswith("/media/"):
            return self._film(seen)
        if not seen.headers.get("x-goog-api-key"):
            return _error(
                403, "Method doesn't allow unregistered callers. Please use API Key or other form of identity."
            )
        self._settle()
        start = re.fullmatch(r"/v1beta/models/([\w.-]+):predictLongRunning", seen.path)
        if start and seen.method == "POST":
            return self.at_the_door(lambda: self._start(start[1], seen))
        file = re.fullmatch(r"/v1beta/files/(\w+):download", seen.path)
        if file and seen.method == "GET":
            return self._redirect(file[1])
        if seen.method == "GET":
            return self._look(seen.path.removeprefix("/v1beta/"))
        return _error(404, "Not Found")

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        match status:
            case 401:
                info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
                return _error(400, "API key not valid. Please pass a valid API key.", info)
            case 402:
                return _exhausted("PredictRequestsPerDayPerProjectPerModel", None)
            case 429:
                return _exhausted("PredictRequestsPerMinutePerProjectPerModel", retry_after)
            case 422:
                return _error(400, "The request is not valid.")
            case _:
                return _error(status, what)

    def _start(self, model: str, seen: Seen) -> Answer:
        body = seen.json()
        try:
            parameters = _checked(model, body)
        except _Refused as refused:
            return refused.answer
        fails = self.taken(Fault.JOB_FAILS)
        strange = self.taken(Fault.UNKNOWN_STATUS)
        operation = _Operation(
            name=f"models/{model}/operations/{secrets.token_hex(6)}",
            parameters=parameters,
            ready_at=time.monotonic() + self.latency_s,
            error=None if fails is None else {"code": 13, "message": "Video generation failed.", **fails},
            is_filtered=self.taken(Fault.FILTERED) is not None,
            strange_looks=0 if strange is None else strange.get("looks", 1),
        )
        if self.taken(Fault.NEVER_ENDS) is not None:
            operation.ready_at = float("inf")
        with self.lock:
            self._operations[operation.name] = operation
            self.accept(body, operation.name)
        return Answer(200, {"name": operation.name})

    def _look(self, name: str) -> Answer:
        failing = self.taken(Fault.POLL_FAILS)
        if failing is not None:
            return _error(failing.get("status", 500), "The look failed.")
        with self.lock:
            operation = self._operations.get(name)
            if operation is None:
                return _error(404, f"Operation {name} not found.")
            if operation.strange_looks:
                operation.strange_looks -= 1
                return Answer(200, {"name": name, "metadata": {"state": "DREAMING"}, "done": "soon"})
            if time.monotonic() < operation.ready_at:
                return Answer(200, {"name": name})
        return Answer(200, {"name": name, "done": True, **self._outcome(operation)})

    def _outcome(self, operation: _Operation) -> dict[str, Any]:
        if operation.error is not None:
            return {"error": operation.error}
        made: dict[str, Any] = {"generatedSamples": [{"video": {"uri": self._address(operation)}}]}
        if operation.is_filtered:
            reason = "Veo could not generate the video. You will not be charged for this request."
            made = {"raiMediaFilteredCount": 1, "raiMediaFilteredReasons": [reason]}
        kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.PredictLongRunningResponse"
        return {"response": {"@type": kind, "generateVideoResponse": made}}

    def _address(self, operation: _Operation) -> str:
        return f"{self.base}/v1beta/files/{operation.file}:download?alt=media"

    def _redirect(self, file: str) -> Answer:
        """The file's address wants the key, and leads to one that is signed."""
        operation = self._of_file(file)
        if operation is None:
            return _error(404, "File not found.")
        return Answer(302, {}, headers={"location": f"{self.base}/media/{file}.mp4?sig={operation.signature}"})

    def _film(self, seen: Seen) -> Answer:
        operation = self._of_file(seen.path.removeprefix("/media/").removesuffix(".mp4"))
        if operation is None or seen.query.get("sig") != operation.signature:
            return _error(403, "The caller does not have permission.")
        wanted = operation.parameters
        width, height = _SIZES[wanted.get("aspectRatio", "16:9")]
        seconds, colour = wanted.get("durationSeconds", 8), wanted.get("seed", 0) % _COLOURS
        return self.media(clip(seconds, width, height, seed=60 * colour), "video/mp4")

    def _of_file(self, file: str) -> _Operation | None:
        with self.lock:
            return next((one for one in self._operations.values() if one.file == file), None)

    def _settle(self) -> None:
        with self.lock:
            for operation in self._operations.values():
                if operation.ready_at <= time.monotonic():
                    self.over(operation.name)


def _checked(model: str, body: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was sent
    """The parameters of a start.

    Raises:
        _Refused: with the answer that Google gives.
    """
    if not model.startswith("veo-"):
        raise _Refused(_error(404, f"models/{model} is not found for API version v1beta."))
    for name in set(body) - {"instances", "parameters"}:
        raise _Refused(_error(400, f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'))
    instances = body.get("instances") or [{}]
    parameters: dict[str, Any] = body.get("parameters") or {}
    if len(instances) != 1 or set(instances[0]) != {"prompt"} or not instances[0]["prompt"].strip():
        raise _Refused(_error(400, "`prompt` must not be empty."))
    for name in set(parameters) - _PARAMETERS:
        raise _Refused(_error(400, f"`{name}` isn't supported by this model. Please remove it."))
    _check_values(parameters)
    return parameters


def _check_values(parameters: dict[str, Any]) -> None:
    seconds, resolution = parameters.get("durationSeconds", 8), parameters.get("resolution", "720p")
    if isinstance(seconds, str):
        raise _Refused(_error(400, "The value type for `durationSeconds` needs to be a number."))
    if seconds not in (4, 6, 8) or (resolution != "720p" and seconds != 8):
        raise _Refused(_error(400, f"`durationSeconds` {seconds} is not supported with `resolution` {resolution}."))
    if resolution not in ("720p", "1080p", "4k") or parameters.get("aspectRatio", "16:9") not in _SIZES:
        raise _Refused(_error(400, "`resolution` or `aspectRatio` is out of range."))
    if not 0 <= parameters.get("seed", 0) < 2**32:
        raise _Refused(_error(400, "`seed` is out of range."))


def _exhausted(quota: str, retry_after: float | None) -> Answer:
    failure = {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [{"quotaMetric": "generativelanguage.googleapis.com/predict_requests", "quotaId": quota}],
    }
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after or 0:g}s"}
    details = [failure] if retry_after is None else [failure, retry]
    return _error(429, "You exceeded your current quota, please check your plan and billing details.", *details)


def _error(status: int, message: str, *details: dict[str, Any]) -> Answer:
    word = "RESOURCE_EXHAUSTED" if status == 429 else _STATUS.get(status, "UNKNOWN")
    error = {"code": status, "message": message, "status": word, **({"details": list(details)} if details else {})}
    return Answer(status, {"error": error})
