"""The one taxonomy of what can go wrong at an engine."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum


class ErrorClass(StrEnum):
    """What a failure means for the caller. Only `retry_safe` and `throttled` are tried again by themselves."""

    RETRY_SAFE = "retry_safe"
    """Certainly not accepted, or over for good at the provider: the same request may be sent again."""
    THROTTLED = "throttled"
    """Certainly not accepted, because there were too many: later."""
    AMBIGUOUS = "ambiguous"
    """May have been accepted: nobody knows."""
    INVALID_INPUT = "invalid_input"
    """The request itself is wrong and will be as wrong the next time."""
    FILTERED = "filtered"
    """Refused or withheld for what it shows or says."""
    QUOTA = "quota"
    """The account has no credit left."""
    AUTH = "auth"
    """The key is wrong, or may not do this."""
    PROVIDER_FAULT = "provider_fault"
    """The provider says that it failed."""
    EXPIRED = "expired"
    """The result, or the job, is gone or came too late."""


class EngineError(Exception):
    """An engine refused or failed a request. The text holds no key and no signed address.

    `retry_after_s` is the provider's own hint in seconds. `cost_usd` is what the provider charges for the
    failed job where that is documented; None means that it is not known. `job` is the provider's id of a request that
    was accepted and answered although nothing can be made of the answer: it is not sent again by itself.
    """

    def __init__(
        self,
        engine: str,
        error_class: ErrorClass,
        message: str,
        *,
        retry_after_s: float | None = None,
        cost_usd: Decimal | None = None,
        job: str | None = None,
    ) -> None:
        super().__init__(f"{engine}: {message} ({error_class})")
        self.engine = engine
        self.error_class = error_class
        self.message = message
        self.retry_after_s = retry_after_s
        self.cost_usd = cost_usd
        self.job = job


class JobOver(EngineError):
    """A look found that the job is over and made nothing. Of the class `retry_safe`, a new one is fine.

    Apart from a look that itself failed with `retry_safe`, after which the same job is looked at again.
    """
