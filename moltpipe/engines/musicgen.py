"""The composer `musicgen`: Meta's MusicGen on Replicate.

Here: its input and what it charges for. Not here: the life of a prediction (`predictions`), the words of the prompt
(they come with the request), repeating a piece until it is long enough (the layer that mixes).

MusicGen makes thirty seconds at most. Its weights were published under CC-BY-NC: whether music made with them may
be sold is for the operator to find out.

Source: the API page of https://replicate.com/meta/musicgen .
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from moltpipe.engines.hosted import hosting
from moltpipe.engines.predictions import USUAL_PATH, Predictions
from moltpipe.engines.prices import reckon
from moltpipe.engines.protocols import Composed, ExternalId, Hosting, Order, Progress, Quote, ScoreRequest, Whereabouts
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, base_url
from moltpipe.settings import MusicgenAccount, ReplicateAccount

NAME = "musicgen"
LONGEST_S = 30


def composing(request: ScoreRequest) -> dict[str, Any]:
    """MusicGen's input: whole seconds, stereo, and WAV, so that nothing is compressed twice."""
    return {
        "prompt": request.prompt,
        "model_version": "stereo-large",
        "duration": min(max(math.ceil(request.seconds), 1), LONGEST_S),
        "output_format": "wav",
    }


class Musicgen:
    """Composes through MusicGen, on an account of its own or on that of the camera `replicate`."""

    name = NAME

    def __init__(
        self, account: MusicgenAccount, replicate: ReplicateAccount, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        address = base_url(account.base_url or replicate.base_url, USUAL_PATH)
        key = account.key or replicate.key
        self.model = account.model
        self.hosting: Hosting | None = hosting(account, address, key)
        self._own_price_usd = account.price_usd
        self._predictions = Predictions(NAME, address, key, deadline_s=account.deadline_s, timeout_s=timeout_s)

    def quote(self, request: ScoreRequest) -> Quote:
        """By the second of music. Replicate charges for the computer's time, so this is an estimate."""
        seconds = Decimal(composing(request)["duration"])
        return reckon(NAME, self.model, seconds, "second", own_price_usd=self._own_price_usd)

    async def submit(self, request: ScoreRequest, order: Order) -> ExternalId:
        """Create the prediction.

        Raises:
            EngineError: it was refused, or nobody knows.
        """
        return await self._predictions.create(self.model, composing(request), order)

    async def poll(self, job: ExternalId) -> Progress | Composed:
        """Look once.

        Raises:
            JobOver: the prediction made no music.
            EngineError: the look failed.
        """
        seen = await self._predictions.look(job)
        return seen if isinstance(seen, Progress) else Composed(file=seen)

    async def cancel(self, job: ExternalId) -> None:
        """Stop the prediction. Once it runs, Replicate charges for it all the same."""
        await self._predictions.cancel(job)

    async def find(self, request: ScoreRequest, order: Order) -> ExternalId | Whereabouts:
        """Look for the prediction in the account's list, by model and input.

        Raises:
            EngineError: the list could not be read.
        """
        return await self._predictions.find(self.model, composing(request), order)
