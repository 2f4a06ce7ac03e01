"""What the cases work on: the same clips, voices and music for everybody, the same on every machine.

Here: making them, and the plan that says what is heard when. Not here: what is done with them.

Voices are bursts of coloured noise in the rhythm of speech, not eSpeak NG: that is an optional install, and its version
would change what is measured. Everything lies in house form, as it does once takes and lines have arrived.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np
import numpy.typing as npt

from moltpipe.media.captions import SpokenLine, captions, write_srt
from moltpipe.media.reel import encode_graph, house_encoding
from moltpipe.media.runner import run, url
from moltpipe.studio.profiles import Profile, parse_profile
from moltpipe.studio.records import Word
from moltpipe_tests.bench.registry import preparation

EPISODE = parse_profile("720p30")
LONG = parse_profile("180p24")
"""Small, so that two hours of it are made in seconds. What grows with an episode's length is not its pixels."""
CLIPS, CLIP_S = 12, 5
LONG_CLIP_S = 10
MUSIC_S = 30
RATE = 48_000
SENTENCES = (
    "The harbour was empty when the buoy began to speak.",
    "Nobody on the night shift wanted to answer it first.",
    "It gave a name, a date and the depth of the water.",
    "The date was tomorrow and the name was mine.",
)
WORDS_PER_S = 2.8


@dataclass(frozen=True)
class Spoken:
    """One line of the plan: its file, its words, and when it begins in the episode, in seconds."""

    file: Path
    text: str
    starts_at_s: float
    seconds: float

    def words(self) -> tuple[Word, ...]:
        """Its words, spread evenly."""
        parts = self.text.split()
        each = self.seconds / len(parts)
        return tuple(Word(part, number * each, (number + 0.9) * each) for number, part in enumerate(parts))


@dataclass(frozen=True)
class Plan:
    """An episode: what is seen and heard."""

    clips: tuple[Path, ...]
    spoken: tuple[Spoken, ...]
    beds: tuple[tuple[Path, float], ...]
    """Sounds of the clips themselves, with their starts."""
    music: Path
    profile: Profile
    frames: int

    @property
    def seconds(self) -> float:
        """Length of the episode."""
        return self.profile.seconds(self.frames)

    def lines(self) -> list[SpokenLine]:
        """What the captions are made from."""
        return [SpokenLine(words=one.words(), starts_at_s=one.starts_at_s) for one in self.spoken]


def short_plan(folder: Path) -> Plan:
    """Twelve clips of five seconds with a line in each, and music under them."""
    clips = tuple(folder / f"clip-{number}.mp4" for number in range(CLIPS))
    spoken = tuple(_line(folder, number, CLIP_S * number + 0.25) for number in range(CLIPS))
    return Plan(clips, spoken, (), folder / "music.wav", EPISODE, CLIPS * CLIP_S * EPISODE.rate)


def long_plan(folder: Path, minutes: int) -> Plan:
    """Ten-second clips, each with its own sound, seven lines in every five of them, and music under them."""
    count = minutes * 60 // LONG_CLIP_S
    clips = tuple(folder / f"long-{number % CLIPS}.mp4" for number in range(count))
    spoken = [_line(folder, number, LONG_CLIP_S * number + 0.25) for number in range(count)]
    spoken += [_line(folder, number, LONG_CLIP_S * number + 5.5) for number in range(count) if number % 5 in {1, 3}]
    spoken.sort(key=lambda one: one.starts_at_s)
    beds = tuple((folder / f"atmosphere-{number % CLIPS}.flac", float(LONG_CLIP_S * number)) for number in range(count))
    return Plan(clips, tuple(spoken), beds, folder / "music.wav", LONG, count * LONG_CLIP_S * LONG.rate)


def _line(folder: Path, number: int, starts_at_s: float) -> Spoken:
    text = SENTENCES[number % len(SENTENCES)]
    seconds = len(text.split()) / WORDS_PER_S
    return Spoken(folder / f"voice-{number % len(SENTENCES)}.wav", text, starts_at_s, seconds)


@preparation
def make_sounds(folder: Path) -> None:
    """Four voice lines, music and twelve atmospheres."""
    for number, text in enumerate(SENTENCES):
        _write(folder / f"voice-{number}.wav", [_speech(number, len(text.split()))])
    _write(folder / "music.wav", [_chords(0.0), _chords(0.4)])
    for number in range(CLIPS):
        noise = f"anoisesrc=c=brown:a=0.2:s={number}:r={RATE}:d={LONG_CLIP_S},aformat=channel_layouts=stereo"
        run(["-f", "lavfi", "-i", noise, "-y", url(folder / f"atmosphere-{number}.flac")], timeout_s=60)


@preparation
def make_clips(folder: Path) -> None:
    """The clips of both episodes as house film."""
    for number in range(CLIPS):
        for name, profile, seconds in (("clip", EPISODE, CLIP_S), ("long", LONG, LONG_CLIP_S)):
            size = f"{profile.width}x{profile.height}"
            picture = ffmpeg.input(scene(number, size, str(profile.rate)), f="lavfi").video
            encode_graph(picture, profile, folder / f"{name}-{number}.mp4", frames=seconds * profile.rate)


@preparation
def write_plan(folder: Path) -> None:
    """The short episode for those who do not know moltpipe: plain values, encoder flags, and captions to put inside."""
    plan = short_plan(folder)
    text = {
        "clips": [str(clip) for clip in plan.clips],
        "spoken": [
            {"file": str(one.file), "starts_at_s": one.starts_at_s, "seconds": one.seconds} for one in plan.spoken
        ],
        "music": str(plan.music),
        "rate": plan.profile.rate,
        "seconds": plan.seconds,
        "encoding": house_encoding(plan.profile),
    }
    write_srt(captions(plan.lines(), end_s=plan.seconds), folder / "captions.srt")
    (folder / "plan.json").write_text(json.dumps(text), encoding="utf-8")


def scene(number: int, size: str, rate: str) -> str:
    """A source of FFmpeg's with something to see, endless. Every number moves otherwise.

    At 720p30 in the house encoding they come to 4 and 7 Mbit/s, as footage does. Noise would be more natural and comes
    to 120, which measures the disk.
    """
    if number % 2:
        drawn = f"mandelbrot=s=640x360:r={rate}:maxiter=500:start_scale={2 / (number + 1):.3f}:end_scale=0.02"
        return f"{drawn},scale={size.replace('x', ':')}:flags=bicubic,setsar=1,format=yuv420p"
    return f"testsrc2=s={size}:r={rate},hue=h={30 * number},format=yuv420p"


def _speech(seed: int, words: int) -> npt.NDArray[np.float64]:
    """Noise around a voice's first formants, opened and closed by syllables."""
    samples = round(words / WORDS_PER_S * RATE)
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfft(random.standard_normal(samples))
    pitch = np.fft.rfftfreq(samples, 1 / RATE)
    shape = sum(np.exp(-(((pitch - centre) / width) ** 2)) for centre, width in ((500, 250), (1500, 400), (2500, 500)))
    voice = np.fft.irfft(spectrum * shape, samples)
    at_s = np.arange(samples) / RATE
    syllables = np.clip(np.sin(np.pi * at_s * 2 * WORDS_PER_S) ** 2 * 1.4 - 0.2, 0, 1)
    spoken = voice * syllables
    return np.asarray(0.5 * spoken / np.abs(spoken).max())


def _chords(phase: float) -> npt.NDArray[np.float64]:
    at_s = np.arange(MUSIC_S * RATE) / RATE
    roots = np.array([220.0, 174.6, 261.6, 196.0])[(at_s // 2.5).astype(int) % 4]
    chord = sum(np.sin(2 * np.pi * roots * part * at_s + phase * part) / part for part in (1, 1.25, 1.5, 2))
    return np.asarray(0.12 * chord * (0.7 + 0.3 * np.cos(2 * np.pi * at_s / 2.5)))


def _write(target: Path, channels: Sequence[npt.NDArray[np.float64]]) -> None:
    with wave.open(str(target), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.stack(channels, axis=1) * 32767).astype("<i2").tobytes())
