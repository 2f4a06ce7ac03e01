"""The one taxonomy of what can go wrong at an engine."""

from __future__ import annotations

from enum import StrEnum


class ErrorClass(StrEnum):
    """What a failure means for the caller. Only `retry_safe` and `throttled` are tried again by themselves."""

    RETRY_SAFE = "retry_safe"
    THROTTLED = "throttled"
    AMBIGUOUS = "ambiguous"
    INVALID_INPUT = "invalid_input"
    FILTERED = "filtered"
    QUOTA = "quota"
    AUTH = "auth"
    PROVIDER_FAULT = "provider_fault"
    EXPIRED = "expired"


class EngineError(Exception):
    """An engine refused or failed a request."""

    def __init__(self, engine: str, error_class: ErrorClass, message: str) -> None:
        super().__init__(f"{engine}: {message} ({error_class})")
        self.engine = engine
        self.error_class = error_class
        self.message = message
