"""The camera called `ltx2`: LTX-2 behind a Modal web function, or any server that speaks the same.

Here: from a request to its body, what an answer means, and going back to a call that lasts longer than Modal holds a
request. Not here: the words of the prompt (`prompting`), keeping answers (`synchronous`).

Modal answers 303 after 150 s and names the running call in the address: that name becomes the job's id, and looking
at it starts nothing. The incident behind it: a client that followed the redirect with a POST, and one that gave up at
the first 303, both of which made a second film of the same shot.

Source: the old system's client and service; https://modal.com/docs/guide/webhook-timeouts (303, result address),
https://modal.com/docs/guide/webhook-proxy-auth (keys).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import uuid
from decimal import ROUND_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.hosted import hosting
from moltpipe.engines.prices import reckon
from moltpipe.engines.prompting import NEGATIVE_PROMPT, film_prompt
from moltpipe.engines.protocols import ExternalId, Filmed, Hosting, Order, Progress, Quote, TakeRequest
from moltpipe.engines.synchronous import SynchronousEngine
from moltpipe.engines.wire import Reply, Wire
from moltpipe.settings import Ltx2Account
from moltpipe.studio.screenplay import spoken_line

NAME = "ltx2"
WEIGHTS = "LTX-2"
GUIDANCE_SCALE = 7.5
MAX_FRAMES = 257
"""The longest clip that the weights are made for; what a shot needs beyond it, the take is extended by."""
LONG_SIDE, SHORT_SIDE = 1280, 720
"""The largest picture before its sides become multiples of 32: a 16:9 one comes as 1280x704."""
RATES = (24, 25, 30)
_SIDE_STEP, _FRAME_STEP = 32, 8
_INT4 = 2**31

_CALL_PARAMETER = "__modal_function_call_id"
_MODAL = "modal:"
_CALL_ID = re.compile(r"[\w-]{1,100}", re.ASCII)
_SEE_OTHER, _UNAVAILABLE = 303, 503
_TIMEOUTS = (408, 504)
_GONE = (404, 410)
_OWN_ERRORS = {400: ErrorClass.INVALID_INPUT, 422: ErrorClass.INVALID_INPUT, 500: ErrorClass.PROVIDER_FAULT}
"""Statuses with which the service itself answers `{error}`."""


class Ltx2(SynchronousEngine[TakeRequest, Filmed]):
    """Films one shot per request.

    A key `wk-…:ws-…` is a Modal proxy token; any other one goes as a bearer token; none means that the server asks for
    none. `price_usd` of the account is the price of a second of film: what a GPU of one's own costs, no list knows.
    """

    name = NAME

    def __init__(self, account: Ltx2Account, *, answers: Path, workdir: Path, timeout_s: float = 170.0) -> None:
        """`timeout_s` also holds for a look at a running call, which Modal answers when it is done, or after 150 s.

        Raises:
            ValueError: the account has no address.
        """
        super().__init__(answers)
        if account.base_url is None:
            raise ValueError("MOLTPIPE_LTX2_BASE_URL is not set: expected the address of the endpoint")
        self._account = account
        self._workdir = workdir
        self._wire = Wire(
            NAME,
            account.base_url,
            headers=key_headers(account.key),
            secrets=[account.key, *key_headers(account.key).values()],
            timeout_s=timeout_s,
        )
        self._hosting = hosting(account, account.base_url, account.key, holds_request=True)

    @property
    def model(self) -> str:
        """The weights, and the number of steps, which changes the picture."""
        return f"{WEIGHTS}:{self._account.steps}-steps"

    @property
    def hosting(self) -> Hosting:
        """The limits of the account."""
        return self._hosting

    def quote(self, request: TakeRequest) -> Quote:
        """The price of the seconds that are really asked for, by one's own price."""
        body = payload(request, self._account.steps)
        seconds = (Decimal(body["num_frames"]) / body["fps"]).quantize(Decimal("0.001"), rounding=ROUND_UP)
        return reckon(NAME, self.model, seconds, "second", own_price_usd=self._account.price_usd)

    async def ask(self, request: TakeRequest, order: Order) -> tuple[ExternalId, bytes]:
        """Send the request. The id is that of the kept answer, or of the call at Modal with nothing kept but that."""
        reply = await self._wire.post("", payload(request, self._account.steps), departed=order.departed)
        if _is_running(reply):
            return ExternalId(f"{_MODAL}{self._call_id(reply)}"), b""
        if not reply.ok:
            refusal = self._refusal(reply)
            if refusal.error_class is ErrorClass.PROVIDER_FAULT:
                # The service itself says that it failed: the GPU may have run for it.
                refusal.job = f"answer:{order.call_id}"
            raise refusal
        if not reply.document():
            raise self._wire.error(ErrorClass.AMBIGUOUS, f"HTTP {reply.status} with an answer that is no JSON object")
        return ExternalId(f"answer:{order.call_id}"), reply.body

    def read(self, answer: bytes) -> Filmed:
        """The film in an answer, in a file of its own."""
        try:
            document = json.loads(answer)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise self._wire.error(ErrorClass.PROVIDER_FAULT, "the answer is no JSON object")
        film = self._film_in(document)
        self._workdir.mkdir(parents=True, exist_ok=True)
        file = self._workdir / f"{NAME}-{uuid.uuid4().hex}.mp4"
        file.write_bytes(film)
        return Filmed(file=file)

    async def poll(self, job: ExternalId) -> Progress | Filmed:
        """The film of a kept answer, or one look at a call at Modal.

        A look lasts until Modal answers, up to 150 s: a result may be handed out only once, and a look that hangs up
        early could be the one that it was handed to. It is kept on disk before anything else is done.

        Raises:
            EngineError: `expired` when neither this machine nor Modal has it any more.
        """
        if not job.startswith(_MODAL):
            return await super().poll(job)
        kept = self.answers.of_job(_result_of(job))
        if kept is None:
            reply = await self._wire.get("", params={_CALL_PARAMETER: job.removeprefix(_MODAL)})
            if _is_running(reply):
                return Progress(note="running at Modal")
            if not reply.ok:
                raise self._end(reply)
            kept = reply.body
            self.answers.keep_aside(_result_of(job), kept)
        return self.read(kept)

    async def cancel(self, job: ExternalId) -> None:
        """Forget a kept answer. A call at Modal runs on: there is no way to stop it over HTTP."""
        if not job.startswith(_MODAL):
            await super().cancel(job)

    def _call_id(self, reply: Reply) -> str:
        """The call that a redirect names. The address itself is not kept.

        Raises:
            EngineError: `ambiguous`, as the request was taken on, but there is no going back to it from here.
        """
        base = urlsplit(self._wire.base_url)
        there = urlsplit(urljoin(self._wire.base_url, reply.headers.get("location", "")))
        if (there.scheme, there.netloc) != (base.scheme, base.netloc):
            why = f"redirected to another host ({there.hostname}), which is not followed"
            raise self._wire.error(ErrorClass.AMBIGUOUS, why)
        call_id = parse_qs(there.query).get(_CALL_PARAMETER, [""])[0]
        if not _CALL_ID.fullmatch(call_id):
            raise self._wire.error(ErrorClass.AMBIGUOUS, "redirected without the id of a call")
        return call_id

    def _refusal(self, reply: Reply) -> EngineError:
        """What an answer other than success means for a request that was sent.

        A timeout that somebody on the way reports does not say that nobody films.
        """
        said = f"HTTP {reply.status}: {reply.detail()}"
        if reply.status in _TIMEOUTS:
            return self._wire.error(ErrorClass.AMBIGUOUS, said)
        return self._told(reply, said) or self._wire.refusal(reply, accepting=True)

    def _end(self, reply: Reply) -> EngineError:
        """What an answer other than success means for a call: it is over, or only this look failed."""
        said = f"HTTP {reply.status}: {reply.detail()}"
        told = self._told(reply, said)
        if told is None and (reply.status in _GONE or "expiry or cancellation" in said):
            return self._wire.error(ErrorClass.EXPIRED, f"Modal does not know the call any more ({said})")
        return told or self._wire.refusal(reply)

    def _told(self, reply: Reply, said: str) -> EngineError | None:
        """What Modal or the service says in words of its own; None where only the status speaks."""
        if re.search(r"modal-http: workspace .*is disabled", said):
            return self._wire.error(ErrorClass.QUOTA, said)
        if reply.status == _UNAVAILABLE and "modal-http:" in said:
            return self._wire.error(ErrorClass.RETRY_SAFE, said)
        if "modal-http: internal error" in said:
            # The function ran and timed out, was killed, or was lost.
            return self._wire.error(ErrorClass.PROVIDER_FAULT, said)
        usual = _OWN_ERRORS.get(reply.status)
        if usual is not None and reply.document().get("error"):
            return self._wire.error(class_of_words(said, usual), said)
        return None

    def _film_in(self, document: dict[str, Any]) -> bytes:
        """The film of an answer with status 200.

        Raises:
            EngineError: there is none. Earlier versions of the service answered 200 with an error inside.
        """
        if document.get("error"):
            said = str(document["error"])
            raise self._wire.error(class_of_words(said, ErrorClass.PROVIDER_FAULT), f"answered with an error: {said}")
        encoded = document.get("video_base64")
        if not isinstance(encoded, str) or not encoded:
            raise self._wire.error(ErrorClass.PROVIDER_FAULT, "an answer without video_base64")
        try:
            film = base64.b64decode("".join(encoded.partition("base64,")[2].split() or encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise self._wire.error(ErrorClass.PROVIDER_FAULT, "video_base64 is no base64") from None
        if not film:
            raise self._wire.error(ErrorClass.PROVIDER_FAULT, "video_base64 is empty")
        return film


def payload(request: TakeRequest, steps: int) -> dict[str, Any]:
    """The body, from the request alone."""
    fps = request.rate if request.rate in RATES else RATES[0]
    width, height = picture_size(request.width, request.height)
    line = spoken_line(request.audio)
    return {
        "prompt": film_prompt(request),
        "audio_text": line.text if line else None,
        "negative_prompt": NEGATIVE_PROMPT,
        "num_frames": frame_count(request.seconds, fps),
        "fps": fps,
        "width": width,
        "height": height,
        "num_inference_steps": steps,
        "guidance_scale": GUIDANCE_SCALE,
        "seed": request.seed % _INT4,
    }


def frame_count(seconds: float, fps: int) -> int:
    """The fewest frames of the form 8k+1 that cover a length, at least 9 and at most 257."""
    # In thousandths of a frame: a float a hair above a whole one must not cost eight more.
    needed = math.ceil(Fraction(round(seconds * fps * 1000), 1000))
    return min(max(1, math.ceil((needed - 1) / _FRAME_STEP)) * _FRAME_STEP + 1, MAX_FRAMES)


def picture_size(width: int, height: int) -> tuple[int, int]:
    """The nearest size whose sides are multiples of 32, scaled down to 1280x720 where it is larger."""
    scale = min(Fraction(1), Fraction(LONG_SIDE, max(width, height)), Fraction(SHORT_SIDE, min(width, height)))
    return _side(width * scale), _side(height * scale)


def _side(length: Fraction) -> int:
    """Half a step goes down, so that 720 lines become 704, which the weights know best."""
    return max(1, math.ceil(length / _SIDE_STEP - Fraction(1, 2))) * _SIDE_STEP


def key_headers(key: str) -> dict[str, str]:
    """The headers for a key: Modal's own pair, a bearer token, or none."""
    token, _, secret = key.partition(":")
    if token.startswith("wk-") and secret.startswith("ws-"):
        return {"modal-key": token, "modal-secret": secret}
    return {"authorization": f"Bearer {key}"} if key else {}


def class_of_words(said: str, usual: ErrorClass) -> ErrorClass:
    """What the service's own words mean; it has no codes."""
    words = said.lower()
    if re.search(r"safety|nsfw|moderat|content policy", words):
        return ErrorClass.FILTERED
    if re.search(r"out of memory|\boom\b|cuda", words):
        return ErrorClass.PROVIDER_FAULT
    if re.search(r"\b(invalid|required|missing|divisible|must be|unsupported|too (long|large|many))\b", words):
        return ErrorClass.INVALID_INPUT
    return usual


def _is_running(reply: Reply) -> bool:
    """Whether Modal sends on to the call's result. It has done so with 301 and 302 before."""
    return reply.status == _SEE_OTHER or _CALL_PARAMETER in reply.headers.get("location", "")


def _result_of(job: ExternalId) -> ExternalId:
    """Under which id the result of a call at Modal is kept."""
    return ExternalId(f"result of {job}")
