"""Twelve clips become an episode: moltpipe, one FFmpeg command, MoviePy, and `cat` as the floor.

Here: the job with sound and captions, and for the picture alone. Everybody gets the same conformed clips, voices and
music, the same encoder flags, and ends with an MP4 whose index stands first.

What the rivals are spared: FFmpeg's command applies one fixed gain instead of measuring loudness. MoviePy has no
sidechain compressor, so its music is turned down by a curve that knows the lines; and it has no soft captions, so
FFmpeg adds them by copy afterwards (burning them in, its own way, costs far more).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moltpipe.media.captions import Caption, captions, write_srt, write_vtt
from moltpipe.media.runner import run, url
from moltpipe.media.sound import Cue, CueKind, Loudness, mix
from moltpipe.media.stitch import Stitched, stitch
from moltpipe_tests.bench.material import Plan, short_plan
from moltpipe_tests.bench.registry import Measurement, case, finding

MUSIC_LEVEL = "-12dB"
GAIN = "7.4dB"
"""What brings this very mix to -14 LUFS."""
DUCKING = "sidechaincompress=threshold=0.03:ratio=8:attack=20:release=400"


@dataclass(frozen=True)
class Cut:
    """An episode that moltpipe made, and what its gate is told of it."""

    film: Path
    stitched: Stitched
    loudness: Loudness
    shown: list[Caption]

    def details(self) -> dict[str, float]:
        return {"frames": self.stitched.frames, "seconds": self.stitched.seconds, "bytes": self.film.stat().st_size}


def cut(plan: Plan, room: Path) -> Cut:
    """All that production does once takes are conformed: sound, captions, the stitch."""
    room.mkdir(exist_ok=True)
    film = room / "episode.mp4"
    cues = [Cue(one.file, one.starts_at_s, CueKind.VOICE) for one in plan.spoken]
    cues += [Cue(file, starts_at_s, CueKind.CLIP) for file, starts_at_s in plan.beds]
    cues.append(Cue(plan.music, 0.0, CueKind.MUSIC, looped=True))
    soundtrack = mix(cues, seconds=plan.seconds, target=room / "sound.m4a")
    shown = captions(plan.lines(), end_s=plan.seconds)
    write_vtt(shown, room / "captions.vtt")
    write_srt(shown, room / "captions.srt")
    stitched = stitch(plan.clips, soundtrack.file, film, profile=plan.profile, captions=room / "captions.srt")
    return Cut(film, stitched, soundtrack.loudness, shown)


@case("stitch", "moltpipe: 12 clips of 5 s at 720p30, voice, ducked music, loudness, captions")
def moltpipe(folder: Path) -> dict[str, float]:
    return cut(short_plan(folder), folder / "moltpipe").details()


@case("stitch ffmpeg", "the same as one FFmpeg command that encodes again")
def by_ffmpeg(folder: Path) -> dict[str, float]:
    plan, room = short_plan(folder), folder / "ffmpeg"
    room.mkdir(exist_ok=True)
    count, lines = len(plan.clips), len(plan.spoken)
    inputs = [*plan.clips, *(one.file for one in plan.spoken), folder / "captions.srt"]
    named = [part for file in inputs for part in ("-i", url(file))]
    graph = [f"{''.join(f'[{n}:v]' for n in range(count))}concat=n={count}:v=1:a=0[picture]"]
    for number, one in enumerate(plan.spoken):
        delay = round(one.starts_at_s * 48_000)
        graph.append(f"[{count + number}:a]aformat=channel_layouts=stereo,adelay={delay}S:all=1[line{number}]")
    spoken = "".join(f"[line{n}]" for n in range(lines))
    graph += [
        f"{spoken}amix=inputs={lines}:normalize=0,apad=whole_dur={plan.seconds},asplit[voice][key]",
        f"[{count + lines + 1}:a]volume={MUSIC_LEVEL}[music]",
        f"[music][key]{DUCKING}[ducked]",
        f"[voice][ducked]amix=inputs=2:normalize=0:duration=first,volume={GAIN}[sound]",
    ]
    target = room / "episode.mp4"
    run(
        [
            *named,
            *("-stream_loop", "-1", "-i", url(plan.music)),
            *("-filter_complex", ";".join(graph), "-map", "[picture]", "-map", "[sound]", "-map", f"{count + lines}:s"),
            *_flags(folder),
            *(
                "-c:a",
                "aac",
                "-aac_coder",
                "fast",
                "-aac_tns",
                "0",
                "-b:a",
                "192k",
                "-c:s",
                "mov_text",
                "-t",
                str(plan.seconds),
                "-y",
                url(target),
            ),
        ],
        timeout_s=600,
    )
    return {"bytes": target.stat().st_size}


@case("copy", "cat of the same bytes")
def copied(folder: Path) -> dict[str, float]:
    plan, target = short_plan(folder), folder / "cat.bin"
    with target.open("wb") as file:
        subprocess.run(["cat", *plan.clips, *(one.file for one in plan.spoken), plan.music], stdout=file, check=True)
    return {"bytes": target.stat().st_size}


@case("picture", "moltpipe: the same 12 clips, picture alone")
def picture_alone(folder: Path) -> dict[str, float]:
    plan, target = short_plan(folder), folder / "picture.mp4"
    stitched = stitch(plan.clips, None, target, profile=plan.profile)
    return {"frames": stitched.frames, "bytes": target.stat().st_size}


@case("picture ffmpeg", "picture alone, encoded again by FFmpeg's concat filter")
def picture_by_ffmpeg(folder: Path) -> dict[str, float]:
    plan, target = short_plan(folder), folder / "picture-ffmpeg.mp4"
    named = [part for clip in plan.clips for part in ("-i", url(clip))]
    graph = f"concat=n={len(plan.clips)}:v=1:a=0[picture]"
    run([*named, "-filter_complex", graph, "-map", "[picture]", *_flags(folder), "-y", url(target)], timeout_s=600)
    return {"bytes": target.stat().st_size}


@case("picture copy", "picture alone, FFmpeg's concat by copy, nothing checked")
def picture_by_copy(folder: Path) -> dict[str, float]:
    plan, script, target = short_plan(folder), folder / "reel.txt", folder / "picture-copy.mp4"
    script.write_text("ffconcat version 1.0\n" + "".join(f"file '{clip}'\n" for clip in plan.clips), encoding="utf-8")
    source = ["-f", "concat", "-safe", "0", "-i", url(script)]
    run([*source, "-c", "copy", "-movflags", "+faststart", "-y", url(target)], timeout_s=60)
    return {"bytes": target.stat().st_size}


def _flags(folder: Path) -> list[str]:
    """The house's encoder flags without those that leave sound and captions out."""
    written: list[str] = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["encoding"]
    return [flag for flag in written if flag not in {"-an", "-sn", "-dn"}]


@finding(
    "stitch / ffmpeg",
    "an episode",
    against="encoding it again by FFmpeg",
    needs=("stitch", "stitch ffmpeg"),
    at_least=8,
)
def against_ffmpeg(took: Mapping[str, Measurement]) -> float:
    return took["stitch ffmpeg"].wall_s / took["stitch"].wall_s


@finding("stitch / moviepy", "an episode", against="MoviePy", needs=("stitch", "stitch moviepy"), at_least=20)
def against_moviepy(took: Mapping[str, Measurement]) -> float:
    return took["stitch moviepy"].wall_s / took["stitch"].wall_s


@finding(
    "picture / ffmpeg",
    "picture alone",
    against="encoding it again by FFmpeg",
    needs=("picture", "picture ffmpeg"),
    at_least=50,
)
def picture_against_ffmpeg(took: Mapping[str, Measurement]) -> float:
    return took["picture ffmpeg"].wall_s / took["picture"].wall_s


@finding("over the floor", "an episode", against="cat", needs=("stitch", "copy"))
def over_the_floor(took: Mapping[str, Measurement]) -> float:
    return took["stitch"].wall_s / took["copy"].wall_s
