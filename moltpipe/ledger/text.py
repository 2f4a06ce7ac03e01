"""Text from outside that must be written down whatever it holds: error messages of programs and engines."""

from __future__ import annotations

_LONGEST = 4000


def storable(text: str) -> str:
    """The text without what Postgres refuses (NUL, lone surrogates), cut to 4,000 characters.

    For messages only: losing a character of one is better than losing the record that something failed.
    """
    clean = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= _LONGEST else f"{clean[: _LONGEST - 1]}…"


def one_line(error: Exception) -> str:
    """What an error says, in one line, without the excerpt of the statement that psycopg puts beneath it."""
    told = getattr(error, "orig", None) or error
    line = getattr(getattr(told, "diag", None), "message_primary", None) or str(told)
    return " ".join(line.split()) or type(error).__name__
