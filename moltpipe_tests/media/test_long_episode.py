from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from moltpipe.media.captions import Caption, write_srt
from moltpipe.media.probe import probe
from moltpipe.media.reel import join
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.media.material import scene
from moltpipe_tests.media.test_stitch import soundtrack

TINY = parse_profile("100p24")
CLIP_S = 10
MIB = 1 << 20
STITCH = """
import json, resource, sys, time
from pathlib import Path
from moltpipe.media.stitch import stitch
from moltpipe.studio.profiles import parse_profile

clip, sound, words, target, copies = sys.argv[1:]
profile = parse_profile("100p24")
stitch([Path(clip)] * 2, None, Path(target), profile=profile)
before_s = time.process_time()
done = stitch([Path(clip)] * int(copies), Path(sound), Path(target), profile=profile, captions=Path(words))
own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps({"frames": done.frames, "samples": done.samples, "busy_s": time.process_time() - before_s,
                  "peak_bytes": 1024 * (own + children)}))
"""


@dataclass(frozen=True)
class Cost:
    frames: int
    samples: int
    busy_s: float
    peak_bytes: int


def _stitched(room: Path, clip: Path, minutes: int) -> Cost:
    """What it costs to stitch an episode in a fresh process: its time on a core, and the most memory it ever had."""
    seconds = 60 * minutes
    words = room / f"words {minutes}.srt"
    write_srt([Caption(6000 * n, 6000 * n + 4000, f"Line {n}\nof a long night.") for n in range(seconds // 6)], words)
    sound, target = soundtrack(room, float(seconds)), room / f"episode {minutes}.mp4"
    command = [sys.executable, "-c", STITCH, str(clip), str(sound), str(words), str(target), str(seconds // CLIP_S)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    return Cost(**json.loads(told))


def test_twenty_minutes_take_little_more_memory_than_two_and_time_in_proportion(room: Path) -> None:
    clip = scene(room / "clip.mp4", CLIP_S * TINY.rate, TINY)
    short, long = _stitched(room, clip, 2), _stitched(room, clip, 20)
    assert (short.frames, long.frames) == (120 * TINY.rate, 1200 * TINY.rate)
    assert long.samples / 48_000 == pytest.approx(1200, abs=1 / TINY.rate)
    # What grows is the index of the file. Two hours may take 150 MiB more, so eighteen minutes 23 of them.
    assert long.peak_bytes - short.peak_bytes < 23 * MIB
    # Ten times as long; a hundred times as much would be quadratic. Two minutes are done in a tenth of a second.
    assert long.busy_s < 3 * 10 * short.busy_s
    found = probe(room / "episode 20.mp4")
    assert found.video is not None
    assert found.video.frames == 1200 * TINY.rate


def test_a_reel_of_hundreds_of_clips_may_be_joined_by_concat_too(room: Path) -> None:
    clip = scene(room / "clip.mp4", 24, TINY)
    join([clip] * 300, room / "joined.mp4")
    found = probe(room / "joined.mp4").video
    assert found is not None
    assert found.frames == 300 * 24
