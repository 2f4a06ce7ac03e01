"""Looking at a media file: what is in it, and whether it plays to its end.

Here: reading with PyAV, which tells exact counts without a second program. Not here: what a file should be
(`media.conform` for takes, `media.gate` for finished cuts).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream
from PIL import Image

from moltpipe.media.errors import MediaError

READABLE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,gif,mxf,ogg,mp3,wav,w64,flac,aac,aiff,caf,amr"
)
"""Containers that hold their own media. Playlists and scripts, which name other files, are not among them."""
_BT709 = 1
_SWSCALE_MATRICES = frozenset({1, 4, 5, 6, 7, 9})
"""Colour matrices that can be converted from; 2 (unspecified) and 0 (RGB) are none."""
_STILLS = frozenset({"png", "mjpeg", "bmp", "webp", "tiff"})


SLACK_S = 0.5
SLACK_PART = 0.05
"""How much earlier than its header says a sound file may end: headers of MP3 and of streamed files are estimates."""


@dataclass(frozen=True)
class VideoProbe:
    """The picture of a file. Sizes in pixels as coded, before `rotation`."""

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
    frames: int
    """Frames that the file shows, counted."""
    duration_seconds: float
    """From the first frame to the end of the last, by their own times: `frames / rate` is wrong for a variable rate."""
    extradata_sha256: str
    rotation: int
    """Degrees counterclockwise by which a player turns the picture."""
    starts_at_s: float
    begins_with_keyframe: bool


@dataclass(frozen=True)
class AudioProbe:
    """The sound of a file."""

    codec: str
    rate: int
    channels: int
    samples: int
    """Samples per channel that come out of the decoder, counted."""

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

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON values; fractions as text such as `24000/1001`."""
        plain = _plain(asdict(self))
        if self.audio is not None:
            plain["audio"]["duration_seconds"] = self.audio.duration_seconds
        return dict(plain)


def _plain(value: object) -> Any:  # noqa: ANN401 -- a JSON value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Fraction) else value


@contextmanager
def opened(path: Path, *, strict: bool = False) -> Iterator[InputContainer]:
    """Open a file for reading; whatever goes wrong in the block with the media comes out as `MediaError`.

    With `strict` the decoders refuse damage instead of painting over it.

    Raises:
        MediaError: missing, empty, not media, or broken.
    """
    if not path.is_file():
        raise MediaError(f"{path} is not a file")
    if not path.stat().st_size:
        raise MediaError(f"{path.name} is empty")
    options = {"format_whitelist": READABLE_FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path.absolute()}", "r", options=options) as container:
            for stream in (*container.streams.video, *container.streams.audio):
                stream.codec_context.thread_type = "AUTO"
                if strict:
                    stream.codec_context.options = {"err_detect": "+explode"}
            yield container
    except av.error.FFmpegError as error:
        raise MediaError(f"{path.name} cannot be read as video or audio: {error.strerror}") from error


def picture_of(container: InputContainer) -> VideoStream | None:
    """The first moving picture of a file; a cover image is none."""
    moving = (s for s in container.streams.video if not (s.codec_context.name in _STILLS and s.frames <= 1))
    return next(moving, None)


def probe(path: Path) -> Probe:
    """Read what a file holds. Reads all of it, decodes the sound and one frame of the picture.

    Raises:
        MediaError: the file is missing, empty, not media, broken, or holds neither picture nor sound.
    """
    with opened(path) as container:
        name = container.format.name
        picture, sound = picture_of(container), next(iter(container.streams.audio), None)
        if picture is None and sound is None:
            raise MediaError(f"{path.name} holds neither picture nor sound")
        samples = 0
        reel = _Reel()
        streams = [stream for stream in (picture, sound) if stream is not None]
        for packet in container.demux(*streams):
            if packet.stream is sound:
                samples += sum(frame.samples for frame in sound.decode(packet))
            elif packet.size:
                reel.wind(packet)
        audio = None if sound is None else _audio(sound, samples)
    video = None
    if picture is not None:
        with opened(path) as container:
            video = _video(container, reel)
    picture_s = video.duration_seconds if video is not None else 0.0
    sound_s = audio.duration_seconds if audio is not None else 0.0
    return Probe(container=name, duration_seconds=max(picture_s, sound_s), video=video, audio=audio)


@dataclass
class _Reel:
    """What the packets of a picture stream tell while they pass. Times in the stream's time base."""

    shown: int = 0
    begins: int | None = None
    ends: int = 0
    lasts: int = 0
    begins_with_keyframe: bool | None = None

    def wind(self, packet: av.Packet[Stream]) -> None:
        if self.begins_with_keyframe is None:
            self.begins_with_keyframe = packet.is_keyframe
        if packet.is_discard:
            return
        self.shown += 1
        at = packet.pts if packet.pts is not None else packet.dts
        if at is None:
            return
        self.begins = at if self.begins is None else min(self.begins, at)
        if at >= self.ends:
            self.ends, self.lasts = at, packet.duration or 0


def _audio(stream: AudioStream, samples: int) -> AudioProbe:
    context = stream.codec_context
    return AudioProbe(codec=context.codec.canonical_name, rate=context.rate, channels=context.channels, samples=samples)


def _video(container: InputContainer, reel: _Reel) -> VideoProbe:
    stream = picture_of(container)
    first = None if stream is None else next(container.decode(stream), None)
    if stream is None or first is None:
        raise MediaError(f"{Path(container.name).name} has a picture stream without a single frame")
    context = stream.codec_context
    time_base = stream.time_base or Fraction(0)
    rate = stream.average_rate or stream.guessed_rate or Fraction(0)
    last_s = reel.lasts * time_base or (1 / rate if rate else Fraction(0))
    return VideoProbe(
        codec=context.codec.canonical_name,
        profile=context.profile,
        level=_h264_level(context.extradata),
        width=context.width,
        height=context.height,
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        pixel_format=context.pix_fmt,
        colour_range=context.color_range,
        colour_primaries=context.color_primaries,
        colour_transfer=context.color_trc,
        colour_matrix=context.colorspace,
        rate=rate,
        time_base=time_base,
        frames=reel.shown,
        duration_seconds=float((reel.ends - (reel.begins or 0)) * time_base + last_s),
        extradata_sha256=hashlib.sha256(context.extradata or b"").hexdigest(),
        rotation=first.rotation,
        starts_at_s=float((first.pts or 0) * time_base),
        begins_with_keyframe=bool(reel.begins_with_keyframe),
    )


def _h264_level(extradata: bytes | None) -> int | None:
    """Level out of an `avcC` record (ISO/IEC 14496-15, byte 3), which PyAV does not show."""
    return extradata[3] if extradata and len(extradata) > 3 and extradata[0] == 1 else None  # noqa: PLR2004 -- ditto


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
    brightest: int
    """Brightest value (0 to 255) seen in the frames that were looked at, one a second; 0 without a picture."""


def decode(path: Path, *, strict: bool) -> Decoded:
    """Decode picture and sound from first to last frame.

    Raises:
        MediaError: something does not decode, or less comes out than the file's own header announces.
    """
    frames = samples = brightest = 0
    reached_s = 0.0
    starts: dict[str, float] = {}
    next_look_s = 0.0
    with opened(path, strict=strict) as container:
        picture, sound = picture_of(container), next(iter(container.streams.audio), None)
        streams = [stream for stream in (picture, sound) if stream is not None]
        if not streams:
            raise MediaError(f"{path.name} holds neither picture nor sound")
        announced_s = (container.duration or 0) / av.time_base
        begins_s = (container.start_time or 0) / av.time_base
        for frame in container.decode(*streams):
            reached_s = max(reached_s, (getattr(frame, "time", None) or 0.0) - begins_s)
            if isinstance(frame, av.AudioFrame):
                samples += frame.samples
                starts.setdefault("sound", frame.time or 0.0)
            elif isinstance(frame, av.VideoFrame):
                frames += 1
                at_s = frame.time or 0.0
                starts.setdefault("picture", at_s)
                if at_s >= next_look_s:
                    next_look_s = at_s + 1.0
                    brightest = max(brightest, _brightest(frame))
        announced = picture.frames if picture is not None else 0
        rate = sound.codec_context.rate if sound is not None else None
    if picture is not None and frames < max(announced, 1):
        raise MediaError(f"{path.name} is truncated: {frames} of {announced} frames decode")
    if reached_s < announced_s - max(SLACK_S, SLACK_PART * announced_s):
        raise MediaError(f"{path.name} is truncated: it ends after {reached_s:.2f} of {announced_s:.2f} s")
    if sound is not None and not samples:
        raise MediaError(f"{path.name} has a sound stream without a single sample")
    return Decoded(
        frames=frames,
        samples=samples,
        sample_rate=rate,
        picture_starts_at_s=starts.get("picture"),
        sound_starts_at_s=starts.get("sound"),
        brightest=brightest,
    )


def _brightest(frame: av.VideoFrame) -> int:
    # A few hundred pixels are enough to tell black from a picture, and cost nothing beside the decoding.
    return max(bytes(frame.reformat(width=64, height=36, format="gray").planes[0]))


def verify_decodes(path: Path) -> Decoded:
    """Prove that a file plays to its end, as a player would: small damage is concealed, missing frames are not.

    Raises:
        MediaError: the file is empty, truncated, or not media.
    """
    return decode(path, strict=False)
