"""The camera `replicate`: any video model that Replicate hosts.

Here: what goes into the models that we know, and what they charge for. Not here: the life of a prediction
(`predictions`), the words of the prompt (`prompting`).

A model that is not known here gets the prompt alone: Replicate refuses an input that a model does not have, and
Veo's own inputs changed between its versions. Sound is asked for only where the request wants it: Veo charges half as
much again with it, or double.

Sources: the API pages of https://replicate.com/google/veo-3.1-fast and https://replicate.com/minimax/hailuo-02 .
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from moltpipe.engines.hosted import hosting
from moltpipe.engines.predictions import USUAL_PATH, Predictions
from moltpipe.engines.prices import reckon
from moltpipe.engines.prompting import NEGATIVE_PROMPT, film_prompt
from moltpipe.engines.protocols import ExternalId, Filmed, Hosting, Order, Progress, Quote, TakeRequest, Whereabouts
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, base_url
from moltpipe.settings import ReplicateAccount

NAME = "replicate"

_VEO_LENGTHS_S = (4, 6, 8)
_HAILUO_LENGTHS_S = (6, 10)
_MILLISECOND = 0.001
_FULL_HD_LINES = 1080
_HD_LINES = 720
_HAILUO_FULL_HD_S = 6
"""The longest that Hailuo films at 1080 lines."""


@dataclass(frozen=True)
class Filming:
    """A model's input for a take, and what it is charged by."""

    given: Mapping[str, Any]
    quantity: Decimal
    unit: str
    option: str = ""


def veo(request: TakeRequest) -> Filming:
    """Veo 3 and 3.1: 4, 6 or 8 seconds, lying or upright, at 720 or 1080 lines."""
    seconds = _snapped(request.seconds, _VEO_LENGTHS_S)
    given = {
        "prompt": film_prompt(request),
        "negative_prompt": NEGATIVE_PROMPT,
        "aspect_ratio": "9:16" if request.height > request.width else "16:9",
        "duration": seconds,
        "resolution": "1080p" if min(request.width, request.height) > _HD_LINES else "720p",
        "generate_audio": request.with_sound,
        "seed": request.seed,
    }
    return Filming(given, Decimal(seconds), "second", "audio" if request.with_sound else "silent")


def hailuo(request: TakeRequest) -> Filming:
    """Hailuo 02 and 2.3: 6 or 10 seconds, the longer ones at 768 lines only. They take no seed and no shape.

    The prompt is not given to the model's own rewriter, which would make a character look different in every shot.
    """
    seconds = _snapped(request.seconds, _HAILUO_LENGTHS_S)
    fine = min(request.width, request.height) >= _FULL_HD_LINES and seconds <= _HAILUO_FULL_HD_S
    resolution = "1080p" if fine else "768p"
    given = {
        "prompt": film_prompt(request),
        "duration": seconds,
        "resolution": resolution,
        "prompt_optimizer": False,
    }
    return Filming(given, Decimal(seconds), "second", resolution)


def plain(request: TakeRequest) -> Filming:
    """Any other model: how long it films is its own affair, so it is reckoned by the run."""
    return Filming({"prompt": film_prompt(request)}, Decimal(1), "run")


_KNOWN: Mapping[str, Callable[[TakeRequest], Filming]] = {
    "google/veo-3": veo,
    "google/veo-3-fast": veo,
    "google/veo-3.1": veo,
    "google/veo-3.1-fast": veo,
    "minimax/hailuo-02": hailuo,
    "minimax/hailuo-2.3": hailuo,
}


def filming(model: str, request: TakeRequest) -> Filming:
    """The input of a model, `owner/name` or `owner/name:version`, for a take."""
    return _KNOWN.get(model.partition(":")[0], plain)(request)


class Replicate:
    """Films through one model of Replicate."""

    name = NAME

    def __init__(self, account: ReplicateAccount, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        address = base_url(account.base_url, USUAL_PATH)
        self.model = account.model
        self.hosting: Hosting | None = hosting(account, address, account.key)
        self._own_price_usd = account.price_usd
        self._predictions = Predictions(NAME, address, account.key, deadline_s=account.deadline_s, timeout_s=timeout_s)

    def quote(self, request: TakeRequest) -> Quote:
        """By the second that will be filmed, which may be more than were asked for; unknown models by the run."""
        take = filming(self.model, request)
        return reckon(NAME, self.model, take.quantity, take.unit, option=take.option, own_price_usd=self._own_price_usd)

    async def submit(self, request: TakeRequest, order: Order) -> ExternalId:
        """Create the prediction.

        Raises:
            EngineError: it was refused, or nobody knows.
        """
        return await self._predictions.create(self.model, filming(self.model, request).given, order)

    async def poll(self, job: ExternalId) -> Progress | Filmed:
        """Look once.

        Raises:
            JobOver: the prediction made no film.
            EngineError: the look failed.
        """
        seen = await self._predictions.look(job)
        return seen if isinstance(seen, Progress) else Filmed(file=seen)

    async def cancel(self, job: ExternalId) -> None:
        """Stop the prediction. Once it runs, Replicate charges for it all the same."""
        await self._predictions.cancel(job)

    async def find(self, request: TakeRequest, order: Order) -> ExternalId | Whereabouts:
        """Look for the prediction in the account's list, by model and input.

        Raises:
            EngineError: the list could not be read.
        """
        return await self._predictions.find(self.model, filming(self.model, request).given, order)


def _snapped(seconds: float, lengths: tuple[int, ...]) -> int:
    """The shortest length that is long enough, else the longest there is."""
    return next((length for length in lengths if length + _MILLISECOND >= seconds), lengths[-1])
