"""Looking at a media file: what is in it, and whether it plays to its end.

Here: reading with PyAV, which tells exact counts without a second program. Not here: what a file must not be
(`media.fence`), what it should be (`media.conform` for takes, `media.gate` for finished cuts), and how a file from
somebody else is read without trusting it (`media.examine`).
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream
from PIL import Image

from moltpipe.media.errors import MediaError
from moltpipe.media.fence import (
    MOST_PIXELS,
    MOST_STREAMS_OPENED,
    READABLE_FORMATS,
    check_claims,
    check_file,
    check_length,
    check_size,
    decodable,
)
from moltpipe.media.meter import Level, Meter
from moltpipe.media.offload import heed

_BT709 = 1
_SWSCALE_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Colour matrices that can be converted from; 2 (unspecified) and 0 (RGB) are none."""
_STILLS = frozenset({"png", "mjpeg", "bmp", "webp", "tiff"})
_ROUNDED_TICKS = 2.0

SLACK_S = 0.5
SLACK_PART = 0.05
"""How much earlier than its header says a sound file may end: headers of MP3 and of streamed files are estimates."""


@dataclass(frozen=True)
class Coding:
    """How a picture is coded, sizes in pixels: all that must be equal for clips to be joined by stream copy."""

    codec: str
    profile: str | None
    level: int | None
    """As the codec writes it: 31 for H.264 level 3.1."""
    width: int
    height: int
    sample_aspect_ratio: Fraction
    pixel_format: str | None
    colour_range: int
    colour_primaries: int
    colour_transfer: int
    colour_matrix: int
    """The four as in ITU-T H.273 (range: 1 limited, 2 full); 1 is BT.709, 2 unspecified."""
    rate: Fraction
    """Mean frames per second; 0 where the file does not tell."""
    time_base: Fraction
    extradata_sha256: str


@dataclass(frozen=True)
class VideoProbe(Coding):
    """The picture of a file. Its sizes are those before `rotation`."""

    constant_rate: bool
    """Whether every frame is on the screen for as long as the others, as far as the time base can say."""
    frames: int
    """Frames that the file shows, counted."""
    duration_seconds: float
    """From the first frame to the end of the last, by their own times: `frames / rate` is wrong for a variable rate."""
    rotation: int
    """Degrees counterclockwise by which a player turns the picture."""
    starts_at_s: float
    begins_with_keyframe: bool

    @property
    def coding(self) -> Coding:
        """How it is coded, without all that is of this file alone."""
        return Coding(**{one.name: getattr(self, one.name) for one in fields(Coding)})


@dataclass(frozen=True)
class AudioProbe:
    """The sound of a file."""

    codec: str
    rate: int
    channels: int
    layout: str
    """What the channels are, such as `stereo` or `5.1`."""
    samples: int
    """Samples per channel that come out of the decoder, counted."""
    starts_at_s: float
    level: Level | None
    """How loud it is; None where nobody asked."""

    @property
    def duration_seconds(self) -> float:
        """Exact length by decoded samples."""
        return self.samples / self.rate


@dataclass(frozen=True)
class Probe:
    """What a media file holds. `video` and `audio` are None where it holds none."""

    container: str
    duration_seconds: float
    """The longer of picture and sound."""
    video: VideoProbe | None
    audio: AudioProbe | None
    streams: Mapping[str, int]
    """How many streams there are of each kind (`video`, `audio`, `subtitle`, `data`, `attachment`), covers included."""

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; fractions as text such as `24000/1001`."""
        plain = _plain(asdict(self))
        if self.audio is not None:
            plain["audio"]["duration_seconds"] = self.audio.duration_seconds
        return dict(plain)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Probe:
        """A probe out of what `as_json` made of it."""
        video, audio = plain["video"], plain["audio"]
        return cls(
            container=plain["container"],
            duration_seconds=plain["duration_seconds"],
            video=None if video is None else VideoProbe(**{**video, **_fractions(video)}),
            audio=None if audio is None else _audio_from(audio),
            streams=plain["streams"],
        )


def _fractions(video: Mapping[str, Any]) -> dict[str, Fraction]:
    return {name: Fraction(video[name]) for name in ("sample_aspect_ratio", "rate", "time_base")}


def _audio_from(plain: Mapping[str, Any]) -> AudioProbe:
    told = {name: value for name, value in plain.items() if name != "duration_seconds"}
    level = told["level"]
    return AudioProbe(**{**told, "level": None if level is None else Level(**level)})


def _plain(value: object) -> Any:  # noqa: ANN401 -- a JSON value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Fraction) else value


@contextmanager
def opened(path: Path, *, strict: bool = False, threads: int = 0) -> Iterator[InputContainer]:
    """Open a file for reading; whatever goes wrong in the block with the media comes out as `MediaError`.

    Args:
        path: the file.
        strict: have the decoders refuse damage instead of painting over it.
        threads: how many threads each decoder may use; 0 leaves it to the decoder, which takes one for each core.

    Raises:
        MediaError: missing, empty, not media, absurd in what it claims, or broken.
    """
    check_file(path)
    options = {
        "format_whitelist": READABLE_FORMATS,
        "protocol_whitelist": "file",
        "max_streams": str(MOST_STREAMS_OPENED),
        # Passed on to the decoders that look for what the header does not tell.
        "max_pixels": str(MOST_PIXELS),
    }
    try:
        with av.open(f"file:{path.absolute()}", "r", options=options) as container:
            check_claims(container, path.name)
            for stream in filter(decodable, (*container.streams.video, *container.streams.audio)):
                context = stream.codec_context
                context.thread_type, context.thread_count = ("NONE", 1) if threads == 1 else ("AUTO", threads)
                context.options = {"max_pixels": str(MOST_PIXELS), **({"err_detect": "+explode"} if strict else {})}
            yield container
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise MediaError(f"{path.name} wants more memory or more streams than it may have") from error
        raise MediaError(f"{path.name} cannot be read as video or audio: {error.strerror}") from error


def picture_of(container: InputContainer) -> VideoStream | None:
    """The first moving picture of a file that can be decoded; a cover image is none."""
    return next((stream for stream in container.streams.video if decodable(stream) and _moves(stream)), None)


def _moves(stream: VideoStream) -> bool:
    cover = stream.disposition & Disposition.attached_pic
    return not cover and not (stream.codec_context.name in _STILLS and stream.frames <= 1)


def sound_of(container: InputContainer) -> AudioStream | None:
    """The first sound of a file that can be decoded."""
    return next(filter(decodable, container.streams.audio), None)


def probe(path: Path, *, loudness: bool = False, decode_sound: bool = True) -> Probe:
    """Read what a file holds. Reads all of it, decodes the sound and one frame of the picture.

    Args:
        path: the file.
        loudness: measure how loud the sound is, which takes a quarter of a second for a minute.
        decode_sound: count the samples as they come out of the decoder; else they are counted by the packets' times,
            which is fast, and wrong by what an encoder puts before the beginning and after the end.

    Raises:
        MediaError: the file is missing, empty, not media, broken, or holds neither picture nor sound.
    """
    reel = _Reel(path.name)
    track = _Track(meter=Meter() if loudness else None)
    first: av.VideoFrame | None = None
    # More threads only delay the first frame.
    with opened(path, threads=1) as container:
        picture, sound = picture_of(container), sound_of(container)
        streams = [stream for stream in (picture, sound) if stream is not None]
        if not streams:
            raise MediaError(f"{path.name} holds neither picture nor sound")
        for packet in container.demux(*streams):
            heed()
            if sound is not None and packet.stream is sound:
                track.add(packet, sound, decode=decode_sound or loudness)
            else:
                reel.wind(packet)
                if first is None and picture is not None:
                    first = next(iter(picture.decode(packet)), None)
        if picture is not None and first is None:
            raise MediaError(f"{path.name} has a picture stream without a single frame that can be decoded")
        kinds = dict(Counter[str](stream.type for stream in container.streams))
        video = None if picture is None or first is None else _video(picture, first, reel)
        audio = None if sound is None else _audio(sound, track)
        name = container.format.name
    lengths = [found.duration_seconds for found in (video, audio) if found is not None]
    if not max(lengths):
        raise MediaError(f"{path.name} lasts no time at all by its own times")
    return Probe(container=name, duration_seconds=max(lengths), video=video, audio=audio, streams=kinds)


@dataclass
class _Reel:
    """What the packets of a picture stream tell while they pass. Times in the stream's time base."""

    name: str
    shown: int = 0
    times: array[int] = field(default_factory=lambda: array("q"))
    lasts: int = 0
    begins_with_keyframe: bool | None = None
    _begins: int = 0
    _ends: int = 0

    def wind(self, packet: av.Packet[Stream]) -> None:
        if self.begins_with_keyframe is None and packet.size:
            self.begins_with_keyframe = packet.is_keyframe
        if packet.is_discard or not packet.size:
            return
        self.shown += 1
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None:
            return
        self._begins = min(self._begins, at) if self.times else at
        if at >= self._ends or not self.times:
            self._ends, self.lasts = at, packet.duration or 0
            check_length(self.name, self.length * float(packet.time_base))
        self.times.append(at)

    @property
    def length(self) -> int:
        """From the first frame to the beginning of the last."""
        return self._ends - self._begins

    @property
    def steady(self) -> bool:
        """Whether frames come at a constant rate: each within two ticks of its place, since each time is rounded."""
        last = len(self.times) - 1
        if last < 1:
            return True
        step = self.length / last
        return all(
            abs(at - self._begins - number * step) <= _ROUNDED_TICKS for number, at in enumerate(sorted(self.times))
        )


@dataclass
class _Track:
    """What the sound of a file tells while it passes."""

    meter: Meter | None
    samples: int = 0
    starts_at_s: float | None = None

    def add(self, packet: av.Packet[Stream], sound: AudioStream, *, decode: bool) -> None:
        if decode:
            for frame in sound.decode(packet):
                self._hear(frame)
        elif packet.size and not packet.is_discard:
            self._begin(float((packet.pts or 0) * packet.time_base))
            self.samples += round((packet.duration or 0) * packet.time_base * sound.codec_context.rate)

    def _hear(self, frame: av.AudioFrame) -> None:
        self._begin(frame.time or 0.0)
        self.samples += frame.samples
        if self.meter is not None:
            self.meter.hear(frame)

    def _begin(self, at_s: float) -> None:
        if self.starts_at_s is None:
            self.starts_at_s = at_s


def _audio(stream: AudioStream, track: _Track) -> AudioProbe:
    context = stream.codec_context
    return AudioProbe(
        codec=context.codec.canonical_name,
        rate=context.rate,
        channels=context.channels,
        layout=context.layout.name,
        samples=track.samples,
        starts_at_s=track.starts_at_s or 0.0,
        level=None if track.meter is None else track.meter.measured(),
    )


def _video(stream: VideoStream, first: av.VideoFrame, reel: _Reel) -> VideoProbe:
    coding = coding_of(stream)
    last_s = reel.lasts * coding.time_base or (1 / coding.rate if coding.rate else Fraction(0))
    return VideoProbe(
        **vars(coding),
        constant_rate=reel.steady,
        frames=reel.shown,
        duration_seconds=float(reel.length * coding.time_base + last_s),
        rotation=first.rotation,
        starts_at_s=float((first.pts or 0) * coding.time_base),
        begins_with_keyframe=bool(reel.begins_with_keyframe),
    )


def coding_of(stream: VideoStream) -> Coding:
    """How a picture is coded. Its first frame must be decoded by then: not every header tells the pixel format."""
    context = stream.codec_context
    extradata = context.extradata or b""
    return Coding(
        codec=context.codec.canonical_name,
        profile=context.profile,
        # Byte 3 of an `avcC` record (ISO/IEC 14496-15), which PyAV does not show.
        level=extradata[3] if len(extradata) > 3 and extradata[0] == 1 else None,  # noqa: PLR2004 -- ditto
        width=context.width,
        height=context.height,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        pixel_format=context.pix_fmt,
        colour_range=context.color_range,
        colour_primaries=context.color_primaries,
        colour_transfer=context.color_trc,
        colour_matrix=context.colorspace,
        rate=stream.average_rate or stream.guessed_rate or Fraction(0),
        time_base=stream.time_base or Fraction(0),
        extradata_sha256=hashlib.sha256(extradata).hexdigest(),
    )


def as_image(frame: av.VideoFrame) -> Image.Image:
    """A frame as an RGB image. What is not tagged otherwise is read as BT.709, as everything that we make is."""
    matrix = frame.colorspace if frame.colorspace in _SWSCALE_MATRICES else _BT709
    rgb = frame.reformat(format="rgb24", src_colorspace=matrix, dst_colorspace=_BT709)
    plane = rgb.planes[0]
    return Image.frombuffer("RGB", (rgb.width, rgb.height), bytes(plane), "raw", "RGB", plane.line_size, 1)


@dataclass(frozen=True)
class Decoded:
    """What came out of decoding a whole file."""

    frames: int
    samples: int
    sample_rate: int | None
    picture_starts_at_s: float | None
    sound_starts_at_s: float | None


def decode(
    path: Path, *, strict: bool, threads: int = 0, on_progress: Callable[[float], None] | None = None
) -> Decoded:
    """Decode picture and sound from first to last frame.

    Args:
        path: the file.
        strict: take damage for an error instead of painting over it.
        threads: how many threads each decoder may use; 0 leaves it to the decoder.
        on_progress: called with the seconds that are decoded, after every frame.

    Raises:
        MediaError: something does not decode, or less comes out than the file's own header announces.
    """
    with opened(path, strict=strict, threads=threads) as container:
        picture, sound = picture_of(container), sound_of(container)
        streams = [stream for stream in (picture, sound) if stream is not None]
        if not streams:
            raise MediaError(f"{path.name} holds neither picture nor sound")
        announced_s = (container.duration or 0) / av.time_base
        watcher = _Watcher(path.name, (container.start_time or 0) / av.time_base)
        for frame in container.decode(*streams):
            heed()
            watcher.see(frame)
            if on_progress is not None:
                on_progress(watcher.reached_s)
        announced = picture.frames if picture is not None else 0
        rate = sound.codec_context.rate if sound is not None else None
    frames, reached_s = watcher.frames, watcher.reached_s
    if picture is not None and frames == watcher.damaged:
        raise MediaError(f"{path.name} has a picture of which not one frame decodes without damage ({frames} came)")
    if frames < announced:
        raise MediaError(f"{path.name} is truncated: {frames} of {announced} frames decode")
    if reached_s < announced_s - max(SLACK_S, SLACK_PART * announced_s):
        raise MediaError(f"{path.name} is truncated: it ends after {reached_s:.2f} of {announced_s:.2f} s")
    if sound is not None and not watcher.samples:
        raise MediaError(f"{path.name} has a sound stream without a single sample")
    return Decoded(
        frames=frames,
        samples=watcher.samples,
        sample_rate=rate,
        picture_starts_at_s=watcher.picture_starts_at_s,
        sound_starts_at_s=watcher.sound_starts_at_s,
    )


@dataclass
class _Watcher:
    """What is seen and heard while a file plays."""

    name: str
    begins_s: float
    frames: int = 0
    damaged: int = 0
    samples: int = 0
    reached_s: float = 0.0
    picture_starts_at_s: float | None = None
    sound_starts_at_s: float | None = None

    def see(self, frame: object) -> None:
        if isinstance(frame, av.VideoFrame):
            self._look(frame, frame.time or 0.0)
        elif isinstance(frame, av.AudioFrame):
            self._hear(frame, frame.time or 0.0)
        check_length(self.name, self.reached_s)

    def _look(self, frame: av.VideoFrame, at_s: float) -> None:
        check_size(self.name, frame.width, frame.height)
        self.frames += 1
        self.damaged += frame.is_corrupt
        self.reached_s = max(self.reached_s, at_s - self.begins_s)
        if self.picture_starts_at_s is None:
            self.picture_starts_at_s = at_s

    def _hear(self, frame: av.AudioFrame, at_s: float) -> None:
        self.samples += frame.samples
        self.reached_s = max(self.reached_s, at_s - self.begins_s)
        if self.sound_starts_at_s is None:
            self.sound_starts_at_s = at_s
