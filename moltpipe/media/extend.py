"""Filling a shot that is longer than its take.

Here: the five strategies of the screenplay as pictures. Not here: how long a shot lasts (`studio.timing`), and
which strategy it has (the script says so).

What the take shows is never encoded a second time: the filling is made alone, in the house encoding, and joined to
the take by copy. Only a cut, a speed ramp and a filling too short to stand alone are encoded as a whole.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
from PIL import Image

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import as_image, opened, picture_of, probe
from moltpipe.media.reel import encode_frames, encode_graph, join
from moltpipe.media.runner import url
from moltpipe.studio.profiles import Profile
from moltpipe.studio.screenplay import ExtendStrategy

SHORTEST_PIECE = 3
"""Frames. Below that x264 puts out no reordered frame and the joined file's decoding times stumble."""
ZOOM_PER_SECOND = 0.025
LARGEST_ZOOM = 0.25
"""How far the camera goes in, as a part of the picture: a frame that fills three seconds moves by 7 %."""
PAN_TOWARDS = (0.62, 0.42)
"""Where in the picture the camera goes, as parts of width and height: off the middle, so that it drifts as well."""
LOOP_S = 1.5
"""Longest part of the take's end that swings back and forth; the memory that FFmpeg needs grows with it."""


def extend(take: Path, strategy: ExtendStrategy, *, frames: int, profile: Profile, target: Path) -> None:
    """Make a conformed take exactly `frames` long, in the same encoding.

    A longer take is cut, one of that very length is kept as it is. A shorter one is filled:

    - `none`, `hold_last_frame`: the last frame stands.
    - `slow_2d_pan`: the camera drifts slowly into the last frame.
    - `loop_subtle_motion`: the take's end swings backwards and forwards.
    - `speed_ramp`: the whole take is slowed down, ever more towards its end, without standing still.

    Raises:
        MediaError: the take cannot be read, `frames` is not positive, or FFmpeg failed.
    """
    if frames < 1:
        raise MediaError(f"a shot has at least one frame, not {frames}")
    found = probe(take).video
    if found is None:
        raise MediaError(f"{take.name} has no picture")
    missing = frames - found.frames
    if missing == 0:
        _keep(take, target)
    elif missing < 0:
        _hold(take, frames, profile, target)
    elif strategy is ExtendStrategy.SPEED_RAMP and found.frames > 1:
        _slow_down(take, found.frames, frames, profile, target)
    elif min(missing, found.frames) < SHORTEST_PIECE:
        _hold(take, frames, profile, target)
    else:
        with tempfile.TemporaryDirectory() as folder:
            filling = Path(folder) / "filling.mp4"
            match strategy:
                case ExtendStrategy.SLOW_2D_PAN:
                    encode_frames(_drift(last_picture(take), missing, profile), profile, filling)
                case ExtendStrategy.LOOP_SUBTLE_MOTION:
                    _swing(take, found.frames, missing, profile, filling)
                case _:
                    encode_frames(_stand(last_picture(take), missing), profile, filling)
            join([take, filling], target)


def _keep(take: Path, target: Path) -> None:
    with landing(target) as part:
        try:
            os.link(take, part)
        except OSError:
            shutil.copyfile(take, part)


def _hold(take: Path, frames: int, profile: Profile, target: Path) -> None:
    picture = ffmpeg.input(url(take)).video.filter("tpad", stop=-1, stop_mode="clone")
    encode_graph(picture, profile, target, frames=frames)


def last_picture(clip: Path) -> Image.Image:
    """The last frame of a BT.709 clip as RGB.

    Raises:
        MediaError: the clip cannot be read or has no frame.
    """
    with opened(clip) as container:
        picture = picture_of(container)
        last = deque(container.decode(picture), maxlen=1) if picture is not None else deque()
        if not last:
            raise MediaError(f"{clip.name} has no frame")
        return as_image(last[0])


def _stand(picture: Image.Image, frames: int) -> Iterator[bytes]:
    still = picture.tobytes()
    return (still for _ in range(frames))


def _drift(picture: Image.Image, frames: int, profile: Profile) -> Iterator[bytes]:
    """Frames of a camera that eases into the picture; the first is one step in, so that nothing stands at the seam.

    The window is cut with fractions of a pixel: FFmpeg's `zoompan` rounds it to whole ones, and a slow move trembles.
    """
    width, height = picture.size
    seconds = frames / profile.rate
    depth = min(LARGEST_ZOOM, ZOOM_PER_SECOND * seconds)
    for number in range(1, frames + 1):
        # Accelerates over the first part of the way, then goes on evenly: a stop at the end would look like a freeze.
        progress = number / frames
        eased = progress * progress * (2 - progress)
        scale = 1 - depth * eased
        left = (width - width * scale) * PAN_TOWARDS[0]
        top = (height - height * scale) * PAN_TOWARDS[1]
        window = (left, top, left + width * scale, top + height * scale)
        yield picture.resize((width, height), Image.Resampling.BICUBIC, box=window).tobytes()


def _swing(take: Path, take_frames: int, frames: int, profile: Profile, target: Path) -> None:
    """Backwards from the last frame but one, forwards to the last again, and so on."""
    reach = min(take_frames - 1, frames, math.floor(LOOP_S * profile.rate))
    clock = f"N/({profile.rate}*TB)"
    end = (
        ffmpeg.input(url(take))
        .video.filter("trim", start_frame=take_frames - 1 - reach)
        .filter("setpts", "PTS-STARTPTS")
        .filter_multi_output("split")
    )
    # Each way leaves out the frame at which the other one ended, or it would be shown twice.
    backwards = end[0].filter("reverse").filter("trim", start_frame=1).filter("setpts", clock)
    forwards = end[1].filter("trim", start_frame=1).filter("setpts", clock)
    there_and_back = ffmpeg.concat(backwards, forwards)
    picture = there_and_back.filter("loop", loop=-1, size=2 * reach).filter("setpts", clock)
    encode_graph(picture, profile, target, frames=frames)


def _slow_down(take: Path, take_frames: int, frames: int, profile: Profile, target: Path) -> None:
    """Show the take at a speed that falls evenly from its first frame to its last, which is the shot's last as well.

    With r the mean speed, it falls from min(1, 1.5 r) to what keeps the mean, at least r/2: it never stands still.
    Frame s of the take then stands at the time t for which first*t + bend*t^2 = s. Between two frames of the take,
    pictures are blended: shown twice instead, they would stutter.
    """
    mean = (take_frames - 1) / (frames - 1)
    first = min(1.0, 1.5 * mean)
    bend = (mean - first) / (frames - 1)
    at = f"2*N/({first!r}+sqrt(max(0,{first * first!r}+4*{bend!r}*N)))"
    picture = (
        ffmpeg.input(url(take))
        # minterpolate swallows the last frames that it gets: these are there to be swallowed.
        .video.filter("tpad", stop=3, stop_mode="clone")
        .filter("setpts", f"({at})/({profile.rate}*TB)")
        .filter("minterpolate", fps=profile.rate, mi_mode="blend", scd="none")
        .filter("tpad", stop=-1, stop_mode="clone")
    )
    encode_graph(picture, profile, target, frames=frames)
