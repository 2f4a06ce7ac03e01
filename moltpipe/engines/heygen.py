"""The camera called `heygen`: somebody of HeyGen's who says the shot's voiceover.

Here: what HeyGen is asked for, and what its videos and refusals mean. Not here: who is filmed by this camera
(`studio.casting`), the voiceover (the voice's engine), webhooks (`engines.signatures`), fetching the film.

A request names an avatar and the address of the voiceover, and answers with the id of a video, which is looked at until
it is `completed` or `failed`; that takes minutes. Two things keep a lost answer from being paid for again: the title
carries the call's id, so that the listing shows the video, and the `Idempotency-Key` is the call's id, for which HeyGen
gives the first answer again for 24 hours.

Version 3 refuses what it does not know, so nothing is sent that was not needed. What versions 1 and 2 answered, which
HeyGen supported until October 2026, is still understood, as servers in between still say it: `waiting`, a `code` around
the data, an error that is an object or a text.

Deleting is the only other verb that HeyGen documents, and it deletes for good: a video is never cancelled.

Sources: https://developers.heygen.com/reference/create-video , /reference/get-video , /reference/list-videos ,
/docs/error-codes , /docs/pricing , /docs/enterprise-pricing ("you are not charged for failed jobs").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from moltpipe.engines.errors import EngineError, ErrorClass, JobOver
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.protocols import Download, ExternalId, Filmed, Order, Progress, Quote, TakeRequest, Whereabouts
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, Reply, Wire
from moltpipe.settings import HeygenAccount

NAME = "heygen"

_VIDEO = re.compile(r"[\w.-]+")
_VERSION = re.compile(r"/v[123]$")
_SETTLES = timedelta(seconds=20)
_PAGE = 100
_MAX_PAGES = 10
_HD_LINES = 720
_UNAUTHORIZED, _FORBIDDEN, _CONFLICT, _TOO_MANY, _SERVER_ERROR = 401, 403, 409, 429, 500
_NO_LISTING = (404, 405, 501)
_QUEUED = frozenset({"pending", "waiting"})

_WORDS = {
    ErrorClass.FILTERED: r"moderat|polic(?:y|ies)|violat|prohibit|nsfw|inappropriate|sensitive|blocked.words",
    ErrorClass.QUOTA: r"insufficient|credit|quota|balance|payment|resource_limit_reached",
    ErrorClass.INVALID_INPUT: r"invalid|not.?found|unsupported|not supported|corrupt|missing|empty|no.face"
    r"|too.(?:long|short)|download",
}
"""What a failure's code and text are about, in the order of asking: HeyGen documents the fields, not the words."""


class Heygen:
    """Films somebody who speaks. The clip lasts as long as the voiceover and sounds like it."""

    name = NAME

    def __init__(self, account: HeygenAccount, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        address = _VERSION.sub("", account.base_url.rstrip("/"))
        key = account.key
        self.model = f"v3/{account.avatar_id}"
        self._avatar_id = account.avatar_id
        self._own_price_usd = account.price_usd
        self._wire = Wire(NAME, address, headers={"x-api-key": key}, secrets=(key,), timeout_s=timeout_s)
        self.hosting = hosting(
            account,
            address,
            key,
            settles=_SETTLES,
            first_look=timedelta(seconds=5),
            longest_pause=timedelta(seconds=30),
        )

    def quote(self, request: TakeRequest) -> Quote:
        """By the seconds of the voiceover; without one there is nothing to film and nothing to pay."""
        seconds = request.voice.seconds if request.voice else 0.0
        return reckon(NAME, self.model, Decimal(f"{seconds:.3f}"), "second", own_price_usd=self._own_price_usd)

    async def submit(self, request: TakeRequest, order: Order) -> ExternalId:
        """Order the video.

        Raises:
            EngineError: `invalid_input` for a shot without a voiceover; else what HeyGen refused.
        """
        body = self._payload(request, order)
        reply = await self._wire.post("/v3/videos", body, headers={"idempotency-key": str(order.call_id)})
        if not reply.ok:
            raise self._refusal(reply)
        data = _data(reply)
        video = data.get("video_id") or data.get("id")
        if not isinstance(video, str) or not _VIDEO.fullmatch(video):
            said = reply.detail() if reply.document().get("error") else ""
            raise self._wire.error(
                ErrorClass.AMBIGUOUS, f"HTTP {reply.status} without the id of a video {said}".strip()
            )
        return ExternalId(video)

    async def poll(self, job: ExternalId) -> Progress | Filmed:
        """Look at the video.

        Raises:
            JobOver: it failed, which costs nothing.
            EngineError: the look failed. A video that is not known is `retry_safe` too: for a while after it was
                ordered that is normal, and the call's deadline ends it.
        """
        reply = await self._wire.get(f"/v3/videos/{job}")
        if not reply.ok:
            raise self._failed_look(reply)
        data = _data(reply)
        status = str(data.get("status") or "").lower()
        if not status:
            raise self._wire.error(ErrorClass.RETRY_SAFE, f"HTTP {reply.status} without a status")
        if status == "failed":
            raise self._failure(data)
        address = data.get("video_url")
        if status == "completed" and isinstance(address, str) and address:
            return Filmed(file=Download(address))
        return Progress(note=self._wire.scrub(status), at_work=status not in _QUEUED)

    async def cancel(self, job: ExternalId) -> None:
        """Nothing: HeyGen can delete a video, not stop one, and what is deleted was paid for."""

    async def find(self, request: TakeRequest, order: Order) -> ExternalId | Whereabouts:  # noqa: ARG002 - the title tells
        """The video whose title carries the call's id."""
        token: str | None = None
        for _ in range(_MAX_PAGES):
            asked = {"limit": _PAGE, "title": str(order.call_id), **({"token": token} if token else {})}
            reply = await self._wire.get("/v3/videos", params=asked)
            if reply.status in _NO_LISTING:
                return Whereabouts.UNKNOWN
            if not reply.ok:
                raise self._failed_look(reply)
            page = reply.document()
            videos = page.get("data")
            if not isinstance(videos, list):
                return Whereabouts.UNKNOWN
            found = [video for one in videos if (video := _of_call(one, order))]
            if found:
                return found[0]
            token = page.get("next_token") or None
            if not page.get("has_more"):
                return Whereabouts.NOT_THERE
            if token is None:
                return Whereabouts.UNKNOWN
        return Whereabouts.UNKNOWN

    def _payload(self, request: TakeRequest, order: Order) -> dict[str, Any]:
        if request.voice is None:
            raise self._wire.error(
                ErrorClass.INVALID_INPUT,
                f"HeyGen's people do not keep silent: shot {request.shot_number} of episode {request.episode_number} "
                "has no voiceover; film it with another camera",
            )
        if order.link is None:
            raise self._wire.error(
                ErrorClass.RETRY_SAFE,
                "nobody can link to the voiceover, which HeyGen must fetch: the order has no link",
            )
        return payload(request, order, self._avatar_id, order.link(request.voice.key))

    def _failure(self, data: Mapping[str, Any]) -> JobOver:
        error = data.get("error")
        told = error if isinstance(error, dict) else {"message": error}
        code = str(data.get("failure_code") or told.get("code") or "")
        details = dict.fromkeys(
            str(one) for one in (data.get("failure_message"), told.get("message"), told.get("detail")) if one
        )
        text = ": ".join(filter(None, (code, *details))) or "HeyGen does not say why"
        return JobOver(NAME, _meant_by(text) or ErrorClass.PROVIDER_FAULT, self._wire.scrub(text), cost_usd=Decimal(0))

    def _failed_look(self, reply: Reply) -> EngineError:
        """A video that was ordered is not given up for a look that failed."""
        if reply.status in (_UNAUTHORIZED, _FORBIDDEN, _TOO_MANY) or reply.status >= _SERVER_ERROR:
            return self._wire.refusal(reply)
        return self._wire.error(ErrorClass.RETRY_SAFE, f"a look was answered with {_said(reply)}")

    def _refusal(self, reply: Reply) -> EngineError:
        usual = self._wire.refusal(reply, accepting=True)
        code = _code(reply)
        error_class = usual.error_class
        if reply.status == _CONFLICT:
            # The same request is under way: it has arrived before.
            error_class = ErrorClass.AMBIGUOUS
        elif reply.status < _SERVER_ERROR and code != "rate_limit_exceeded":
            meant = _meant_by(f"{code}: {reply.detail()}" if error_class is ErrorClass.INVALID_INPUT else code)
            error_class = meant if meant in (ErrorClass.FILTERED, ErrorClass.QUOTA) else error_class
        return self._wire.error(error_class, _said(reply), retry_after_s=usual.retry_after_s)


def payload(request: TakeRequest, order: Order, avatar_id: str, audio_url: str) -> dict[str, Any]:
    """The body of an order. The title is for the eye, and carries the call's id for `find`."""
    body = {
        "type": "avatar",
        "avatar_id": avatar_id,
        "audio_url": audio_url,
        "aspect_ratio": "16:9" if request.width >= request.height else "9:16",
        "resolution": "720p" if min(request.width, request.height) <= _HD_LINES else "1080p",
        "title": f"moltpipe e{request.episode_number:02d} s{request.shot_number:02d} v{request.variant_number} "
        f"{order.call_id}",
        "callback_id": str(order.call_id),
    }
    if order.webhook_base:
        body["callback_url"] = f"{order.webhook_base.rstrip('/')}/heygen"
    return body


def _of_call(entry: object, order: Order) -> ExternalId | None:
    """The id of a listed video, if it is that of the call."""
    if not isinstance(entry, dict) or str(order.call_id) not in str(entry.get("title")):
        return None
    video = entry.get("id") or entry.get("video_id")
    return ExternalId(video) if isinstance(video, str) and video not in order.others else None


def _data(reply: Reply) -> dict[str, Any]:
    """What an answer is about: all versions lay it into `data`."""
    data = reply.document().get("data")
    return data if isinstance(data, dict) else {}


def _code(reply: Reply) -> str:
    error = reply.document().get("error")
    return str(error.get("code") or "") if isinstance(error, dict) else ""


def _said(reply: Reply) -> str:
    return ": ".join(filter(None, (f"HTTP {reply.status}", _code(reply), reply.detail())))


def _meant_by(text: str) -> ErrorClass | None:
    return next((meaning for meaning, words in _WORDS.items() if re.search(words, text, re.IGNORECASE)), None)
