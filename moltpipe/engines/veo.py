"""The camera called `veo`: Google's Veo through the Gemini API, which films a shot from its words.

Here: what Veo is asked for, and what its operations and refusals mean. Not here: the words of a shot
(`engines.prompting`), fetching the film (the layer that calls).

A start answers with the name of an operation, which is looked at until it says `done`. An operation shows neither the
prompt nor a reference of ours, and cannot be stopped: a start whose answer was lost stays ambiguous.

Three parameters are left out on purpose. `personGeneration`: a request from text may say nothing but `allow_all`, and
in Europe and the Middle East nothing but `allow_adult`, so whatever is said is refused somewhere, and silence
nowhere. `negativePrompt`: documented for years, then refused with "isn't supported by this model" (ArcReel issue 247).
`sampleCount`: one film is the usual and the most.

Sources: https://ai.google.dev/gemini-api/docs/video (parameters, lengths, limits, "you will not be charged"),
https://ai.google.dev/gemini-api/docs/troubleshooting and google/rpc/code.proto (errors). A forum thread (185737) shows
looks at an accepted operation answered with 403 for a while.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.prompting import film_prompt
from moltpipe.engines.protocols import Download, ExternalId, Filmed, Order, Progress, Quote, TakeRequest, Whereabouts
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, Reply, Wire, base_url
from moltpipe.settings import VeoAccount

NAME = "veo"
SECONDS = (4, 6, 8)
"""The lengths that Veo films."""

_KEY_HEADER = "x-goog-api-key"
_FULL_HD_LINES = 1080
_OPERATION = re.compile(r"[\w~-][\w.~-]*(/[\w~-][\w.~-]*)+")
_GOOGLE = ".googleapis.com"

_UNSAFE = re.compile(r"responsible ai|usage guidelines|sensitive words|safety|violat|prohibited", re.IGNORECASE)
_FREE = re.compile(r"not be charged", re.IGNORECASE)
_SPENT = re.compile(r"per.?day|daily|limit: 0\b|credits? (?:are|is|have been) depleted|billing account", re.IGNORECASE)
_BILLING = re.compile(r"billing|free tier", re.IGNORECASE)

_UNAUTHORIZED, _TOO_MANY, _SERVER_ERROR = 401, 429, 500
_INVALID_ARGUMENT, _RESOURCE_EXHAUSTED = 3, 8
_BY_CODE: dict[int | None, ErrorClass] = {
    1: ErrorClass.EXPIRED,  # CANCELLED
    _INVALID_ARGUMENT: ErrorClass.INVALID_INPUT,
    7: ErrorClass.AUTH,  # PERMISSION_DENIED
    _RESOURCE_EXHAUSTED: ErrorClass.RETRY_SAFE,
    9: ErrorClass.INVALID_INPUT,  # FAILED_PRECONDITION
    11: ErrorClass.INVALID_INPUT,  # OUT_OF_RANGE
    14: ErrorClass.RETRY_SAFE,  # UNAVAILABLE
    16: ErrorClass.AUTH,  # UNAUTHENTICATED
}
"""What the error of an operation means; any other code is the provider's fault. The operation is over, so where Google
was too busy for it (8, 14) a new one is fine."""


class Veo:
    """Films with Veo 3 and later. A clip has a length of `SECONDS`, at 24 frames per second, with sound."""

    name = NAME

    def __init__(self, account: VeoAccount, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        address = base_url(account.base_url, "/v1beta")
        key = account.key
        self.model = account.model
        self._own_price_usd = account.price_usd
        self._wire = Wire(NAME, address, headers={_KEY_HEADER: key}, secrets=(key,), timeout_s=timeout_s)
        self.hosting = hosting(account, address, key)

    def quote(self, request: TakeRequest) -> Quote:
        """By the seconds that are filmed, which may be more than the shot needs, and by the resolution."""
        wanted = payload(request)["parameters"]
        return reckon(
            NAME,
            self.model,
            Decimal(wanted["durationSeconds"]),
            "second",
            option=wanted["resolution"],
            own_price_usd=self._own_price_usd,
        )

    async def submit(self, request: TakeRequest, order: Order) -> ExternalId:  # noqa: ARG002 - nothing of it can be sent
        """Start an operation; its name is the job's id."""
        reply = await self._wire.post(f"/models/{self.model}:predictLongRunning", payload(request))
        if not reply.ok:
            raise self._refusal(reply)
        name = reply.document().get("name")
        if not isinstance(name, str) or not _OPERATION.fullmatch(name):
            raise self._wire.error(ErrorClass.AMBIGUOUS, f"HTTP {reply.status} without the name of an operation")
        return ExternalId(name)

    async def poll(self, job: ExternalId) -> Progress | Filmed:
        """Look at the operation.

        Raises:
            JobOver: it ended without a film.
            EngineError: the look failed; the operation may be fine.
        """
        reply = await self._wire.get(f"/{job}")
        operation = reply.document()
        if not reply.ok:
            raise self._failed_look(reply)
        if not operation:
            raise self._wire.error(ErrorClass.RETRY_SAFE, f"HTTP {reply.status} without an operation")
        if operation.get("done") is not True:
            return Progress()
        if operation.get("error"):
            raise self._ended_badly(operation["error"])
        return self._film(operation)

    async def cancel(self, job: ExternalId) -> None:
        """Nothing: the API has no way to stop an operation of a model."""

    async def find(self, request: TakeRequest, order: Order) -> ExternalId | Whereabouts:  # noqa: ARG002 - see the docstring
        """Nobody can say: operations show neither prompt, nor time, nor anything of ours."""
        return Whereabouts.UNKNOWN

    def _film(self, operation: dict[str, Any]) -> Filmed:
        response = _object(operation.get("response"))
        response = _object(response.get("generateVideoResponse")) or response
        for sample in response.get("generatedSamples") or ():
            address = _object(_object(sample).get("video")).get("uri")
            if isinstance(address, str) and address:
                return Filmed(file=Download(address, self._headers_for(address)))
        reasons = "; ".join(str(one) for one in response.get("raiMediaFilteredReasons") or ())
        if reasons or response.get("raiMediaFilteredCount"):
            raise self._over(ErrorClass.FILTERED, reasons or "withheld by the safety filters", Decimal(0))
        raise self._over(ErrorClass.PROVIDER_FAULT, "the operation is done and holds no film")

    def _headers_for(self, address: str) -> tuple[tuple[str, str], ...]:
        """The key, for an address of the API's own host or of Google's other ones, and for nobody else."""
        host, own = urlsplit(address).hostname or "", urlsplit(self._wire.base_url).hostname or ""
        is_google = f".{own}".endswith(_GOOGLE) and f".{host}".endswith(_GOOGLE)
        return self._wire.headers if host == own or is_google else ()

    def _ended_badly(self, error: object) -> JobOver:
        status = _object(error)
        code = int(status["code"]) if isinstance(status.get("code"), int) else None
        text = str(status.get("message") or error)
        error_class = _BY_CODE.get(code, ErrorClass.PROVIDER_FAULT)
        if code == _INVALID_ARGUMENT and _UNSAFE.search(text):
            error_class = ErrorClass.FILTERED
        if code == _RESOURCE_EXHAUSTED and _SPENT.search(text):
            error_class = ErrorClass.QUOTA
        return self._over(error_class, f"error {code}: {text}", Decimal(0) if _FREE.search(text) else None)

    def _over(self, error_class: ErrorClass, text: str, cost_usd: Decimal | None = None) -> JobOver:
        return JobOver(NAME, error_class, self._wire.scrub(text), cost_usd=cost_usd)

    def _failed_look(self, reply: Reply) -> EngineError:
        """An operation that was accepted is not given up for a look that failed, whatever the API says of the look."""
        if reply.status in (_UNAUTHORIZED, _TOO_MANY) or reply.status >= _SERVER_ERROR or _is_wrong_key(reply):
            return self._refusal(reply, accepting=False)
        return self._wire.error(ErrorClass.RETRY_SAFE, f"a look was answered with {_said(reply)}")

    def _refusal(self, reply: Reply, *, accepting: bool = True) -> EngineError:
        error_class = _class_of(reply) if accepting else (ErrorClass.AUTH if _is_wrong_key(reply) else None)
        usual = self._wire.refusal(reply, accepting=accepting)
        hints = [*_retry_delays_s(reply), *([usual.retry_after_s] if usual.retry_after_s is not None else [])]
        return self._wire.error(
            error_class or usual.error_class,
            _said(reply),
            retry_after_s=max(hints, default=None),
        )


def payload(request: TakeRequest) -> dict[str, Any]:
    """The body of a start.

    The length is the shortest of `SECONDS` that holds the shot, else the longest: what is missing, the cut extends.
    1080 lines are filmed at 8 seconds only, so a shorter shot of a large profile is filmed at 720 lines and scaled,
    rather than paid for twice its length. A seed "slightly improves" how alike two films are, no more.
    """
    seconds = next((length for length in SECONDS if length >= request.seconds), SECONDS[-1])
    is_large = min(request.width, request.height) >= _FULL_HD_LINES and seconds == SECONDS[-1]
    return {
        "instances": [{"prompt": film_prompt(request)}],
        "parameters": {
            "aspectRatio": "16:9" if request.width >= request.height else "9:16",
            "durationSeconds": seconds,
            "resolution": "1080p" if is_large else "720p",
            "seed": request.seed,
        },
    }


def _class_of(reply: Reply) -> ErrorClass | None:
    """What a refused start means, where Google says more than the status does."""
    error = _error(reply)
    text = f"{error.get('message', '')} {' '.join(_quotas(reply))}"
    if _is_wrong_key(reply):
        return ErrorClass.AUTH
    if reply.status == _TOO_MANY:
        return ErrorClass.QUOTA if _SPENT.search(text) else ErrorClass.THROTTLED
    if error.get("status") == "FAILED_PRECONDITION":
        # Either nobody pays for the project, or it is used from a country that it may not be used from.
        return ErrorClass.QUOTA if _BILLING.search(text) else ErrorClass.AUTH
    if error.get("status") == "INVALID_ARGUMENT" and _UNSAFE.search(text):
        return ErrorClass.FILTERED
    return None


def _is_wrong_key(reply: Reply) -> bool:
    """Google refuses a wrong key with 400 and this reason."""
    return any(one.get("reason") == "API_KEY_INVALID" for one in _details(reply))


def _quotas(reply: Reply) -> Iterator[str]:
    for one in _details(reply):
        for violation in one.get("violations") or ():
            yield from (str(_object(violation).get(field, "")) for field in ("quotaId", "quotaMetric"))


def _retry_delays_s(reply: Reply) -> Iterator[float]:
    """`RetryInfo`: seconds as protobuf's JSON has them, such as `17.5s`."""
    for one in _details(reply):
        delay = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(one.get("retryDelay", "")))
        if delay:
            yield float(delay[1])


def _details(reply: Reply) -> list[dict[str, Any]]:
    details = _error(reply).get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []


def _said(reply: Reply) -> str:
    error = _error(reply)
    text = f"{error.get('status', '')} {error['message']}".strip() if error.get("message") else reply.detail()
    return f"HTTP {reply.status}: {text}" if text else f"HTTP {reply.status}"


def _error(reply: Reply) -> dict[str, Any]:
    """The error in an answer; a streaming front answers with a list of one."""
    body = reply.json()
    if isinstance(body, list) and body:
        body = body[0]
    return _object(_object(body).get("error"))


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
