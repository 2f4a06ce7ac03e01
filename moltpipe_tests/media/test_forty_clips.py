from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from moltpipe.media.conform import conform, fingerprint, house_fingerprint
from moltpipe.media.probe import as_image, decode, opened
from moltpipe.media.runner import run, url
from moltpipe.media.stitch import stitch
from moltpipe_tests.media.material import P
from moltpipe_tests.media.test_stitch import assert_exact, soundtrack

X264 = ("-c:v", "libx264", "-preset", "ultrafast")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
FORMATS = [
    # suffix, encoding, pixel format, whether odd sizes are possible
    (".mp4", X264, "yuv420p", False),
    (".mkv", X264, "yuv444p", True),
    (".mov", X264, "yuv420p10le", False),
    (".mp4", (*X265, "-tag:v", "hvc1"), "yuv420p", False),
    (".mkv", X265, "yuv420p10le", False),
    (".webm", VP9, "yuv420p", True),
    (".webm", (*VP9, "-profile:v", "2"), "yuv420p10le", True),
    (".avi", ("-c:v", "mpeg4", "-q:v", "3"), "yuv420p", False),
    (".mov", ("-c:v", "prores_ks", "-profile:v", "1"), "yuv422p10le", False),
    (".mov", ("-c:v", "mjpeg", "-q:v", "3"), "yuvj444p", True),
]
RATES = ["24", "25", "30000/1001", "30", "variable"]
SIZES = [(160, 90), (214, 120), (96, 170), (120, 120), (160, 68), (131, 97), (85, 151)]
SOUND = {".webm": ("-c:a", "libopus"), ".avi": ("-c:a", "pcm_s16le")}


@dataclass(frozen=True)
class Clip:
    number: int

    @property
    def grey(self) -> int:
        """Of the box in its middle, by which it is told apart from the others."""
        return 40 + 5 * self.number

    @property
    def frames(self) -> int:
        """Of the shot that it is to fill: some are shorter than the clip, some longer."""
        return 17 + self.number * 7 % 20

    def make(self, room: Path) -> Path:
        suffix, encoding, pixel_format, odd = FORMATS[self.number % len(FORMATS)]
        # AVI has no times of its own for frames, so it cannot hold a variable rate.
        rate = RATES[(self.number + self.number // len(FORMATS)) % (4 if suffix == ".avi" else 5)]
        width, height = SIZES[self.number % len(SIZES)]
        if not odd:
            width, height = width - width % 2, height - height % 2
        box = f"drawbox=x=iw/4:y=ih/4:w=iw/2:h=ih/2:t=fill:color=0x{self.grey:02x}{self.grey:02x}{self.grey:02x}"
        picture = f"testsrc2=s={width}x{height}:r={'30' if rate == 'variable' else rate}:d=1,format=yuv444p,{box}"
        if rate == "variable":
            picture += ",setpts=N/30/TB+mod(N\\,3)*0.009/TB,select=gt(mod(n\\,7)\\,0)"
        path = room / f"clip {self.number}{suffix}"
        sound = ("-f", "lavfi", "-i", f"sine=d={0.6 + 0.2 * (self.number % 5)}") if self.number % 2 else ()
        heard = SOUND.get(suffix, ("-c:a", "aac")) if sound else ()
        colour = ("-color_range", "pc") if pixel_format.startswith("yuvj") else ()
        turned = self.number % 4 == 2 and suffix in {".mp4", ".mov"}
        made = room / f"flat {self.number}{suffix}" if turned else path
        encoded = [*encoding, "-pix_fmt", pixel_format, *colour, "-fps_mode", "passthrough", *heard]
        run(["-f", "lavfi", "-i", picture, *sound, *encoded, "-threads", "1", "-y", url(made)], timeout_s=60)
        if turned:
            run(["-display_rotation", "90", "-i", url(made), "-c", "copy", "-y", url(path)], timeout_s=60)
            made.unlink()
        return path


def test_forty_mixed_clips_become_one_exact_episode(room: Path) -> None:
    clips = [Clip(number) for number in range(40)]

    def conformed(clip: Clip) -> Path:
        target = room / f"shot {clip.number}.mp4"
        conform(clip.make(room), P, target, frames=clip.frames)
        return target

    with ThreadPoolExecutor(2) as hands:
        reel = list(hands.map(conformed, clips))
    total = sum(clip.frames for clip in clips)
    target = room / "episode.mp4"
    stitched = stitch(reel, soundtrack(room, P.seconds(total)), target, profile=P)
    assert (stitched.frames, stitched.conformed_again) == (total, ())
    assert_exact(target, total)
    assert fingerprint(target) == house_fingerprint(P)
    decoded = decode(target, strict=True)
    assert abs(decoded.samples / 48_000 - total / P.rate) < 1 / P.rate
    assert _greys(target, clips) == pytest.approx([clip.grey for clip in clips], abs=4)


def _greys(episode: Path, clips: list[Clip]) -> list[float]:
    """What is in the middle of the picture in the middle of every shot."""
    starts = [0, *itertools.accumulate(clip.frames for clip in clips)]
    middles = {start + clip.frames // 2 for start, clip in zip(starts, clips, strict=False)}
    with opened(episode) as container:
        shown = [
            as_image(frame).convert("L")
            for number, frame in enumerate(container.decode(container.streams.video[0]))
            if number in middles
        ]
    return [float(str(picture.getpixel((P.width // 2, P.height // 2)))) for picture in shown]
