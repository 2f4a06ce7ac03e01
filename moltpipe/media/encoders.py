"""Which encoder makes house film on this machine.

Here: the trial of a hardware encoder, and how many encodes run side by side. Not here: what each encoder is told
(`media.reel`).

FFmpeg lists the encoders that it was built with, not those that work. The incident behind the trial: a program that
believed the list took NVENC on machines without a graphics card, and every clip failed.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from moltpipe.media.errors import MediaError
from moltpipe.media.probe import VideoProbe, probe
from moltpipe.media.reel import HARDWARE, SOFTWARE, encode_frames
from moltpipe.studio.profiles import Profile

AUTO = "auto"
TRIAL_TIMEOUT_S = 20.0
"""A driver that is starting needs a few seconds; one that hangs must not keep the house from opening."""
FEWEST_THREADS, MOST_THREADS = 2, 4
"""x264 loses quality and time with many threads for one clip; below two, the end of a batch leaves cores idle."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeskSize:
    """How many takes are encoded at a time, and with how many x264 threads each."""

    at_once: int
    threads: int


def desk_size(cores: int, *, at_most: int | None = None) -> DeskSize:
    """The takes to encode side by side on so many cores, at most `at_most` of them.

    Two to four threads for a take, and half as many takes again as these would need: x264 waits for the decoder and
    the scaler at times, and somebody must use the core meanwhile. Measured on two cores only: two takes of two threads
    kept 1.9 of them busy, one take of automatic threads 1.0 to 1.8.

    Raises:
        ValueError: there is no core, or nothing may be encoded.
    """
    if cores < 1 or (at_most is not None and at_most < 1):
        raise ValueError(f"{cores} cores and at most {at_most} takes: expected at least one of each")
    if cores == 1:
        return DeskSize(at_once=1, threads=1)
    threads = min(MOST_THREADS, max(FEWEST_THREADS, cores // 4))
    at_once = max(2, round(1.5 * cores / threads))
    if at_most is not None and at_most < at_once:
        # Fewer takes than would fill the cores: each may have more of them.
        return DeskSize(at_once=at_most, threads=max(threads, -(-cores // at_most)))
    return DeskSize(at_once=at_once, threads=threads)


@lru_cache(maxsize=16)
def chosen(wanted: str, profile: Profile) -> str:
    """The encoder to use for a profile: the wanted one if it passes its trial here, else libx264.

    `auto` takes the first hardware encoder that passes. A hardware encoder that was asked for by name and does not
    work is told of in the log, once for each profile. The answer is kept for this process.
    """
    if wanted == SOFTWARE:
        return SOFTWARE
    for name in HARDWARE if wanted == AUTO else (wanted,):
        refused = trial(replace(profile, encoder=name))
        if refused is None:
            return name
        level = logging.INFO if wanted == AUTO else logging.WARNING
        log.log(level, "%s does not encode %s here, libx264 is used: %s", name, profile.name, refused)
    return SOFTWARE


def trial(profile: Profile) -> str | None:
    """Encode a frame with the profile's encoder as the house does, and look at what came out.

    Done twice, with a black frame and with a striped one: clips whose headers follow their content cannot be joined.

    Returns:
        Why the encoder cannot be used; None when it can.
    """
    size = profile.width * profile.height * 3
    black, striped = bytes(size), bytes(range(240)) * (size // 240) + bytes(size % 240)
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = [
                _encoded(frame, profile, Path(folder) / f"{number}.mp4")
                for number, frame in enumerate((black, striped))
            ]
        except MediaError as error:
            return _in_short(error)
    for found in made:
        if (found.codec, found.width, found.height) != ("h264", profile.width, profile.height):
            return (
                f"it made {found.codec} of {found.width}x{found.height}, not h264 of {profile.width}x{profile.height}"
            )
        if found.frames != 1 or found.starts_at_s or not found.begins_with_keyframe:
            return f"of one frame it made {found.frames}, from {found.starts_at_s:.3f} s"
    if made[0].extradata_sha256 != made[1].extradata_sha256:
        return "its headers follow the picture, so that its clips could not be joined by copy"
    return None


def _encoded(frame: bytes, profile: Profile, target: Path) -> VideoProbe:
    encode_frames([frame], profile, target, timeout_s=TRIAL_TIMEOUT_S)
    found = probe(target).video
    if found is None:
        raise MediaError(f"{profile.encoder} made a file without a picture")
    return found


def _in_short(error: MediaError) -> str:
    """The first line that tells what FFmpeg missed, behind what became of it."""
    said = str(error).splitlines()
    return " ".join(line.strip() for line in said[:2])
