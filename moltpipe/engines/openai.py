"""The voice called `openai`: any server with OpenAI's speech API, word times included where it is Kokoro-FastAPI.

Here: what is sent to which of the two endpoints, which voice a speaker gets, what each refusal means. Not here:
keeping answers (`engines.synchronous`), limits and trying again (the layer that calls).

`/dev/captioned_speech` tells when each word is spoken. It is tried once per process; a server without it says 404 or
the like, which accepts nothing, and gets `/audio/speech` from then on. An answer that never arrived cannot be looked
for: no such server keeps a history.

`/audio/speech` is told not to stream, which OpenAI's API has no field for. A strict server refuses the field, which
accepts nothing either, and is asked without it from then on.

Source: https://developers.openai.com/api/reference (audio speech create), https://platform.openai.com/docs/guides
(error-codes, rate-limits); Kokoro-FastAPI's routers `development` and `openai_compatible` and its `schemas`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from moltpipe.engines import wire
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.protocols import ExternalId, Hosting, LineRequest, Order, Quote, Recorded
from moltpipe.engines.recordings import decoded, written_recording
from moltpipe.engines.synchronous import SynchronousEngine
from moltpipe.engines.voices import Actor, Gender, cast
from moltpipe.settings import OpenaiAccount
from moltpipe.studio.records import Word
from moltpipe.studio.screenplay import NARRATOR
from moltpipe.studio.words import fitted_words

NAME = "openai"
UNIT = "thousand characters"
FORMAT = "wav"
TIMEOUT_S = 300.0
"""Kokoro on a processor needs about as long as the line lasts, and minutes for its first one."""

ACTORS = (
    Actor("alloy"),
    Actor("echo", Gender.MALE),
    Actor("fable"),
    Actor("nova", Gender.FEMALE),
    Actor("onyx", Gender.MALE),
    Actor("shimmer", Gender.FEMALE),
)
"""The voices that every one of OpenAI's models has, and every server that follows it knows."""

_NOT_OFFERED = frozenset({401, 403, 404, 405, 501})
"""What a server without an endpoint, or a gateway before it, answers to it. None of them accepts anything."""
_UNPROCESSABLE = (400, 422)
_STREAM = re.compile(rb"\bstream\b")
"""The field's name in a refusal: `Unrecognized request argument supplied: stream`, FastAPI's `["body", "stream"]`."""
_CLIENT_ERROR, _SERVER_ERROR, _TOO_MANY_REQUESTS = 400, 500, 429
_KOKORO = re.compile(r"(?P<language>[a-z])(?P<gender>[fm])_(?!v0)\w+")
"""Kokoro's names: language, gender, name. Those of its older model, `af_v0…`, are left out."""
_ENGLISH = "ab"
_ELSEWHERE = re.compile(r"[A-Za-z0-9]{20}|[a-z]{2,3}(-[a-z0-9]+)*\+\w+")
"""Ids of ElevenLabs and of eSpeak NG: they stand in many scripts."""
_OPENAIS_OWN = "api.openai.com"
_INSTRUCTED = "gpt-"
"""Models that take words on how to speak; others refuse the field."""

_CLASSES = {
    "insufficient_quota": ErrorClass.QUOTA,
    "billing_hard_limit_reached": ErrorClass.QUOTA,
    "billing_not_active": ErrorClass.QUOTA,
    "invalid_api_key": ErrorClass.AUTH,
    "account_deactivated": ErrorClass.AUTH,
    "content_policy_violation": ErrorClass.FILTERED,
    "content_filter": ErrorClass.FILTERED,
    "moderation_blocked": ErrorClass.FILTERED,
    "rate_limit_exceeded": ErrorClass.THROTTLED,
}
"""What OpenAI's codes mean, which goes before the status: an empty purse comes as a 429."""
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def payload(account: OpenaiAccount, request: LineRequest, voice: str, *, knows_stream: bool = True) -> dict[str, Any]:
    """The body for `/audio/speech`.

    Kokoro-FastAPI streams unless it is told not to, and a streamed WAV does not know its own length. OpenAI itself
    has no such field; `knows_stream` False says the same of another server.
    """
    body: dict[str, Any] = {"model": account.model, "input": request.text, "voice": voice, "response_format": FORMAT}
    if knows_stream and not (urlsplit(account.base_url).hostname or "").endswith(_OPENAIS_OWN):
        body["stream"] = False
    if request.voice_style and account.model.startswith(_INSTRUCTED):
        body["instructions"] = f"Speak as this character: {request.voice_style}."
    return body


def captioned_payload(account: OpenaiAccount, request: LineRequest, voice: str) -> dict[str, Any]:
    """The body for Kokoro-FastAPI's `/dev/captioned_speech`, which would stream pieces unless told not to."""
    return {
        "model": account.model,
        "input": request.text,
        "voice": voice,
        "response_format": FORMAT,
        "stream": False,
        "return_timestamps": True,
    }


def voice_of(account: OpenaiAccount, request: LineRequest, listed: Collection[str]) -> str:
    """The voice of a line: the script's if the server can have it, else the narrator's or the speaker's own.

    `listed` are the voices that the server lists, empty where it lists none.
    """
    if request.voice_id and _is_known(request.voice_id, listed):
        return request.voice_id
    if request.speaker == NARRATOR:
        return account.voice
    actors = (actor for actor in _company(account.voice, listed) if actor.voice != account.voice)
    return cast(request, actors) or account.voice


class Openai(SynchronousEngine[LineRequest, Recorded]):
    """Speaks a line at a server with OpenAI's speech API."""

    name = NAME

    def __init__(self, account: OpenaiAccount, *, answers: Path, workdir: Path, timeout_s: float = TIMEOUT_S) -> None:
        """`answers` outlives the process; `workdir` takes the recordings, which belong to the caller."""
        super().__init__(answers)
        self._account = account
        self._workdir = workdir
        base = wire.base_url(account.base_url, "/v1")
        headers = {"authorization": f"Bearer {account.key}"} if account.key else {}
        self._wire = wire.Wire(NAME, base, headers=headers, secrets=(account.key,), timeout_s=timeout_s)
        self._captioned = f"{base.removesuffix('/v1')}/dev/captioned_speech"
        self._offers_captions = True
        self._knows_stream = True
        self._listed: tuple[str, ...] | None = None
        self.hosting: Hosting | None = hosting(account, base, account.key, holds_request=True)

    @property
    def model(self) -> str:
        """The server's model id."""
        return self._account.model

    def quote(self, request: LineRequest) -> Quote:
        """What the line's characters cost, by OpenAI's prices unless one's own is set."""
        characters = Decimal(len(payload(self._account, request, self._account.voice)["input"]))
        return reckon(NAME, self.model, characters / 1000, UNIT, own_price_usd=self._account.price_usd)

    async def ask(self, request: LineRequest, order: Order) -> tuple[ExternalId, bytes]:
        """Have the line spoken.

        Raises:
            EngineError: refused, not answered, or answered without sound.
        """
        if not request.text.strip():
            raise self._wire.error(ErrorClass.INVALID_INPUT, f"there is nothing to say in {request.text!r}")
        reply = await self._spoken(request, await self._voice(request), order)
        if not reply.ok:
            raise self._refusal(reply)
        captioned = decoded(reply.document().get("audio")) is not None
        sounds = reply.headers.get("content-type", "").startswith(("audio/", "application/octet-stream"))
        if not captioned and not (sounds and reply.body):
            raise self._wire.error(
                ErrorClass.AMBIGUOUS, f"HTTP {reply.status} without sound: it may have been spoken and billed"
            )
        kept = json.dumps({"text": request.text, "captioned": captioned}).encode() + b"\n" + reply.body
        digest = hashlib.sha256(order.call_id.bytes + reply.body).hexdigest()[:32]
        return ExternalId(reply.headers.get("x-request-id") or f"answer:{digest}"), kept

    def read(self, answer: bytes) -> Recorded:
        """The recording in a kept answer, with its words spread over it where the server gave no times.

        Raises:
            EngineError: `provider_fault`, as there is nothing in it that plays.
        """
        head, _, body = answer.partition(b"\n")
        kept = json.loads(head)
        spoken = json.loads(body) if kept["captioned"] else {}
        sound = decoded(spoken.get("audio")) or body
        file, seconds = written_recording(NAME, sound, self._workdir, f".{FORMAT}")
        return Recorded(file=file, words=fitted_words(kept["text"], heard(spoken.get("timestamps")), seconds))

    async def _spoken(self, request: LineRequest, voice: str, order: Order) -> wire.Reply:
        departed = order.departed
        if self._offers_captions:
            body = captioned_payload(self._account, request, voice)
            reply = await self._wire.post(self._captioned, body, departed=departed)
            if reply.status not in _NOT_OFFERED:
                return reply
            self._offers_captions = False
            departed = _told_already
        body = payload(self._account, request, voice, knows_stream=self._knows_stream)
        reply = await self._wire.post("/audio/speech", body, departed=departed)
        if "stream" not in body or not self._may_refuse_stream(reply):
            return reply
        body = payload(self._account, request, voice, knows_stream=False)
        reply = await self._wire.post("/audio/speech", body, departed=_told_already)
        # A refusal may have named the field only because it quotes the whole body: then this one is refused as well.
        self._knows_stream = reply.status in _UNPROCESSABLE
        return reply

    def _may_refuse_stream(self, reply: wire.Reply) -> bool:
        """Whether a request was refused as wrong input, so surely not accepted, in words that name the field."""
        named = reply.status in _UNPROCESSABLE and _STREAM.search(reply.body) is not None
        return named and self._refusal(reply).error_class is ErrorClass.INVALID_INPUT

    async def _voice(self, request: LineRequest) -> str:
        if request.speaker == NARRATOR and not request.voice_id:
            return self._account.voice
        if self._listed is None:
            self._listed = await self._list()
        return voice_of(self._account, request, self._listed)

    async def _list(self) -> tuple[str, ...]:
        """The server's voices; none where it does not list them.

        Raises:
            EngineError: the look failed. A speaker must not get another voice because of that.
        """
        reply = await self._wire.get("/audio/voices")
        if reply.status == _TOO_MANY_REQUESTS or reply.status >= _SERVER_ERROR:
            raise self._refusal(reply, accepting=False)
        voices = reply.document().get("voices") if reply.status < _CLIENT_ERROR else None
        if not isinstance(voices, list):
            return ()
        names = (one.get("id") or one.get("name") if isinstance(one, Mapping) else one for one in voices)
        return tuple(name for name in names if isinstance(name, str) and name)

    def _refusal(self, reply: wire.Reply, *, accepting: bool = True) -> EngineError:
        refusal = self._wire.refusal(reply, accepting=accepting)
        words = _words_of(reply)
        known = next((_CLASSES[word] for word in words if word in _CLASSES), None)
        if known is None and reply.status < _SERVER_ERROR and any("policy" in word for word in words):
            known = ErrorClass.FILTERED
        error_class = known or refusal.error_class
        pause = reply.retry_after_s()
        if error_class is ErrorClass.THROTTLED and pause is None:
            pause = _resets_after_s(reply.headers)
        return self._wire.error(error_class, refusal.message, retry_after_s=pause)


def heard(timestamps: object) -> tuple[Word, ...]:
    """What Kokoro says that it said: words and punctuation apart, numbers as they are read. Empty where it is silent.

    Null timestamps are documented for languages other than English in older versions.
    """
    if not isinstance(timestamps, list):
        return ()
    return tuple(
        Word(text=str(one.get("word", "")), start=float(one["start_time"]), end=float(one["end_time"]))
        for one in timestamps
        if isinstance(one, Mapping) and _is_moment(one.get("start_time")) and _is_moment(one.get("end_time"))
    )


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _told_already() -> None:
    """The request before this one has told that it left."""


def _is_known(voice_id: str, listed: Collection[str]) -> bool:
    if not listed:
        return _ELSEWHERE.fullmatch(voice_id) is None
    # Kokoro mixes voices: `af_bella(2)+af_sky(1)`. It takes OpenAI's names as well.
    parts = re.split(r"[+-]", re.sub(r"\([^)]*\)", "", voice_id))
    known = {*listed, *(actor.voice for actor in ACTORS)}
    return voice_id in known or all(part in known for part in parts)


def _company(narrator: str, listed: Collection[str]) -> Iterable[Actor]:
    """Who can be cast beside the narrator: voices that speak the narrator's language, where their names tell."""
    if not listed:
        return ACTORS if any(actor.voice == narrator for actor in ACTORS) else ()
    told = [found for voice in listed if (found := _KOKORO.fullmatch(voice))]
    if not told:
        return (Actor(voice) for voice in listed)
    own = _KOKORO.fullmatch(narrator)
    languages = own["language"] if own and own["language"] not in _ENGLISH else _ENGLISH
    return (
        Actor(found[0], Gender.FEMALE if found["gender"] == "f" else Gender.MALE)
        for found in told
        if found["language"] in languages
    )


def _words_of(reply: wire.Reply) -> tuple[str, ...]:
    """OpenAI's words for what is wrong."""
    error = reply.document().get("error")
    return tuple(str(error.get(key) or "") for key in ("code", "type")) if isinstance(error, Mapping) else ()


def _resets_after_s(headers: Mapping[str, str]) -> float | None:
    """When the limits that are used up open again, in seconds: `1s`, `6m0s`, `20ms`. None where nothing says."""
    limits = ("requests", "tokens")
    used_up = [limit for limit in limits if headers.get(f"x-ratelimit-remaining-{limit}") == "0"]
    spans = [_SPAN.findall(headers.get(f"x-ratelimit-reset-{limit}", "")) for limit in used_up or limits]
    waits = [sum(float(number) * _SECONDS[unit] for number, unit in span) for span in spans if span]
    return max(waits, default=None)
