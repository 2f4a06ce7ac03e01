"""The voice called `elevenlabs`: ElevenLabs' text to speech, with a time for every character.

Here: what is sent, which voice a speaker gets, what each refusal means, how character times become word times, and
the search of the account's history for a line whose answer never arrived. Not here: keeping answers
(`engines.synchronous`), limits and trying again (the layer that calls).

No seed is sent: it would make a line that is spoken again on purpose sound as it did before. No idempotency key
either, as there is none; the history is what keeps a lost answer from being paid for twice.

Source: https://elevenlabs.io/docs/api-reference (text-to-speech convert-with-timestamps, history) and
https://elevenlabs.io/docs/eleven-api/resources/errors; error words of the older form from ElevenLabs' help centre.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote as quoted

from moltpipe.engines import wire
from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.protocols import (
    Download,
    ExternalId,
    Hosting,
    LineRequest,
    Order,
    Progress,
    Quote,
    Recorded,
    Whereabouts,
)
from moltpipe.engines.recordings import decoded, written_recording
from moltpipe.engines.synchronous import KEPT_S, SynchronousEngine
from moltpipe.engines.voices import Actor, Gender, cast
from moltpipe.settings import ElevenlabsAccount
from moltpipe.studio.records import Word
from moltpipe.studio.screenplay import NARRATOR
from moltpipe.studio.words import spread_words, word_spans

NAME = "elevenlabs"
UNIT = "thousand characters"
OUTPUT_FORMAT = "mp3_44100_128"
"""The best that every plan may ask for."""
TIMEOUT_S = 120.0
SETTLES = timedelta(seconds=30)
"""A line of a minute takes some seconds to make, and stands in the history once it is made."""

ACTORS = (
    Actor("CwhRBWXzGAHq8TQ4Fs17", Gender.MALE),  # Roger
    Actor("EXAVITQu4vr4xnSDxMaL", Gender.FEMALE),  # Sarah
    Actor("FGY2WhTYpPnrIDTdsKH5", Gender.FEMALE),  # Laura
    Actor("IKne3meq5aSn9XLyUdCD", Gender.MALE),  # Charlie
    Actor("JBFqnCBsd6RMkjVDRZzb", Gender.MALE),  # George
    Actor("N2lVS1w4EtoT3dr4eOWO", Gender.MALE),  # Callum
    Actor("SAz9YHcvj6GT2YYXdXww"),  # River
    Actor("TX3LPaxmHKxFdv7VOQHJ", Gender.MALE),  # Liam
    Actor("Xb7hH8MSUJpSbSDYk0k2", Gender.FEMALE),  # Alice
    Actor("XrExE9yKIg1WjnnlVkGX", Gender.FEMALE),  # Matilda
    Actor("bIHbv24MWmeRgasZH58o", Gender.MALE),  # Will
    Actor("cgSgspJ2msm6clMCkdW9", Gender.FEMALE),  # Jessica
    Actor("cjVigY5qzO86Huf0OWal", Gender.MALE),  # Eric
    Actor("iP95p4xoKVk53GoZ742B", Gender.MALE),  # Chris
    Actor("nPczCjzI2devNBz1zQrb", Gender.MALE),  # Brian
    Actor("onwK4e9ZLuTAKqWW03F9", Gender.MALE),  # Daniel
    Actor("pFZP5JQG7iQjIQuC4Bku", Gender.FEMALE),  # Lily
    Actor("pqHfZKP75CvOlQylNhV4", Gender.MALE),  # Bill
)
"""ElevenLabs' default voices, which every account has. A fixed list: voices must not change with the account's own."""

_VOICE_ID = re.compile(r"[A-Za-z0-9]{20}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_IN_HISTORY = "history:"
_SKEW = timedelta(seconds=60)
_PAGE = 100
_MOST_PAGES = 50
_SERVER_ERROR = 500
_LOOK_AGAIN = (429, 500, 502, 503, 504)

_CLASSES = {
    "quota_exceeded": ErrorClass.QUOTA,
    "insufficient_credits": ErrorClass.QUOTA,
    "payment_required": ErrorClass.QUOTA,
    "invalid_api_key": ErrorClass.AUTH,
    "missing_permissions": ErrorClass.AUTH,
    "detected_unusual_activity": ErrorClass.AUTH,
    "voice_not_found": ErrorClass.INVALID_INPUT,
    "voice_does_not_exist": ErrorClass.INVALID_INPUT,
    "voice_access_denied": ErrorClass.INVALID_INPUT,
    "famous_voice_not_permitted": ErrorClass.INVALID_INPUT,
    "voice_not_fine_tuned": ErrorClass.INVALID_INPUT,
    "max_character_limit_exceeded": ErrorClass.INVALID_INPUT,
    "text_too_long": ErrorClass.INVALID_INPUT,
    "content_against_policy": ErrorClass.FILTERED,
    "too_many_concurrent_requests": ErrorClass.THROTTLED,
    "concurrent_limit_exceeded": ErrorClass.THROTTLED,
    "rate_limit_exceeded": ErrorClass.THROTTLED,
    "system_busy": ErrorClass.THROTTLED,
}
"""What ElevenLabs' words mean, which goes before the status: an empty purse comes as a 401."""
_PAUSES_S = {
    "too_many_concurrent_requests": 1.0,
    "concurrent_limit_exceeded": 1.0,
    "rate_limit_exceeded": 10.0,
    "system_busy": 15.0,
}
"""A request that is one too many waits for another to end; a busy system is left alone for longer."""


def payload(account: ElevenlabsAccount, request: LineRequest) -> dict[str, Any]:
    """The body of the request for a line."""
    return {"text": request.text, "model_id": account.model}


def voice_of(account: ElevenlabsAccount, request: LineRequest) -> str:
    """The voice of a line: the script's if it names one of ElevenLabs', else the narrator's or the speaker's own.

    Ids of other providers stand in many scripts; they are no error here, they say nothing to this engine.
    """
    if request.voice_id and _VOICE_ID.fullmatch(request.voice_id):
        return request.voice_id
    if request.speaker == NARRATOR:
        return account.voice_id
    return cast(request, (actor for actor in ACTORS if actor.voice != account.voice_id)) or account.voice_id


def timed_words(alignment: object) -> tuple[Word, ...]:
    """The words in ElevenLabs' `alignment`: characters of the text, with start and end of each in seconds.

    Times never go backwards. Empty where there is no alignment, or none that can be read.
    """
    if not isinstance(alignment, Mapping):
        return ()
    lists = [alignment.get(f"character{name}") for name in ("s", "_start_times_seconds", "_end_times_seconds")]
    if not all(isinstance(one, list) for one in lists):
        return ()
    timed = [
        (str(piece), float(start), float(end))
        for piece, start, end in zip(*(one or () for one in lists), strict=False)
        if _is_moment(start) and _is_moment(end)
    ]
    text = "".join(piece for piece, _, _ in timed)
    if _SURROGATE.search(text):  # an emoji in halves: no such word can be stored
        return ()
    times = [(start, end) for piece, start, end in timed for _ in piece]
    words: list[Word] = []
    for first, after in word_spans(text):
        start = max(times[first][0], words[-1].end if words else 0.0)
        end = max(start, *(end for _, end in times[first:after]))
        words.append(Word(text=text[first:after], start=round(start, 3), end=round(end, 3)))
    return tuple(words)


@dataclass(frozen=True)
class _Listing:
    """Items of the history, newest first; `complete` unless there were more than anybody would read."""

    items: tuple[dict[str, Any], ...]
    complete: bool


class Elevenlabs(SynchronousEngine[LineRequest, Recorded]):
    """Speaks a line at ElevenLabs. An external id is `history:` and the history's id, or the request's own id."""

    name = NAME

    def __init__(
        self,
        account: ElevenlabsAccount,
        *,
        answers: Path,
        workdir: Path,
        timeout_s: float = TIMEOUT_S,
        settles: timedelta = SETTLES,
    ) -> None:
        """`answers` outlives the process; `workdir` takes the recordings, which belong to the caller."""
        super().__init__(answers)
        self._account = account
        self._workdir = workdir
        base = wire.base_url(account.base_url, "/v1")
        self._wire = wire.Wire(
            NAME, base, headers={"xi-api-key": account.key}, secrets=(account.key,), timeout_s=timeout_s
        )
        self.hosting: Hosting | None = hosting(account, base, account.key, holds_request=True, settles=settles)

    @property
    def model(self) -> str:
        """ElevenLabs' model id."""
        return self._account.model

    def quote(self, request: LineRequest) -> Quote:
        """What the line's characters cost. Voices of the library may cost a multiple, which no list tells."""
        characters = Decimal(len(payload(self._account, request)["text"]))
        return reckon(NAME, self.model, characters / 1000, UNIT, own_price_usd=self._account.price_usd)

    async def ask(self, request: LineRequest, order: Order) -> tuple[ExternalId, bytes]:
        """Have the line spoken.

        Raises:
            EngineError: refused, not answered, or answered without sound.
        """
        body = payload(self._account, request)
        if not request.text.strip():
            raise self._wire.error(ErrorClass.INVALID_INPUT, f"there is nothing to say in {request.text!r}")
        voice = voice_of(self._account, request)
        reply = await self._wire.post(
            f"/text-to-speech/{quoted(voice, safe='')}/with-timestamps?output_format={OUTPUT_FORMAT}",
            body,
            departed=order.departed,
        )
        if not reply.ok:
            raise self._refusal(reply, request, voice)
        answer = reply.document()
        if decoded(answer.get("audio_base64")) is None:
            raise self._wire.error(
                ErrorClass.AMBIGUOUS, f"HTTP {reply.status} without sound: it may have been spoken and billed"
            )
        kept = {"text": request.text, "answer": answer}
        return _id_of(reply, order), json.dumps(kept).encode()

    def read(self, answer: bytes) -> Recorded:
        """The recording in a kept answer.

        Raises:
            EngineError: `provider_fault`, as there is nothing in it that plays.
        """
        kept = json.loads(answer)
        sound = decoded(kept["answer"].get("audio_base64")) or b""
        file, seconds = written_recording(NAME, sound, self._workdir, ".mp3")
        words = timed_words(kept["answer"].get("alignment")) or spread_words(kept["text"], seconds)
        return Recorded(file=file, words=words)

    async def poll(self, job: ExternalId) -> Progress | Recorded:
        """The result of a kept answer, else what the account's history has of it.

        Raises:
            EngineError: `expired` when neither this machine nor the history has it; else the look failed.
        """
        if self.answers.of_job(job) is not None:
            return await super().poll(job)
        item = await self._item(job)
        if item is None:
            raise JobOver(NAME, ErrorClass.EXPIRED, f"{job} is neither on this machine nor in the history")
        alignments = item.get("alignments")
        return Recorded(
            file=Download(
                f"{self._wire.base_url}/history/{quoted(str(item['history_item_id']), safe='')}/audio",
                headers=self._wire.headers,
            ),
            words=timed_words(alignments.get("alignment")) if isinstance(alignments, Mapping) else (),
        )

    async def find(self, request: LineRequest, order: Order) -> ExternalId | Whereabouts:
        """The kept answer of this call, else the same words in the same voice in the account's history.

        Raises:
            EngineError: the history could not be looked at just now.
        """
        kept = await super().find(request, order)
        if not isinstance(kept, Whereabouts):
            return kept
        listing = await self._listed(order.left_at - _SKEW, voice_id=voice_of(self._account, request))
        text = payload(self._account, request)["text"].strip()
        ours = [
            item
            for item in listing.items
            if str(item.get("text") or "").strip() == text
            and item.get("model_id") in (None, self.model)
            and order.others.isdisjoint(_names_of(item))
        ]
        if ours:
            return ExternalId(_IN_HISTORY + str(ours[-1]["history_item_id"]))
        return Whereabouts.NOT_THERE if listing.complete else Whereabouts.UNKNOWN

    async def _item(self, job: ExternalId) -> dict[str, Any] | None:
        if not job.startswith(_IN_HISTORY):
            listing = await self._listed(datetime.now(UTC) - timedelta(seconds=KEPT_S))
            return next((item for item in listing.items if item.get("request_id") == job), None)
        reply = await self._wire.get(f"/history/{quoted(job.removeprefix(_IN_HISTORY), safe='')}")
        if reply.ok and reply.document().get("history_item_id"):
            return reply.document()
        refusal = self._wire.refusal(reply)
        if refusal.error_class is ErrorClass.INVALID_INPUT or reply.ok:
            return None
        raise refusal

    async def _listed(self, since: datetime, **filters: str) -> _Listing:
        """The history's items made since then. What cannot be listed is a listing that is empty and not complete.

        Raises:
            EngineError: the look itself failed, so another one may do.
        """
        items: list[dict[str, Any]] = []
        params: dict[str, Any] = {"page_size": _PAGE, "date_after_unix": math.floor(since.timestamp()), **filters}
        for _ in range(_MOST_PAGES):
            reply = await self._wire.get("/history", params=params)
            page = reply.document().get("history")
            if not reply.ok or not isinstance(page, list):
                if reply.status in _LOOK_AGAIN:
                    raise self._wire.refusal(reply)
                return _Listing((), complete=False)
            recent = [item for item in page if item.get("date_unix", math.inf) >= params["date_after_unix"]]
            items += recent
            if len(recent) < len(page) or not page or not reply.document().get("has_more"):
                return _Listing(tuple(items), complete=True)
            params["start_after_history_item_id"] = page[-1]["history_item_id"]
        return _Listing(tuple(items), complete=False)

    def _refusal(self, reply: wire.Reply, request: LineRequest, voice: str) -> EngineError:
        word = _word_of(reply)
        known = _CLASSES.get(word) or (ErrorClass.FILTERED if "policy" in word or "moderation" in word else None)
        if known is None or reply.status >= _SERVER_ERROR:
            return self._wire.refusal(reply, accepting=True)
        message = f"HTTP {reply.status} {word}: {reply.detail()}"
        if known is ErrorClass.INVALID_INPUT and "voice" in word:
            message += f" (voice {voice} of {request.speaker}: name another one in the script or in the settings)"
        if known is ErrorClass.THROTTLED:
            message += _too_many(reply, self._account.max_concurrency)
        return self._wire.error(known, message, retry_after_s=reply.retry_after_s() or _PAUSES_S.get(word))


def _is_moment(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _id_of(reply: wire.Reply, order: Order) -> ExternalId:
    """The history's id of the answer goes first: it can be looked up anywhere. The last resort is a digest."""
    if reply.headers.get("history-item-id"):
        return ExternalId(_IN_HISTORY + reply.headers["history-item-id"])
    digest = hashlib.sha256(order.call_id.bytes + reply.body).hexdigest()[:32]
    return ExternalId(reply.headers.get("request-id") or f"answer:{digest}")


def _names_of(item: Mapping[str, Any]) -> frozenset[str]:
    """The external ids that an item of the history may be known by."""
    return frozenset({_IN_HISTORY + str(item.get("history_item_id")), str(item.get("request_id"))})


def _word_of(reply: wire.Reply) -> str:
    """ElevenLabs' word for what is wrong: `code` today, `status` in older answers; empty where there is none."""
    detail = reply.document().get("detail")
    if not isinstance(detail, Mapping):
        return ""
    words = [str(detail.get(key) or "") for key in ("code", "status")]
    return next((word for word in words if word in _CLASSES), words[0] or words[1])


def _too_many(reply: wire.Reply, set_to: int) -> str:
    """What the account allows, where that is less than the settings say."""
    allowed = reply.headers.get("maximum-concurrent-requests", "")
    if not allowed.isdigit() or int(allowed) >= set_to:
        return ""
    return (
        f" (the account allows {allowed} at once: set MOLTPIPE_{NAME.upper()}_MAX_CONCURRENCY, now {set_to}, to that)"
    )
