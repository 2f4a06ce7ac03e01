"""Film and sound for the tests, and the eyes and ears that look at what came out.

Here: small sources made by FFmpeg, reels whose every frame can be told by its grey, and readers of both.
"""

from __future__ import annotations

import array
import wave
from pathlib import Path

import av
from PIL import Image

from moltpipe.media.probe import as_image, opened
from moltpipe.media.reel import encode_frames
from moltpipe.media.runner import run, url
from moltpipe.studio.profiles import Profile, parse_profile

P = parse_profile("180p24")
"""320x180 at 24 frames per second: large enough to see, small enough to be quick."""
DARKEST, STEP = 40, 3


def source(path: Path, args: str) -> Path:
    """Anything that FFmpeg can make."""
    run([*args.split(), "-y", url(path)], timeout_s=60)
    return path


def ramp(path: Path, frames: int, profile: Profile = P) -> Path:
    """A conformed reel in which frame n is of the grey that `frame_numbers` reads as n."""
    size = profile.width * profile.height * 3
    encode_frames((bytes([DARKEST + STEP * number]) * size for number in range(frames)), profile, path)
    return path


def scene(path: Path, frames: int = 48, profile: Profile = P) -> Path:
    """A conformed reel with plenty to see: colour bars, moving edges, a running clock."""
    size = f"{profile.width}x{profile.height}"
    moving = source(
        path.with_suffix(".nut"), f"-f lavfi -i testsrc2=s={size}:r={profile.rate} -frames:v {frames} -c:v ffv1"
    )
    with av.open(str(moving)) as container:
        pictures = [frame.reformat(format="rgb24") for frame in container.decode(video=0)]
        encode_frames((_rgb(picture) for picture in pictures), profile, path)
    moving.unlink()
    return path


def _rgb(picture: av.VideoFrame) -> bytes:
    return as_image(picture).tobytes()


def pictures(path: Path) -> list[Image.Image]:
    """All frames of a file."""
    with opened(path) as container:
        return [as_image(frame) for frame in container.decode(video=0)]


def frame_numbers(path: Path) -> list[float]:
    """Which frame of the ramp each frame shows."""
    middles = [picture.convert("L").getpixel((picture.width // 2, picture.height // 2)) for picture in pictures(path)]
    return [(float(str(grey)) - DARKEST) / STEP for grey in middles]


def samples(path: Path) -> list[int]:
    """The left channel of a 16-bit WAV."""
    with wave.open(str(path)) as file:
        values = array.array("h", file.readframes(file.getnframes()))
        return values[:: file.getnchannels()].tolist()
