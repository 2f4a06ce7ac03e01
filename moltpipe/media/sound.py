"""The sound department: lines made uniform on arrival, and one soundtrack for an episode.

Here: placing, ducking, loudness. Not here: when a line is spoken (`studio.timing`), the one AAC encode
(`media.stitch`): sound stays PCM until then, since AAC of every clip joined by copy was 403 ms too long after a minute.
"""

from __future__ import annotations

import math
import re
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import ffmpeg

from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import AudioProbe, probe
from moltpipe.media.runner import run, url

SAMPLE_RATE = 48_000
TARGET_LUFS = -14.0
CEILING_DBTP = -1.0
TOLERANCE_LU = 0.5
SILENCE_DBFS = -70.0
LARGEST_GAIN_DB = 30.0
"""A whisper is raised, the noise of an empty room is not made into a storm."""
LIMITER_MARGIN_DB = 0.2
"""What the limiter keeps below the ceiling: it sees samples, four times as dense, and not the curve between them."""
OVERSAMPLED = 4 * SAMPLE_RATE
ROUNDS = 3
"""Limiting takes loudness away; the gain is corrected against a new measurement at most so many times."""
EDGE_FADE_S = 0.008
OVERHANG_S = 0.1
"""Speech may run over the end of the soundtrack by so much, which is its engine's trailing silence."""


class CueKind(StrEnum):
    """What a cue is: voices stand in front, music and ambience step back while somebody speaks."""

    VOICE = "voice"
    MUSIC = "music"
    AMBIENCE = "ambience"


_LEVELS_DB = {CueKind.VOICE: 0.0, CueKind.MUSIC: -12.0, CueKind.AMBIENCE: -10.0}


@dataclass(frozen=True)
class Cue:
    """One sound and when it begins, in seconds from the start of the soundtrack."""

    file: Path
    starts_at_s: float
    kind: CueKind


@dataclass(frozen=True)
class Loudness:
    """How loud a soundtrack was mixed and how loud it is now (EBU R 128). None: too quiet or short to be measured."""

    before_lufs: float | None
    before_dbtp: float | None
    after_lufs: float | None
    after_dbtp: float | None
    gain_db: float

    @property
    def silent(self) -> bool:
        """Whether there is nothing to hear at all."""
        return self.after_dbtp is None


def mix(cues: Sequence[Cue], *, seconds: float, target: Path) -> Loudness:
    """Write one stereo WAV (48 kHz, 16 bit) of exactly `round(seconds * 48000)` samples with every cue in its place.

    Cues are placed to the sample and faded over 8 ms at their edges. Music and ambience that run over the end are
    cut there. The whole is brought to -14 LUFS at most -1 dBTP by one linear gain and a limiter, never by `loudnorm`,
    which may turn dynamic by itself and undo the ducking. No cue, or nothing but silence, gives silence.

    Raises:
        MediaError: a cue cannot be read or begins outside the soundtrack, a voice would be cut off, or FFmpeg failed.
    """
    samples = round(seconds * SAMPLE_RATE)
    if samples < 1:
        raise MediaError(f"a soundtrack is longer than {seconds} s")
    with tempfile.TemporaryDirectory() as folder:
        if cues:
            mixed = Path(folder) / "mixed.wav"
            _lay(cues, samples, mixed)
            lufs, dbtp = measure(mixed)
        else:
            lufs, dbtp = None, None
        if not cues or dbtp is None or dbtp <= SILENCE_DBFS:
            _write_silence(target, samples)
            return Loudness(before_lufs=lufs, before_dbtp=dbtp, after_lufs=None, after_dbtp=None, gain_db=0.0)
        gain_db, after_lufs, after_dbtp = _level(mixed, target, samples, lufs, dbtp)
    return Loudness(
        before_lufs=lufs, before_dbtp=dbtp, after_lufs=after_lufs, after_dbtp=after_dbtp, gain_db=round(gain_db, 2)
    )


def normalise_line(source: Path, target_wav: Path) -> float:
    """Bring a spoken line in any format to a mono WAV (48 kHz, 16 bit) and tell its length in seconds.

    Silence before and after the words stays, since word times count from the file's start. The level stays as well
    (`mix` levels the whole), except that peaks which would clip are limited to -1 dB.

    Raises:
        MediaError: the source holds no sound, cannot be read, or FFmpeg failed.
    """
    sound = _sound_of(source)
    line = ffmpeg.input(url(source)).audio.filter("aresample", OVERSAMPLED).filter("aformat", channel_layouts="mono")
    line = _limited(line).filter("aresample", SAMPLE_RATE)
    with landing(target_wav) as part:
        _write_wav(line, part, channels=1, seconds=sound.duration_seconds)
        samples = probe(part).audio
        if samples is None:
            raise MediaError(f"{source.name} became a file without sound")
        return samples.duration_seconds


def measure(sound: Path) -> tuple[float | None, float | None]:
    """Integrated loudness in LUFS and true peak in dBTP (EBU R 128); None for what is below -70 or not measurable.

    Raises:
        MediaError: the file cannot be read, or FFmpeg printed no summary.
    """
    heard = ffmpeg.input(url(sound)).audio.filter("ebur128", peak="true", framelog="quiet")
    # The summary is a message of level `info`; nothing is written.
    args = ffmpeg.get_args(heard.output("-", format="null"))
    said = run(["-loglevel", "info", *args], timeout_s=600).stderr
    lufs = re.findall(r"^\s*I:\s+(\S+) LUFS", said, re.MULTILINE)
    dbtp = re.findall(r"^\s*Peak:\s+(\S+) dBFS", said, re.MULTILINE)
    if not lufs or not dbtp:
        raise MediaError(f"no loudness was measured for {sound.name}. FFmpeg said:\n{said}")
    return _measured(lufs[-1]), _measured(dbtp[-1])


def _measured(figure: str) -> float | None:
    value = float(figure)
    return value if math.isfinite(value) and value > SILENCE_DBFS else None


def _sound_of(file: Path) -> AudioProbe:
    sound = probe(file).audio
    if sound is None or not sound.samples:
        raise MediaError(f"{file.name} holds no sound")
    return sound


def _lay(cues: Sequence[Cue], samples: int, mixed: Path) -> None:
    """Mix the cues at their own level into 32-bit float, which cannot clip."""
    buses: dict[bool, list[ffmpeg.nodes.FilterableStream]] = {True: [], False: []}
    for number, cue in enumerate(cues):
        buses[cue.kind is CueKind.VOICE].append(_placed(number, cue, samples))
    voices = _bus(buses[True], samples) if buses[True] else None
    beds = _bus(buses[False], samples) if buses[False] else None
    if voices is not None and beds is not None:
        copies = voices.filter_multi_output("asplit")
        ducked = ffmpeg.filter(
            [beds, copies[0]], "sidechaincompress", threshold=0.03, ratio=8, attack=20, release=400, makeup=1
        )
        voices = _bus([copies[1], ducked], samples)
    _write_wav(voices or beds, mixed, channels=2, seconds=samples / SAMPLE_RATE, codec="pcm_f32le")


def _placed(number: int, cue: Cue, samples: int) -> ffmpeg.nodes.FilterableStream:
    length_s = _sound_of(cue.file).duration_seconds
    end_s = samples / SAMPLE_RATE
    if not 0 <= cue.starts_at_s < end_s:
        raise MediaError(f"{cue.file.name} begins at {cue.starts_at_s:.3f} s, outside a soundtrack of {end_s:.3f} s")
    over_s = cue.starts_at_s + length_s - end_s
    if cue.kind is CueKind.VOICE and over_s > OVERHANG_S:
        raise MediaError(f"the voice {cue.file.name} would be cut off: it ends {over_s:.3f} s after the soundtrack")
    heard_s = min(length_s, end_s - cue.starts_at_s)
    fade_s = min(EDGE_FADE_S, heard_s / 2)
    delay = round(cue.starts_at_s * SAMPLE_RATE)
    return (
        ffmpeg.input(url(cue.file))
        # The label sets apart two cues of one file: ffmpeg-python takes equal nodes for one and refuses to fork it.
        .audio.filter("ametadata", "add", key="cue", value=number)
        .filter("aresample", SAMPLE_RATE)
        .filter("aformat", sample_fmts="fltp", channel_layouts="stereo")
        .filter("asetpts", "N/SR/TB")
        .filter("atrim", end_sample=samples - delay)
        .filter("afade", type="in", duration=fade_s)
        .filter("afade", type="out", start_time=heard_s - fade_s, duration=fade_s)
        .filter("volume", f"{_LEVELS_DB[cue.kind]}dB")
        .filter("adelay", f"{delay}S", all=1)
    )


def _bus(sounds: Sequence[ffmpeg.nodes.FilterableStream], samples: int) -> ffmpeg.nodes.FilterableStream:
    """Sum of the sounds, exactly `samples` long. Not `amix`'s own average: it lets voices sink with every cue."""
    one = sounds[0] if len(sounds) == 1 else ffmpeg.filter(sounds, "amix", inputs=len(sounds), normalize=0)
    return one.filter("apad", whole_len=samples).filter("atrim", end_sample=samples)


def _limited(sound: ffmpeg.nodes.FilterableStream) -> ffmpeg.nodes.FilterableStream:
    """Keep peaks under the ceiling. `latency` takes the limiter's own delay back out, `level` keeps it from gaining."""
    limit = 10 ** ((CEILING_DBTP - LIMITER_MARGIN_DB) / 20)
    return sound.filter("alimiter", limit=limit, attack=5, release=50, level=0, latency=1)


def _level(
    mixed: Path, target: Path, samples: int, lufs: float | None, dbtp: float
) -> tuple[float, float | None, float | None]:
    """Apply the gain that brings `mixed` to the target loudness; return it and what was measured after."""
    # A sound too short to have a loudness (under 0.4 s) is only kept under the ceiling.
    gain_db = min(LARGEST_GAIN_DB, TARGET_LUFS - lufs) if lufs is not None else min(0.0, CEILING_DBTP - dbtp)
    for number in range(1, ROUNDS + 1):
        sound = ffmpeg.input(url(mixed)).audio.filter("volume", f"{gain_db}dB")
        if dbtp + gain_db > CEILING_DBTP - LIMITER_MARGIN_DB:
            sound = _limited(sound.filter("aresample", OVERSAMPLED)).filter("aresample", SAMPLE_RATE)
        with landing(target) as part:
            _write_wav(_bus([sound], samples), part, channels=2, seconds=samples / SAMPLE_RATE)
        after_lufs, after_dbtp = measure(target)
        if lufs is None or after_lufs is None or number == ROUNDS:
            break
        lacking = TARGET_LUFS - after_lufs
        if abs(lacking) <= TOLERANCE_LU or gain_db + lacking > LARGEST_GAIN_DB:
            break
        gain_db += lacking
    return gain_db, after_lufs, after_dbtp


def _write_wav(
    sound: ffmpeg.nodes.FilterableStream, target: Path, *, channels: int, seconds: float, codec: str = "pcm_s16le"
) -> None:
    written = sound.output(url(target), acodec=codec, ar=SAMPLE_RATE, ac=channels, format="wav", map_metadata=-1)
    run(ffmpeg.get_args(written, overwrite_output=True), timeout_s=60 + 10 * seconds)


def _write_silence(target: Path, samples: int) -> None:
    with landing(target) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(bytes(4 * samples))
