"""What the fake providers hand out: real clips, lines and music, made by FFmpeg once and kept in memory."""

from __future__ import annotations

import hashlib
import tempfile
from functools import cache
from pathlib import Path

from moltpipe.media.runner import run


@cache
def clip(seconds: float, width: int, height: int, rate: int = 24, seed: int = 0, *, sound: bool = True) -> bytes:
    """An MP4 that shows a moving pattern in a colour of its own, with a tone as its sound."""
    hue = seed % 360
    tone = 180 + seed % 300
    sources = ["-f", "lavfi", "-i", f"testsrc2=s={width}x{height}:r={rate}:d={seconds:g},hue=h={hue}"]
    if sound:
        sources += ["-f", "lavfi", "-i", f"sine=f={tone}:r=44100:d={seconds:g}"]
    return _made([*sources, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"], ".mp4")


@cache
def speech(text: str, kind: str = "mp3") -> bytes:
    """A line of the length that its words take: a tone that breaks off between words."""
    seconds = speech_seconds(text)
    tone = 140 + int(hashlib.sha256(text.encode()).hexdigest()[:2], 16)
    return _made(
        ["-f", "lavfi", "-i", f"sine=f={tone}:r=44100:d={seconds:g}", "-af", "tremolo=f=4:d=0.9,volume=2"], f".{kind}"
    )


def speech_seconds(text: str) -> float:
    """How long the fake voices take for a text."""
    return round(0.3 + 0.07 * len(text), 3)


@cache
def music(seconds: float, kind: str = "wav", seed: int = 0) -> bytes:
    """A chord."""
    notes = "+".join(f"0.2*sin(2*PI*{(220 + seed % 80) * ratio:g}*t)" for ratio in (1, 1.25, 1.5))
    return _made(["-f", "lavfi", "-i", f"aevalsrc={notes}:s=32000:d={seconds:g}"], f".{kind}")


def _made(arguments: list[str], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"made{suffix}"
        run([*arguments, "-fflags", "+bitexact", str(target)], timeout_s=60)
        return target.read_bytes()
