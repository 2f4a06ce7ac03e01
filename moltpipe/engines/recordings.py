"""What the hosted voices share: sound out of an answer becomes a file whose length is known.

Here: writing it and looking at it. Not here: where the sound is in an answer (the engine's module), loudness and
format (`media.sound`).
"""

from __future__ import annotations

import base64
import binascii
import uuid
from pathlib import Path

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import probe


def decoded(text: object) -> bytes | None:
    """The bytes in a base64 text; None where it is none, or empty."""
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def written_recording(engine: str, sound: bytes, folder: Path, suffix: str) -> tuple[Path, float]:
    """Write sound into a new file of `folder`; the file, which belongs to the caller, and its length in seconds.

    Raises:
        EngineError: `provider_fault`, as it cannot be played. It was made, and most likely charged for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{engine}-{uuid.uuid4().hex}{suffix}"
    file.write_bytes(sound)
    try:
        audio = probe(file).audio
    except MediaError as failure:
        file.unlink(missing_ok=True)
        raise EngineError(
            engine, ErrorClass.PROVIDER_FAULT, f"the answer holds no sound that plays: {failure}"
        ) from failure
    if audio is None or not audio.samples:
        file.unlink(missing_ok=True)
        raise EngineError(engine, ErrorClass.PROVIDER_FAULT, "the answer holds a file without sound")
    return file, audio.duration_seconds
