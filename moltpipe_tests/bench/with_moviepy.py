"""The job of `moltpipe_tests.bench.stitching` done with MoviePy.

Here: MoviePy alone. It runs in the rivals' Python, where moltpipe is not installed, and reads the plan as JSON.
MoviePy is imported inside the function, because our own Python lists the case and has none.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from moltpipe_tests.bench.registry import Python, case

MUSIC_LEVEL = 10 ** (-12 / 20)
DUCKED = 0.3
"""About what the compressor leaves of the music under a line."""
GAIN = 10 ** (7.4 / 20)


@case("stitch moviepy", "the same with MoviePy", python=Python.RIVALS)
def cut(folder: Path) -> dict[str, float]:
    """Write the episode in `folder/moviepy`."""
    from moviepy import AudioFileClip, CompositeAudioClip, VideoFileClip, afx, concatenate_videoclips  # noqa: PLC0415 -- see above

    plan: dict[str, Any] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    room = folder / "moviepy"
    room.mkdir(exist_ok=True)
    reel = [VideoFileClip(clip) for clip in plan["clips"]]
    lines = [AudioFileClip(one["file"]).with_start(one["starts_at_s"]) for one in plan["spoken"]]
    music = AudioFileClip(plan["music"]).with_effects([afx.AudioLoop(duration=plan["seconds"])])
    music = music.transform(_ducking(plan["spoken"]), keep_duration=True)
    sound = CompositeAudioClip([*lines, music]).with_duration(plan["seconds"]).with_volume_scaled(GAIN)
    episode = concatenate_videoclips(reel, method="chain").with_audio(sound)
    silent_of_captions = room / "episode-without-captions.mp4"
    episode.write_videofile(
        str(silent_of_captions),
        fps=plan["rate"],
        codec="libx264",
        preset="veryfast",
        pixel_format="yuv420p",
        audio_fps=48_000,
        audio_codec="aac",
        audio_bitrate="192k",
        temp_audiofile=str(room / "sound.m4a"),
        ffmpeg_params=_encoder_flags(plan["encoding"]),
        logger=None,
    )
    for clip in (*reel, *lines):
        clip.close()
    captions = folder / "captions.srt"
    target = room / "episode.mp4"
    both = ["-i", str(silent_of_captions), "-i", str(captions), "-map", "0", "-map", "1"]
    written = ["-c", "copy", "-c:s", "mov_text", "-movflags", "+faststart", "-y", str(target)]
    subprocess.run([os.environ["FFMPEG_BINARY"], "-v", "error", *both, *written], check=True)
    return {"bytes": target.stat().st_size}


def _ducking(spoken: list[dict[str, Any]]) -> Any:  # noqa: ANN401 -- MoviePy's own callback type is not importable here
    import numpy as np  # noqa: PLC0415 -- as above

    edges = sorted((at, level) for one in spoken for at, level in _edges(one))
    times, levels = [at for at, _ in edges], [level for _, level in edges]

    def ducked(frame: Any, at_s: Any) -> Any:  # noqa: ANN401 -- ditto
        level = MUSIC_LEVEL * np.interp(at_s, times, levels)
        return frame(at_s) * (level[:, None] if np.ndim(level) else level)

    return ducked


def _edges(one: dict[str, Any]) -> list[tuple[float, float]]:
    begins, ends = one["starts_at_s"], one["starts_at_s"] + one["seconds"]
    return [(begins, 1.0), (begins + 0.02, DUCKED), (ends, DUCKED), (ends + 0.4, 1.0)]


def _encoder_flags(encoding: list[str]) -> list[str]:
    """The house's flags that MoviePy does not set itself."""
    own = {"-c:v", "-preset", "-pix_fmt", "-f", "-map_metadata", "-map_chapters"}
    flags: list[str] = []
    pairs = [flag for flag in encoding if flag not in {"-an", "-sn", "-dn"}]
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        if name not in own:
            flags += [name, value]
    return flags
