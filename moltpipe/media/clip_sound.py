"""The sound that a clip came with, kept apart from its picture.

Here: taking it out, as long as the picture and in step with it. Not here: whether and how loud it is heard
(`media.sound`), whether a camera is asked for sound (`engines`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import av
import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import opened, picture_of
from moltpipe.media.runner import deadline_s, run, url

SAMPLE_RATE = 48_000
NOTHING_HEARD_DBFS = -60.0
"""Peak up to which a track is taken for none: models and cameras that make no sound often add an empty one, with the
noise of a converter or of its encoder in it."""


def extract(source: Path, target_flac: Path, *, seconds: float) -> float | None:
    """Write a clip's first sound as 48 kHz stereo FLAC of exactly `round(seconds * 48000)` samples.

    It begins with the first frame of the picture, as a conformed take does; what is missing is silence, what runs on is
    cut. More channels than two are mixed down.

    Returns:
        Its length in seconds, or None, and no file, where the clip has no sound or nothing is heard in it.

    Raises:
        MediaError: the clip cannot be read, it lasts no sample, or FFmpeg failed.
    """
    samples = round(seconds * SAMPLE_RATE)
    if samples < 1:
        raise MediaError(f"the sound of {source.name} cannot last {seconds} s")
    found = _placed(source)
    if found is None:
        return None
    sound = ffmpeg.input(url(source))["a:0"].filter("aresample", SAMPLE_RATE, **{"async": 1, "first_pts": 0})
    sound = sound.filter("aformat", sample_fmts="fltp", channel_layouts="stereo")
    # FFmpeg makes one channel into two at 0.71 of its level, players at all of it.
    sound = sound.filter("volume", math.sqrt(2), precision="float") if found.is_mono else sound
    heard = (
        sound.filter("aformat", sample_fmts="s16")
        .filter("atrim", start_sample=round(found.picture_starts_at_s * SAMPLE_RATE))
        .filter("asetpts", "PTS-STARTPTS")
        .filter("apad", whole_len=samples)
        .filter("atrim", end_sample=samples)
        .filter("volumedetect")
    )
    with landing(target_flac) as part:
        written = heard.output(url(part), acodec="flac", format="flac", map_metadata=-1)
        said = run(["-loglevel", "info", *ffmpeg.get_args(written)], timeout_s=deadline_s(seconds)).stderr
        peak = re.search(r"max_volume: (-?[\d.]+|-inf) dB", said)
        if peak is None:
            raise MediaError(f"nothing was measured in the sound of {source.name}. FFmpeg said:\n{said}")
        if float(peak[1]) > NOTHING_HEARD_DBFS:
            return samples / SAMPLE_RATE
    target_flac.unlink()
    return None


@dataclass(frozen=True)
class _Placed:
    """A clip's sound beside its picture."""

    picture_starts_at_s: float
    """From the start of the file, which FFmpeg counts from."""
    is_mono: bool


def _placed(source: Path) -> _Placed | None:
    """How the sound lies; None where there is none."""
    with opened(source) as container:
        picture, sound = picture_of(container), next(iter(container.streams.audio), None)
        if sound is None:
            return None
        first = next(container.decode(picture), None) if picture is not None else None
        at_s = first.time if first is not None and first.time is not None else 0.0
        starts_at_s = max(0.0, at_s - (container.start_time or 0) / av.time_base)
        return _Placed(picture_starts_at_s=starts_at_s, is_mono=sound.codec_context.channels == 1)
