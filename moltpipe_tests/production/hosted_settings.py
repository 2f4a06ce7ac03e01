"""The variables that make a fake provider the engine of a role."""

from __future__ import annotations

KEY = "a-key-that-nobody-may-see"


def of_engine(role: str, engine: str, base: str) -> dict[str, str]:
    return {
        f"MOLTPIPE_{role}": engine,
        f"MOLTPIPE_{engine.upper()}_BASE_URL": base,
        f"MOLTPIPE_{engine.upper()}_API_KEY": KEY,
        f"MOLTPIPE_{engine.upper()}_START_DELAY_MS": "0",
    }
