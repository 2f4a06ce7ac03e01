"""What hosted engines share beside the wire: their limits, from the settings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from moltpipe.engines.protocols import Hosting
from moltpipe.engines.wire import account_of
from moltpipe.settings import Account


def hosting(account: Account, base_url: str, key: str, **other: Any) -> Hosting:  # noqa: ANN401 - fields of Hosting
    """The limits of an account, with what else an engine knows of its jobs."""
    return Hosting(
        account=account_of(base_url, key),
        base_url=base_url,
        max_concurrency=account.max_concurrency,
        start_delay=timedelta(milliseconds=account.start_delay_ms),
        deadline=timedelta(seconds=account.deadline_s),
        **other,
    )
