"""Predictions, which is what Replicate calls its jobs: the part that all models there have in common.

Here: creating, looking, cancelling and finding again, and what Replicate's words for a failure mean. Not here: what
goes into a model and what it costs (`replicate`, `musicgen`).

Replicate takes no reference of the client's and knows no idempotency key. So a prediction whose creation got no
answer is found again by its input in the account's list, and its webhook carries our call in the address.

Sources: https://replicate.com/docs/reference/http , https://replicate.com/docs/topics/predictions/lifecycle ,
https://replicate.com/docs/reference/error-codes , https://replicate.com/changelog/2025-10-16-prediction-deadlines .
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.protocols import Download, ExternalId, Order, Progress, Whereabouts
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, Reply, Wire

USUAL_PATH = "/v1"
CLOCK_SKEW = timedelta(seconds=60)
"""How far Replicate's clock may be behind ours when a lost prediction is looked for."""
MOST_PAGES = 10
"""Pages of a hundred that are read in search of a lost prediction."""
MOST_LOOKS = 30
"""Predictions that are looked at one by one in that search, where the list leaves their inputs out."""

_SHORTEST_DEADLINE_S, _LONGEST_DEADLINE_S = 5, 9000
"""Documented: at least five seconds. Not documented: a most, so the longest that the documentation shows, `2h30m`."""

_CODE = re.compile(r"\bE\d{3,5}\b")
_NEVER_STARTED = "E6716"
"""Replicate could not start the model in time. The prediction is over for good, and a new one is fine."""
_OUT_OF_MEMORY = "E1001"
_FLAGGED = re.compile(
    r"nsfw|flagged|sensitive (word|content|material)|safety (filter|system|polic)|content polic|usage guideline"
    r"|moderat(ed|ion)|prohibited|inappropriate|responsible ai|\bE005\b",
    re.IGNORECASE,
)
_WRONG_INPUT = re.compile(
    r"input validation|invalid[ _](input|argument)|validation error|must be (one of|greater|less|at (least|most))"
    r"|out of range|unsupported|too long",
    re.IGNORECASE,
)
_UNPROCESSABLE = (400, 422)
_TOO_MANY = 429
_GONE = (404, 410)
_NOTHING_TO_CANCEL = (400, 404, 405, 409, 410, 422)
_NO_LISTING = (404, 405, 501)
_SERVER_ERROR = 500
_KEYS_OF_MEDIA = ("video", "audio", "url")


class Predictions:
    """The predictions of one account. Holds nothing but addresses and the key."""

    def __init__(
        self, engine: str, base_url: str, key: str, *, deadline_s: float, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        """`deadline_s` is how long after its creation Replicate itself shall stop a prediction."""
        self._wire = Wire(
            engine, base_url, headers={"authorization": f"Bearer {key}"}, secrets=(key,), timeout_s=timeout_s
        )
        self._cancel_after = cancel_after(deadline_s)

    async def create(self, model: str, given: Mapping[str, Any], order: Order) -> ExternalId:
        """Create a prediction.

        Raises:
            EngineError: `ambiguous` for any failure of the server: the list says later what became of the request.
        """
        path, body = creation(model, given, order)
        reply = await self._wire.post(path, body, headers={"cancel-after": self._cancel_after})
        if not reply.ok:
            raise self._refused(reply)
        job = reply.document().get("id")
        if not isinstance(job, str) or not job:
            raise self._wire.error(ErrorClass.AMBIGUOUS, f"HTTP {reply.status} without the prediction's id")
        return ExternalId(job)

    async def look(self, job: ExternalId) -> Progress | Download:
        """Where a prediction stands, or where its first file lies, for an hour.

        Raises:
            JobOver: it has ended without a file, or is gone.
            EngineError: the look failed, and says nothing of the prediction.
        """
        reply = await self._wire.get(_path(job))
        if reply.status in _GONE:
            raise self._over(ErrorClass.EXPIRED, f"Replicate does not know prediction {job} any more")
        if not reply.ok:
            raise self._failed_look(reply)
        prediction = reply.document()
        match prediction.get("status"):
            case "succeeded":
                return self._made(job, prediction)
            case "failed":
                raise self._failed(str(prediction.get("error") or "failed without saying why"))
            case "aborted":
                message = f"prediction {job} reached its deadline before it started"
                raise self._over(ErrorClass.EXPIRED, message, cost_usd=Decimal(0))
            case "canceled":
                raise self._over(ErrorClass.EXPIRED, f"prediction {job} was cancelled, or reached its deadline")
            case "starting":
                return Progress(note="starting", at_work=False)
            case str() as word:
                return Progress(note=self._wire.scrub(word))
            case _:
                raise self._wire.error(ErrorClass.RETRY_SAFE, "the answer is no prediction")

    async def cancel(self, job: ExternalId) -> None:
        """Stop a prediction; one that is over or unknown is no error.

        Raises:
            EngineError: Replicate could not be asked.
        """
        reply = await self._wire.post(f"{_path(job)}/cancel", None)
        if not reply.ok and reply.status not in _NOTHING_TO_CANCEL:
            raise self._wire.refusal(reply)

    async def find(self, model: str, given: Mapping[str, Any], order: Order) -> ExternalId | Whereabouts:
        """The prediction of this model and input that was created when the order left, in the account's list.

        Of several, the one created nearest to that time. Predictions made on Replicate's web site are not ours.
        The documentation's examples of the list differ in whether it shows inputs: where it does not, each
        prediction that may be ours is looked at, the nearest first.

        Raises:
            EngineError: the list or a prediction could not be read, which is not the same as an empty list.
        """
        since = _since(order)
        entries, certain = await self._list(since)
        looks = MOST_LOOKS
        for entry in sorted(entries, key=lambda one: abs((_created(one) or since) - order.left_at)):
            ours = _is_ours(entry, model, given, order)
            if ours is None and looks and _leaves_out_input(entry):
                looks -= 1
                ours = _is_ours(await self._whole(entry), model, given, order)
            if ours:
                return ExternalId(str(entry.get("id")))
            certain = certain and ours is not None
        return Whereabouts.NOT_THERE if certain else Whereabouts.UNKNOWN

    async def _whole(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """An entry of the list with what a look at the prediction tells beyond it; as it is where that is gone."""
        reply = await self._wire.get(_path(ExternalId(entry["id"])))
        if reply.status in (*_GONE, *_NO_LISTING):
            return entry
        if not reply.ok:
            raise self._failed_look(reply)
        return {**entry, **reply.document()}

    async def _list(self, since: datetime) -> tuple[list[Mapping[str, Any]], bool]:
        """What the account's list has, newest first, and whether that is all since a time."""
        params: dict[str, str] = {"created_after": f"{since:%Y-%m-%dT%H:%M:%S.%fZ}"}
        entries: list[Mapping[str, Any]] = []
        for _ in range(MOST_PAGES):
            reply = await self._wire.get("/predictions", params=params)
            if not reply.ok and reply.status not in _NO_LISTING:
                raise self._failed_look(reply)
            page = reply.document().get("results")
            if not reply.ok or not isinstance(page, list):
                return entries, False
            entries += [entry for entry in page if isinstance(entry, dict)]
            following = str(reply.document().get("next") or "")
            if not following or any(created < since for created in map(_created, entries) if created):
                return entries, True
            # Only the query of the next page's address: a key goes nowhere but to the host that it was given for.
            params = dict(parse_qsl(urlsplit(following).query))
            if not params:
                return entries, False
        return entries, False

    def _refused(self, reply: Reply) -> EngineError:
        said = f"HTTP {reply.status}: {reply.detail()}"
        if reply.status >= _SERVER_ERROR:
            return self._wire.error(ErrorClass.AMBIGUOUS, said)
        if reply.status == _TOO_MANY:
            return self._wire.error(ErrorClass.THROTTLED, said, retry_after_s=_retry_after_s(reply))
        if reply.status in _UNPROCESSABLE and _FLAGGED.search(said):
            return self._wire.error(ErrorClass.FILTERED, said)
        return self._wire.refusal(reply, accepting=True)

    def _failed_look(self, reply: Reply) -> EngineError:
        """A look that was refused for itself says nothing of the prediction, which goes on over there."""
        refusal = self._wire.refusal(reply)
        if refusal.error_class is not ErrorClass.INVALID_INPUT:
            return refusal
        return self._wire.error(ErrorClass.RETRY_SAFE, refusal.message)

    def _failed(self, said: str) -> JobOver:
        codes = _CODE.findall(said)
        if _NEVER_STARTED in codes:
            return self._over(ErrorClass.RETRY_SAFE, said, cost_usd=Decimal(0))
        if _FLAGGED.search(said):
            return self._over(ErrorClass.FILTERED, said)
        if _OUT_OF_MEMORY in codes or _WRONG_INPUT.search(said):
            return self._over(ErrorClass.INVALID_INPUT, said)
        return self._over(ErrorClass.PROVIDER_FAULT, said)

    def _over(self, error_class: ErrorClass, message: str, *, cost_usd: Decimal | None = None) -> JobOver:
        return JobOver(self._wire.engine, error_class, self._wire.scrub(message), cost_usd=cost_usd)

    def _made(self, job: ExternalId, prediction: Mapping[str, Any]) -> Download:
        url = first_url(prediction.get("output"))
        if url is not None:
            return Download(url, self._wire.headers if self._is_replicates(url) else ())
        if prediction.get("data_removed"):
            raise self._over(ErrorClass.EXPIRED, f"Replicate has removed the output of prediction {job}")
        raise self._over(ErrorClass.PROVIDER_FAULT, f"prediction {job} succeeded without a file")

    def _is_replicates(self, url: str) -> bool:
        """Whether an address may be fetched with the key. A model writes its output itself, and could name any host."""
        ours, there = urlsplit(self._wire.base_url), urlsplit(url)
        if (there.scheme, there.netloc) == (ours.scheme, ours.netloc):
            return True
        return there.scheme == "https" and f".{there.hostname or ''}".endswith(".replicate.delivery")


def creation(model: str, given: Mapping[str, Any], order: Order) -> tuple[str, dict[str, Any]]:
    """Path and body that create a prediction: an official model by its name, any other by its version.

    The webhook's address names the call, which rescues a prediction whose id never arrived here.
    """
    name, _, version = model.partition(":")
    path = "/predictions" if version else f"/models/{name}/predictions"
    body: dict[str, Any] = {"version": version} if version else {}
    body["input"] = dict(given)
    if order.webhook_base is not None:
        body["webhook"] = f"{order.webhook_base.rstrip('/')}/replicate?call={order.call_id}"
        body["webhook_events_filter"] = ["completed"]
    return path, body


def cancel_after(deadline_s: float) -> str:
    """The header that makes Replicate give up by itself, counted from the creation: `900s`."""
    return f"{min(max(math.ceil(deadline_s), _SHORTEST_DEADLINE_S), _LONGEST_DEADLINE_S)}s"


def first_url(output: object) -> str | None:
    """The first address in a model's output, which is a text, a list, or an object that has one; None without any."""
    if isinstance(output, str):
        return output if output.startswith(("https://", "http://", "data:")) else None
    if isinstance(output, Mapping):
        output = [*(output.get(key) for key in _KEYS_OF_MEDIA), *output.values()]
    if isinstance(output, list):
        return next((url for url in map(first_url, output) if url is not None), None)
    return None


def _path(job: ExternalId) -> str:
    return f"/predictions/{quote(job, safe='')}"


def _retry_after_s(reply: Reply) -> float | None:
    """The longest of the hints in the header, in the text, and in the body's `retry_after`."""
    in_text = Reply(reply.status, {}, reply.body).retry_after_s()
    in_body = reply.document().get("retry_after")
    hints = [reply.retry_after_s(), in_text, in_body if isinstance(in_body, (int, float)) else None]
    return max((float(hint) for hint in hints if hint is not None), default=None)


def _since(order: Order) -> datetime:
    return order.left_at.astimezone(UTC) - CLOCK_SKEW


def _is_ours(entry: Mapping[str, Any], model: str, given: Mapping[str, Any], order: Order) -> bool | None:
    """Whether a prediction may be the order's; None where it does not tell its input or its time.

    Replicate forgets inputs after an hour; then nobody can tell what was made of what.
    """
    created, its_input = _created(entry), entry.get("input")
    if str(entry.get("id")) in order.others or entry.get("source") == "web" or not _same_model(entry, model):
        return False
    if created is not None and created < _since(order):
        return False
    if created is None or not isinstance(its_input, dict) or entry.get("data_removed"):
        return None
    # Defaults may have been filled in, so the input may have more than what was sent.
    return all(its_input.get(name) == value for name, value in given.items())


def _leaves_out_input(entry: Mapping[str, Any]) -> bool:
    """Whether a look at the prediction itself may tell more: not where Replicate says that the input is gone."""
    return isinstance(entry.get("id"), str) and entry.get("input") is None and not entry.get("data_removed")


def _same_model(entry: Mapping[str, Any], model: str) -> bool:
    """Official models have no version: theirs is `hidden`."""
    name, _, version = model.partition(":")
    if version and entry.get("version") not in (None, "hidden"):
        return str(entry["version"]).startswith(version)
    return entry.get("model") in (None, name)


def _created(entry: Mapping[str, Any]) -> datetime | None:
    """When a prediction was created; None where the list does not say it."""
    text = entry.get("created_at")
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment
