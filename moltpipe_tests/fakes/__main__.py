"""`python -m moltpipe_tests.fakes`: every fake provider on one port, for a moltpipe in another process.

Prints one line of JSON once it serves: its address, and the variables that send every hosted engine there. What a
test would ask a fake in its own process goes over HTTP here: `GET /control/bills` tells what was billed,
`POST /control/<prefix>/faults` with `{"fault": NAME, "times": N, ...details}` queues a fault. SIGTERM or SIGINT ends
it.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

import moltpipe_tests.fakes
from moltpipe.runtime.signals import interrupted_once
from moltpipe.settings import accounts, variable
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen, serving

API_PATHS = {"replicate": "/v1", "veo": "/v1beta", "elevenlabs": "/v1", "openai": "/v1", "chat": "/v1"}
"""Where an API begins below its provider's prefix; of the others at the prefix itself."""


class Control(Provider):
    """Not a provider: what is asked of the others from outside."""

    prefix = "control"

    def __init__(self, providers: Sequence[Provider]) -> None:
        super().__init__()
        self._providers = {one.prefix: one for one in providers}

    def handle(self, seen: Seen) -> Answer:
        match seen.method, seen.path.strip("/").split("/"):
            case "GET", ["bills"]:
                return Answer(document={prefix: _bill(one) for prefix, one in self._providers.items()})
            case "POST", [prefix, "faults"] if prefix in self._providers:
                return self._queue(self._providers[prefix], seen)
        return Answer(404, {"error": f"nothing at {seen.method} {seen.path}; providers: {sorted(self._providers)}"})

    @staticmethod
    def _queue(provider: Provider, seen: Seen) -> Answer:
        try:
            wanted = dict(seen.json())
            fault, times = Fault(wanted.pop("fault")), int(wanted.pop("times", 1))
        except (ValueError, TypeError, KeyError) as error:
            return Answer(400, {"error": f"expected a fault of {[one.value for one in Fault]}: {error!r}"})
        provider.fault(fault, times, **wanted)
        return Answer(document={"queued": times})


def fakes(latency_s: float | None = None) -> list[Provider]:
    """One of every kind there is, by its prefix; jobs last `latency_s` where that is given."""
    kinds = [kind for module in _modules() for kind in _kinds(module)]
    made = [_made(kind, latency_s) for kind in kinds]
    return sorted(made, key=lambda provider: provider.prefix)


def environment(providers: Sequence[Provider]) -> dict[str, str]:
    """The variables that send engines to providers that are served."""
    variables: dict[str, str] = {}
    for provider in providers:
        settings = accounts()[provider.prefix].model_fields
        known = {
            "base_url": provider.base + API_PATHS.get(provider.prefix, ""),
            "api_key": _told_by(provider, "key") or f"key-of-{provider.prefix}",
            "webhook_secret": _told_by(provider, "webhook_secret"),
        }
        variables |= {variable(f"{provider.prefix}_{field}"): value for field, value in known.items()
                      if value is not None and field in settings}  # fmt: skip
    return variables


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(
        prog="python -m moltpipe_tests.fakes", description="Every fake provider on one port."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes any")
    parser.add_argument("--latency", type=float, default=None, help="seconds that a job lasts")
    given = parser.parse_args(arguments)
    providers = fakes(given.latency)
    with (
        suppress(KeyboardInterrupt),
        interrupted_once(),
        serving(*providers, Control(providers), port=given.port) as base,
    ):
        sys.stdout.write(json.dumps({"base": base, "environment": environment(providers)}) + "\n")
        sys.stdout.flush()
        while True:
            signal.pause()


def _modules() -> list[ModuleType]:
    package = moltpipe_tests.fakes
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    fakes_alone = [name for name in names if not name.startswith(("__main__", "test_"))]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in fakes_alone]


def _kinds(module: ModuleType) -> list[type[Provider]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Provider) and kind.__module__ == module.__name__ and not inspect.isabstract(kind)
    ]


def _made(kind: type[Provider], latency_s: float | None) -> Provider:
    takes_latency = "latency_s" in inspect.signature(kind).parameters
    other: dict[str, Any] = {"latency_s": latency_s} if takes_latency and latency_s is not None else {}
    return kind(**other)


def _told_by(provider: Provider, name: str) -> str | None:
    """What a fake, or its module, calls by this name."""
    module = sys.modules[type(provider).__module__]
    told = getattr(provider, name, None) or getattr(module, name.upper(), None)
    return told if isinstance(told, str) else None


def _bill(provider: Provider) -> dict[str, Any]:
    return {
        "billed": provider.billed,
        "twice": provider.billed_twice,
        "most_in_flight": provider.most_in_flight,
    }


if __name__ == "__main__":
    main()
