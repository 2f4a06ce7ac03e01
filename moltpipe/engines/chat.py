"""The screenwriter called `chat`: a language model behind OpenAI's chat API, at Groq, xAI or a server of one's own.

Here: the wire, the two rounds, and what both cost. Not here: what the model is told and what is wrong with a draft
(`brief`), keeping the answer (`synchronous`).

A draft that breaks a rule is sent back once, with its faults. Both rounds are one call. The first draft is kept on
disk before the second request leaves, so a repair that was throttled, or lost in a crash and sent again by a person,
costs one round and not two. The draft is no answer to the call: after a crash nobody knows whether the repair was
billed, and the call stays ambiguous.

An error after an answer names that answer in `job`: a draft that stays bad is paid for, and without an id the layer
would buy it again with every attempt at the episode. A repair that may still be had names none: its draft is kept, and
only the repair is bought.

Source: https://console.groq.com/docs/api-reference (chat), /docs/structured-outputs, /docs/errors, /docs/rate-limits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moltpipe.engines import brief
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.protocols import EpisodeRequest, ExternalId, Hosting, Order, Quote, Written
from moltpipe.engines.synchronous import SynchronousEngine
from moltpipe.engines.wire import Reply, Wire, base_url
from moltpipe.settings import ChatAccount
from moltpipe.studio.screenplay import EPISODES_PER_SERIES, EpisodeScript

NAME = "chat"
TEMPERATURE = 0.7
MAX_COMPLETION_TOKENS = 12_000
"""Twelve shots take about 2500 tokens, a reasoning model as many again before them. Groq counts all of it against the
tokens per minute, so an account with fewer than about 16,000 of them is refused with 413."""
TYPICAL_COMPLETION_TOKENS = 4_000
_CHARS_PER_TOKEN = 4
_UNIT = "million tokens"
_COMPLAINTS_SHOWN = 6

_REPAIR_STILL_WANTED = frozenset(
    {ErrorClass.RETRY_SAFE, ErrorClass.THROTTLED, ErrorClass.AMBIGUOUS, ErrorClass.AUTH, ErrorClass.QUOTA}
)


class AnswerFormat(StrEnum):
    """How a server is asked for JSON, from the surest to the plainest."""

    SCHEMA = "json_schema"
    OBJECT = "json_object"
    TEXT = "text"


class _Usage(BaseModel):
    """Tokens of one round, as the provider counted them. Reasoning counts as completion."""

    model_config = ConfigDict(frozen=True)

    prompt_tokens: int
    completion_tokens: int


class _Round(BaseModel):
    """One answer of the model."""

    model_config = ConfigDict(frozen=True)

    id: str
    content: str
    answer_format: AnswerFormat
    usage: _Usage | None
    """None where the provider does not say."""


class _Kept(BaseModel):
    """What is kept of a finished call."""

    script: EpisodeScript
    rounds: tuple[_Usage | None, ...]


class Chat(SynchronousEngine[EpisodeRequest, Written]):
    """Writes one of the four later episodes.

    `price_usd` of the account, where it is set, is the price of a million tokens, in and out alike.
    """

    name = NAME

    def __init__(self, account: ChatAccount, *, answers: Path, timeout_s: float = 120.0) -> None:
        super().__init__(answers)
        self._account = account
        base = base_url(account.base_url, "/v1")
        self._wire = Wire(
            NAME,
            base,
            headers={"authorization": f"Bearer {account.key}"} if account.key else {},
            secrets=[account.key],
            timeout_s=timeout_s,
        )
        self._hosting = hosting(account, base, account.key, holds_request=True)

    @property
    def model(self) -> str:
        """The provider's name of the model."""
        return self._account.model

    @property
    def hosting(self) -> Hosting:
        """The limits of the account."""
        return self._hosting

    def quote(self, request: EpisodeRequest) -> Quote:
        """The price of one round with an episode of usual length; a repair costs about as much again."""
        written = json.dumps(payload(request, self.model), ensure_ascii=False)
        tokens_in, tokens_out = -(-len(written) // _CHARS_PER_TOKEN), TYPICAL_COMPLETION_TOKENS
        parts = self._reckoned(_Usage(prompt_tokens=tokens_in, completion_tokens=tokens_out))
        return Quote(
            _sum(part.cost_usd for part in parts),
            f"in: {parts[0].basis}; out: {parts[1].basis}; about {_CHARS_PER_TOKEN} characters a token",
        )

    async def submit(self, request: EpisodeRequest, order: Order) -> ExternalId:
        """Have the episode written. A draft that was kept for its repair goes once the answer is kept."""
        job = await super().submit(request, order)
        self.answers.drop(self._draft_id(request))
        return job

    async def ask(self, request: EpisodeRequest, order: Order) -> tuple[ExternalId, bytes]:
        """One round, or two.

        Raises:
            EngineError: `invalid_input` for the pilot, which is the agent's own; `provider_fault` with the faults
                of the draft, and the cost of both rounds, when the repair did not mend them. Once a round was
                answered, `job` names the last answer, unless the kept draft can still be repaired.
        """
        order = replace(order, departed=_Once(order.departed))
        kept = self.answers.of_job(self._draft_id(request))
        draft = _Round.model_validate_json(kept) if kept else await self._first_draft(request, order)
        rounds = [draft]
        verdict = brief.judged(request, draft.content)
        if verdict.script is None:
            self.answers.keep_aside(self._draft_id(request), draft.model_dump_json().encode())
            rounds.append(await self._repair(request, draft, verdict.complaints, order))
            verdict = brief.judged(request, rounds[-1].content)
        usages = tuple(one.usage for one in rounds)
        job = _job(order, rounds[-1].id)
        if verdict.script is None:
            self.answers.drop(self._draft_id(request))
            raise self._not_mended(verdict.complaints, job, self._cost(usages))
        return job, _Kept(script=verdict.script, rounds=usages).model_dump_json().encode()

    def read(self, answer: bytes) -> Written:
        """The script in a kept answer, with what both rounds cost where the provider counted tokens."""
        kept = _Kept.model_validate_json(answer)
        return Written(script=kept.script, billed_usd=self._cost(kept.rounds))

    # The rounds --------------------------------------------------------------------------------------------------

    async def _first_draft(self, request: EpisodeRequest, order: Order) -> _Round:
        """The first draft, in the surest format that the server takes; one that it refuses is not billed."""
        for answer_format in AnswerFormat:
            body = payload(request, self.model, answer_format)
            reply = await self._wire.post("/chat/completions", body, departed=order.departed)
            if not _refuses(reply, answer_format):
                return self._round(reply, answer_format, order, before=())
        raise refusal(self._wire, reply)

    async def _repair(
        self, request: EpisodeRequest, draft: _Round, complaints: tuple[str, ...], order: Order
    ) -> _Round:
        body = payload(request, self.model, draft.answer_format)
        body["messages"] += brief.repair_messages(draft.content, complaints)
        try:
            reply = await self._wire.post("/chat/completions", body, departed=order.departed)
            return self._round(reply, draft.answer_format, order, before=(draft.usage,))
        except EngineError as failure:
            if failure.error_class not in _REPAIR_STILL_WANTED:
                self.answers.drop(self._draft_id(request))
                if failure.job is None:
                    # The repair was refused: the draft is all that was answered and billed.
                    failure.job, failure.cost_usd = _job(order, draft.id), self._cost((draft.usage,))
            raise

    def _round(
        self, reply: Reply, answer_format: AnswerFormat, order: Order, *, before: tuple[_Usage | None, ...]
    ) -> _Round:
        """What the model answered.

        Raises:
            EngineError: it was refused; or withheld, cut off or left out, with the answer's id and the cost of this
                round and those before; `ambiguous` when there is neither an answer nor an id.
        """
        if _code(reply) == "json_validate_failed":
            # Groq's best-effort mode: the model ran, and what it wrote is no JSON of the schema.
            said = str(_error(reply).get("failed_generation") or "")
            return _Round(id=_digest(reply.body), content=said, answer_format=answer_format, usage=None)
        if not reply.ok:
            raise refusal(self._wire, reply)
        document = reply.document()
        if not document:
            raise self._wire.error(ErrorClass.AMBIGUOUS, f"HTTP {reply.status} with an answer that is no JSON")
        usage = _usage(document.get("usage"))
        choice = _choice(document)
        if choice is None:
            raise self._without_choices(reply, order, self._cost((*before, usage)))
        # Small servers leave the id out.
        answer_id = str(document.get("id") or _digest(reply.body))
        self._refuse_unfinished(choice, _job(order, answer_id), self._cost((*before, usage)))
        content = content_text(_message(choice).get("content"))
        return _Round(id=answer_id, content=content, answer_format=answer_format, usage=usage)

    def _without_choices(self, reply: Reply, order: Order, cost: Decimal | None) -> EngineError:
        message, answer_id = f"an answer without choices: {reply.detail()}", reply.document().get("id")
        if not answer_id:
            return self._wire.error(ErrorClass.AMBIGUOUS, message)
        job = _job(order, str(answer_id))
        return self._wire.error(ErrorClass.PROVIDER_FAULT, message, cost_usd=cost, job=job)

    def _refuse_unfinished(self, choice: dict[str, Any], job: ExternalId, cost: Decimal | None) -> None:
        reason = choice.get("finish_reason")
        refused = _message(choice).get("refusal")
        if reason == "content_filter" or refused:
            why = f"the model refused: {refused}" if refused else "the provider withheld the answer (content_filter)"
            raise self._wire.error(ErrorClass.FILTERED, why, cost_usd=cost, job=job)
        if reason == "length":
            why = (
                f"the answer was cut off at {MAX_COMPLETION_TOKENS} tokens: set MOLTPIPE_CHAT_MODEL to a model that "
                "reasons less or writes more"
            )
            raise self._wire.error(ErrorClass.PROVIDER_FAULT, why, cost_usd=cost, job=job)

    def _not_mended(self, complaints: tuple[str, ...], job: ExternalId, cost: Decimal | None) -> EngineError:
        shown = [self._wire.scrub(one) for one in complaints[:_COMPLAINTS_SHOWN]]
        rest = len(complaints) - len(shown)
        faults = "; ".join(shown) + (f"; and {rest} more" if rest else "")
        message = f"the draft breaks rules and its repair did not mend it: {faults}"
        return EngineError(NAME, ErrorClass.PROVIDER_FAULT, message, cost_usd=cost, job=job)

    # Money and names ---------------------------------------------------------------------------------------------

    def _cost(self, rounds: Iterable[_Usage | None]) -> Decimal | None:
        """What the rounds cost; None when one of them is not known."""
        usages = list(rounds)
        counted = [one for one in usages if one is not None]
        if len(counted) < len(usages):
            return None
        return _sum(part.cost_usd for usage in counted for part in self._reckoned(usage))

    def _reckoned(self, usage: _Usage) -> tuple[Quote, Quote]:
        own = self._account.price_usd
        tokens_in, tokens_out = (Decimal(one) / 1_000_000 for one in (usage.prompt_tokens, usage.completion_tokens))
        return (
            reckon(NAME, self.model, tokens_in, _UNIT, option="in", own_price_usd=own),
            reckon(NAME, self.model, tokens_out, _UNIT, option="out", own_price_usd=own),
        )

    def _draft_id(self, request: EpisodeRequest) -> ExternalId:
        """The name of a kept draft: of the request and not of the call, so that a new call takes it up as well."""
        asked = json.dumps([self._wire.base_url, payload(request, self.model)], sort_keys=True)
        return ExternalId(f"draft:{_digest(asked.encode())}")


def payload(request: EpisodeRequest, model: str, answer_format: AnswerFormat = AnswerFormat.SCHEMA) -> dict[str, Any]:
    """The body of the first round, from the request alone.

    There is no seed: writing an episode anew is a new call of the same request, and shall give another script.

    Raises:
        EngineError: there is no such later episode.
    """
    _refuse_pilot(request)
    with_schema = answer_format is not AnswerFormat.SCHEMA
    body: dict[str, Any] = {
        "model": model,
        "messages": brief.messages(request, with_schema=with_schema),
        "temperature": TEMPERATURE,
        "max_completion_tokens": MAX_COMPLETION_TOKENS,
        "stream": False,
    }
    if answer_format is AnswerFormat.SCHEMA:
        schema = {"name": "episode", "strict": True, "schema": brief.episode_schema(request.bible)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif answer_format is AnswerFormat.OBJECT:
        body["response_format"] = {"type": "json_object"}
    return body


def content_text(content: object) -> str:
    """A message's content as text: servers send a string, a list of parts, or the JSON itself."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(content_text(part) for part in content)
    if isinstance(content, dict):
        inner = content.get("text", content.get("json"))
        return json.dumps(content, ensure_ascii=False) if inner is None else content_text(inner)
    return ""


def refusal(wire: Wire, reply: Reply) -> EngineError:
    """What an answer other than success means, by the providers' own words before its status.

    Source: https://console.groq.com/docs/errors ; xAI sends `{code, error}` with text in both, a wrong key as 400,
    lack of credits as 403 or 429, and withheld content as 403.
    """
    code, detail = _code(reply), reply.detail()
    words = f"{code} {detail}".lower()
    special: ErrorClass | None = None
    if "insufficient_quota" in words or re.search(r"\bcredits\b|spending limit", words):
        special = ErrorClass.QUOTA
    elif re.search(r"content_filter|content_policy|content management policy|usage guidelines", words):
        special = ErrorClass.FILTERED
    elif code == "invalid_api_key" or "incorrect api key" in words:
        special = ErrorClass.AUTH
    elif reply.status in (429, _FLEX_CAPACITY):
        special = ErrorClass.THROTTLED
    elif reply.status == _CANCELLED:
        special = ErrorClass.AMBIGUOUS
    if special is None:
        return wire.refusal(reply, accepting=True)
    wait_s = retry_after_s(reply) if special is ErrorClass.THROTTLED else None
    return wire.error(special, f"HTTP {reply.status}: {detail}", retry_after_s=wait_s)


_FLEX_CAPACITY = 498
"""Groq's own: no room in the flex tier, the request is not processed."""
_CANCELLED = 499
"""Groq's own: somebody cancelled the request, which may have been running."""


def retry_after_s(reply: Reply) -> float | None:
    """How long to wait: the header, else "try again in 9m38.016s", else when the used-up window begins anew.

    Groq counts requests per day and tokens per minute; `x-ratelimit-reset-*` says when each is whole again. What is
    used up without `remaining-requests` being 0 is tokens.
    """
    if "retry-after" in reply.headers:
        return reply.retry_after_s()
    said = re.search(r"try again in ([\d.hms]+)", reply.detail())
    used_up = "requests" if reply.headers.get("x-ratelimit-remaining-requests") == "0" else "tokens"
    hint = said[1] if said else reply.headers.get(f"x-ratelimit-reset-{used_up}", "")
    return _seconds(hint) or reply.retry_after_s()


def _seconds(text: str) -> float | None:
    """`2m59.56s`, `7.66s` or `12ms` in seconds; None where it is no length of time."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text)
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * units[unit] for number, unit in parts) if parts else None


def _refuses(reply: Reply, answer_format: AnswerFormat) -> bool:
    """Whether a server takes no answer in this format. Then it did not accept the request."""
    if reply.ok or answer_format is AnswerFormat.TEXT or _code(reply) == "json_validate_failed":
        return False
    words = r"response.?format|json_schema|json_object|structured outputs?|json mode"
    return reply.status in (400, 404, 422, 501) and re.search(words, reply.detail(), re.IGNORECASE) is not None


def _error(reply: Reply) -> dict[str, Any]:
    """OpenAI's `error` object; empty where there is none."""
    error = reply.document().get("error")
    return error if isinstance(error, dict) else {}


def _code(reply: Reply) -> str:
    """The provider's own word for what is wrong; empty where it has none or where nothing is."""
    if reply.ok:
        return ""
    return str(_error(reply).get("code") or reply.document().get("code") or "")


def _choice(document: dict[str, Any]) -> dict[str, Any] | None:
    """The first choice of an answer; None where there is none."""
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _job(order: Order, answer_id: str) -> ExternalId:
    """Small servers number their answers from one after every start: the call makes the id unique."""
    return ExternalId(f"{order.call_id}:{answer_id}")


def _usage(told: object) -> _Usage | None:
    counted = told if isinstance(told, dict) else {}
    tokens_in, tokens_out = counted.get("prompt_tokens"), counted.get("completion_tokens")
    if not isinstance(tokens_in, int) or not isinstance(tokens_out, int):
        return None
    return _Usage(prompt_tokens=tokens_in, completion_tokens=tokens_out)


def _refuse_pilot(request: EpisodeRequest) -> None:
    number = request.episode_number
    if not brief.FIRST_LATER_EPISODE <= number <= EPISODES_PER_SERIES:
        expected = f"expected {brief.FIRST_LATER_EPISODE} to {EPISODES_PER_SERIES}"
        raise EngineError(NAME, ErrorClass.INVALID_INPUT, f"episode_number={number}: {expected}", cost_usd=Decimal(0))


class _Once:
    """Passes on the first of several departures."""

    def __init__(self, departed: Callable[[], None]) -> None:
        self._departed: Callable[[], None] | None = departed

    def __call__(self) -> None:
        if self._departed is not None:
            departed, self._departed = self._departed, None
            departed()


def _sum(costs: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None when one of the costs is not known."""
    total = Decimal(0)
    for cost in costs:
        if cost is None:
            return None
        total += cost
    return total


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
