"""The stitch: conformed clips joined by stream copy over one soundtrack.

Here: joining, the one AAC encode, and mending a clip that does not fit. Not here: whether the result may be
published (`media.gate`), how the soundtrack came about (`media.sound`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from moltpipe.media.conform import conform, conforms, natural_frames
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import probe
from moltpipe.media.reel import CONCAT, container_options, reel_list
from moltpipe.media.runner import run, url
from moltpipe.media.sound import SAMPLE_RATE
from moltpipe.studio.profiles import Profile

AAC_FRAME = 1024
"""Samples in one AAC packet. Decoders put out whole packets, so a soundtrack of whole packets has an exact length."""
AUDIO_BITRATE = "192k"


@dataclass(frozen=True)
class Stitched:
    """A finished cut. `samples` are those of the soundtrack as encoded, at 48 kHz."""

    frames: int
    seconds: float
    samples: int
    conformed_again: tuple[int, ...]
    """Positions (from 0) of clips that were not house film and had to be transcoded first."""


def stitch(clips: Sequence[Path], soundtrack: Path, target: Path, *, profile: Profile) -> Stitched:
    """Join clips by stream copy, lay the soundtrack under them, and write an MP4 with its index first.

    The soundtrack is encoded to AAC once, over its whole length, cut or padded by at most half a packet (11 ms) so
    that picture and sound differ by less than a frame at any rate up to 60. A clip of another fingerprint is
    conformed again, never the whole episode.

    Raises:
        MediaError: no clip, an unreadable one, a soundtrack that is a frame or more off, or FFmpeg failed.
    """
    if not clips:
        raise MediaError("an episode has at least one clip")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reel: list[Path] = []
        mended: list[int] = []
        frames = 0
        for position, clip in enumerate(clips):
            found = probe(clip)
            length = natural_frames(found, profile)
            if conforms(found, profile):
                reel.append(clip)
            else:
                again = folder / f"again-{position}.mp4"
                conform(clip, profile, again, frames=length)
                reel.append(again)
                mended.append(position)
            frames += length
        seconds = profile.seconds(frames)
        samples = _fitting(soundtrack, seconds, profile)
        script = folder / "reel.txt"
        script.write_text(reel_list(reel), encoding="utf-8")
        with landing(target) as part:
            _lay_under(script, soundtrack, samples, part)
    return Stitched(frames=frames, seconds=seconds, samples=samples, conformed_again=tuple(mended))


def _fitting(soundtrack: Path, seconds: float, profile: Profile) -> int:
    """Samples of the soundtrack as it will be encoded: whole AAC packets, as near to the picture's end as can be."""
    sound = probe(soundtrack).audio
    if sound is None:
        raise MediaError(f"the soundtrack {soundtrack.name} holds no sound")
    if abs(sound.duration_seconds - seconds) >= 1 / profile.rate:
        raise MediaError(
            f"the soundtrack {soundtrack.name} lasts {sound.duration_seconds:.3f} s, the picture {seconds:.3f} s"
        )
    return max(1, round(seconds * SAMPLE_RATE / AAC_FRAME)) * AAC_FRAME


def _lay_under(script: Path, soundtrack: Path, samples: int, target: Path) -> None:
    sound = ffmpeg.input(url(soundtrack)).audio.filter("aresample", SAMPLE_RATE)
    sound = sound.filter("apad", whole_len=samples).filter("atrim", end_sample=samples)
    picture = ffmpeg.input(url(script), format="concat", **CONCAT).video
    encoded = {"c:v": "copy", "c:a": "aac", "b:a": AUDIO_BITRATE, "ar": SAMPLE_RATE, "ac": 2, "map_metadata": -1}
    compiled = ffmpeg.get_args(ffmpeg.output(picture, sound, url(target), **encoded))[:-1]
    run(["-xerror", *compiled, *container_options(), "-f", "mp4", url(target)], timeout_s=900)
