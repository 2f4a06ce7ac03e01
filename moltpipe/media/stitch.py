"""The stitch: conformed clips joined by stream copy over one soundtrack, with captions beside them.

Here: joining, mending a clip that does not fit, and the MP4 that a cut becomes, with a picture or without. Not here:
whether the result may be published (`media.gate`), how the soundtrack came about (`media.sound`), what a transition
looks like (`media.seams`).

Packets are copied in this process. FFmpeg's concat demuxer does the same in a program of its own, whose start costs as
much as the copying, and needs clips that are written out and named in a script: here a reel is made of parts of clips.
Decoding times are counted anew, one for every frame, so that a piece of a single frame, which its encoder does not
reorder, cannot make them stumble (the concat demuxer's did).
"""

from __future__ import annotations

import heapq
import io
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeAlias

import av
from av.stream import Disposition, Stream
from av.video.stream import VideoStream
from PIL import Image

from moltpipe.media.aac import PACKET
from moltpipe.media.conform import conform, natural_frames
from moltpipe.media.errors import MediaError
from moltpipe.media.footage import Footage, Strip, footage, packets, ticks
from moltpipe.media.landing import landing
from moltpipe.media.offload import heed
from moltpipe.media.pcm import SAMPLE_RATE
from moltpipe.media.probe import opened, probe
from moltpipe.media.reel import TIMESCALE, container_options
from moltpipe.media.runner import url
from moltpipe.media.seams import Seam, sewn
from moltpipe.studio.profiles import Profile

__all__ = ["Seam", "Stitched", "package", "stitch"]

COVER_SIDE = 1000
"""Longest side of a cover in pixels. It stands before the sound, so a player loads all of it before it begins."""
_STYLE = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\n"
    "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
    "Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, "
    "MarginV, Encoding\n"
    "Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
"""The plainest style there is, at the bottom in the middle: players have their own, which viewers set."""


@dataclass(frozen=True)
class Stitched:
    """A finished cut. `samples` are those of the soundtrack at 48 kHz, 0 without one."""

    frames: int
    seconds: float
    samples: int
    conformed_again: tuple[int, ...]
    """Positions (from 0) of clips that were not house film and had to be transcoded first."""


def stitch(
    clips: Sequence[Path],
    soundtrack: Path | None,
    target: Path,
    *,
    profile: Profile,
    captions: Path | None = None,
    burned: bool = False,
    seams: Sequence[Seam] = (),
) -> Stitched:
    """Join clips by stream copy, lay the soundtrack under them, and write an MP4 with its index first.

    The soundtrack is AAC in an MP4 (`media.sound.mix`) and is copied as well; None makes a silent film. A clip of
    another fingerprint is conformed again, never the whole episode; of a clip with a transition, the groups of pictures
    that it touches are encoded. `captions` is an SRT whose text becomes a track of its own, to the letter; an empty
    one gives no track. `burned` tells that they are part of the picture as well: the track is there to be searched and
    translated, and players leave it off until a viewer asks for it. They would show every caption twice.

    Raises:
        MediaError: no clip, an unreadable one, one too short for its transitions, a soundtrack that is a frame or more
            off, captions that are no SRT or end after the picture, or FFmpeg failed.
    """
    if not clips:
        raise MediaError("an episode has at least one clip")
    with tempfile.TemporaryDirectory() as name, landing(target) as part:
        house: list[Footage] = []
        mended: list[int] = []
        for position, clip in enumerate(clips):
            found = footage(clip, profile)
            if found is None:
                found = _again(clip, profile, Path(name) / f"again-{position}.mp4")
                mended.append(position)
            house.append(found)
        frames = sum(one.frames for one in house)
        seconds = profile.seconds(frames)
        texts = _texts(captions, seconds) if captions is not None else []
        reel = sewn(house, seams, Path(name), profile=profile)
        with _Print(part) as film:
            film.show(reel, profile)
            if soundtrack is not None:
                _same_length(soundtrack, film.sound(soundtrack), seconds, profile)
            film.caption(texts)
            film.develop()
            if burned:
                _leave_captions_off(part)
            if soundtrack is not None:
                _same_length(soundtrack, film.samples / SAMPLE_RATE, seconds, profile)
    return Stitched(frames=frames, seconds=seconds, samples=film.samples, conformed_again=tuple(mended))


def package(soundtrack: Path, target: Path, *, cover: Path | None, captions: Path | None, title: str) -> None:
    """Write an MP4 that is heard: the soundtrack by copy, its captions as a track, a cover picture, the index first.

    The cover may be any picture that Pillow reads; it is stored as a JPEG of at most 1000 pixels on its longer side.

    Raises:
        MediaError: the soundtrack is not AAC, the cover is no picture, or the captions are no SRT or end after it.
    """
    with landing(target) as part, _Print(part) as film:
        film.titled(title)
        seconds = film.sound(soundtrack)
        film.caption(_texts(captions, seconds) if captions is not None else [])
        if cover is not None:
            film.cover(cover)
        film.develop()


def _same_length(soundtrack: Path, sound_s: float, picture_s: float, profile: Profile) -> None:
    if abs(sound_s - picture_s) >= 1 / profile.rate:
        raise MediaError(f"the soundtrack {soundtrack.name} lasts {sound_s:.3f} s, the picture {picture_s:.3f} s")


def _again(clip: Path, profile: Profile, target: Path) -> Footage:
    conform(clip, profile, target, frames=natural_frames(probe(clip), profile))
    again = footage(target, profile)
    if again is None:
        raise MediaError(f"{clip.name} was conformed to {profile.name} and still is not house film")
    return again


@dataclass(frozen=True)
class _Text:
    start_ms: int
    end_ms: int
    text: str


_BOX_HEADER = 8
"""Bytes of size and name before the content of a box. The index stands in front of the media, which alone may be so
large that its size takes more."""
_TEXT_HANDLERS = (b"sbtl", b"text")
_TRACK_ENABLED = 1
_SRT_TIME = r"(\d+):(\d\d):(\d\d)[,.](\d{3})"
_SRT_CAPTION = re.compile(rf"\d+\n{_SRT_TIME} *--> *{_SRT_TIME}[^\n]*\n(.+)", re.DOTALL)


def _milliseconds(hours: int, minutes: int, seconds: int, rest_ms: int) -> int:
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + rest_ms


def _texts(captions: Path, seconds: float) -> list[_Text]:
    """The captions of an SRT to the letter.

    Strictly by its form. pysubs2 guesses where a caption ends: of the last one it takes a line of digits for the next
    one's number, and any line with two times in it for the beginning of another.
    """
    try:
        blocks = [block for block in captions.read_text(encoding="utf-8-sig").split("\n\n") if block.strip()]
    except (OSError, ValueError) as error:
        raise MediaError(f"{captions.name} cannot be read as SRT: {error}") from error
    texts: list[_Text] = []
    for block in blocks:
        found = _SRT_CAPTION.fullmatch(block.strip("\n"))
        if found is None:
            raise MediaError(f"{captions.name} cannot be read as SRT: {block.strip()[:60]!r} is no caption")
        numbers = [int(found[number]) for number in range(1, 9)]
        texts.append(_Text(_milliseconds(*numbers[:4]), _milliseconds(*numbers[4:]), found[9]))
    reached_ms = 0
    for text in texts:
        if text.start_ms < reached_ms or text.end_ms <= text.start_ms:
            raise MediaError(f"{captions.name}: the caption at {text.start_ms} ms does not follow the one before it")
        reached_ms = text.end_ms
    if reached_ms > round(seconds * 1000):
        raise MediaError(f"{captions.name} ends at {reached_ms / 1000:.3f} s, after the end at {seconds:.3f} s")
    return texts


Timed: TypeAlias = "tuple[float, int, av.Packet[Any]]"
"""A packet and when it is decoded, in seconds; between them the rank of its track, which decides among equals."""


class _Print:
    """An MP4 in the making: its tracks are announced one after the other, and written side by side in order of time."""

    def __init__(self, part: Path) -> None:
        names = container_options()
        options = {name.removeprefix("-"): value for name, value in zip(names[::2], names[1::2], strict=True)}
        # What is written here comes in order of time. Otherwise all of it would wait for the next caption.
        options["max_interleave_delta"] = "1000000"
        self._part = part
        self._options = options
        self._tracks: list[Iterator[Timed]] = []
        self._open = ExitStack()
        # Ticks per second of a text track. libavformat 62 ends a caption with an empty sample once the ticks of
        # any packet, of whatever length, exceed the ticks of its end: with a coarser scale of its own every caption
        # would end before the next one is written, and two that adjoin would get one decoding time.
        self._text_scale = SAMPLE_RATE
        self.samples = 0

    def __enter__(self) -> Self:
        with self._open as opening:
            self._file = opening.enter_context(av.open(url(self._part), "w", format="mp4", options=self._options))
            self._open = opening.pop_all()
        return self

    def __exit__(self, *failure: object) -> None:
        # What was developed is closed already. What was not is thrown away, and why is known by now.
        with suppress(av.error.FFmpegError):
            self._open.close()

    def titled(self, title: str) -> None:
        self._file.metadata["title"] = title

    def show(self, reel: Sequence[Strip], profile: Profile) -> None:
        """Add the picture."""
        with opened(reel[0].footage.clip) as container:
            track = self._file.add_stream_from_template(container.streams.video[0], opaque=True)
        track.time_base = Fraction(1, TIMESCALE)
        self._text_scale = TIMESCALE
        self._tracks.append(_picture(reel, track, profile))

    def sound(self, soundtrack: Path) -> float:
        """Add the sound, and tell its length in seconds."""
        container = self._open.enter_context(opened(soundtrack))
        sources = container.streams.audio
        if not sources or sources[0].codec_context.codec.canonical_name != "aac" or sources[0].duration is None:
            raise MediaError(f"the soundtrack {soundtrack.name} is not AAC in an MP4")
        track = self._file.add_stream_from_template(sources[0])
        tick_s = float(sources[0].time_base or 0)
        self._tracks.append(self._heard(soundtrack, container.demux(sources[0]), track, tick_s))
        return sources[0].duration * tick_s

    def _heard(
        self, soundtrack: Path, source: Iterator[av.Packet[Any]], track: Stream, tick_s: float
    ) -> Iterator[Timed]:
        try:
            for packet in source:
                if packet.pts is None or not packet.size:
                    continue
                # The first packet, before 0, is what the encoder needs to get going: players leave it out.
                self.samples = packet.pts + PACKET
                packet.stream = track
                yield packet.pts * tick_s, _SOUND, packet
        except av.error.FFmpegError as error:
            raise MediaError(f"the soundtrack {soundtrack.name} cannot be read: {error.strerror}") from error

    def caption(self, texts: Sequence[_Text]) -> None:
        """Add a text track; without texts there is none."""
        if not texts:
            return
        track = self._file.add_stream("mov_text")
        track.codec_context.subtitle_header = _STYLE.encode()
        track.time_base = Fraction(1, self._text_scale)
        self._tracks.append(_written(texts, track, self._text_scale))

    def cover(self, picture: Path) -> None:
        """Add a picture that stands for the whole."""
        shown = io.BytesIO()
        try:
            with Image.open(picture) as image:
                image.thumbnail((COVER_SIDE, COVER_SIDE), Image.Resampling.LANCZOS)
                image.convert("RGB").save(shown, "JPEG", quality=88, optimize=True)
                track = self._file.add_mux_stream("mjpeg", width=image.width, height=image.height)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise MediaError(f"the cover {picture.name} is no picture: {error}") from error
        track.disposition = Disposition.attached_pic
        packet: av.Packet[Stream] = av.Packet(shown.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = track, 0, 0, True
        self._tracks.append(iter([(0.0, _COVER, packet)]))

    def develop(self) -> None:
        """Write all tracks to their end, and the index in front of them.

        Raises:
            MediaError: a track cannot be read, or the file cannot be written.
        """
        try:
            for _, _, packet in heapq.merge(*self._tracks):
                heed()
                self._file.mux(packet)
            self._file.close()
        except av.error.FFmpegError as error:
            raise MediaError(f"the cut cannot be written: {error.strerror}") from error


_COVER, _CAPTION, _PICTURE, _SOUND = range(4)


def _leave_captions_off(film: Path) -> None:
    """Mark the text track of a finished film as one that is not played unless it is asked for.

    That is a flag in the header of a track (ISO/IEC 14496-12, section 8.3.2). libavformat sets it for the first text
    track of a file, whatever disposition that has, so it is cleared afterwards.
    """
    with film.open("r+b") as file:
        at, index = _index(file)
        for name, start, end in _boxes(index, 0, len(index)):
            inside = {one: (begin, stop) for one, begin, stop in _boxes(index, start, end)} if name == b"trak" else {}
            if inside and _handler(index, *inside[b"mdia"]) in _TEXT_HANDLERS:
                flags = inside[b"tkhd"][0] + 3  # behind the version; the lowest of three bytes
                file.seek(at + flags)
                file.write(bytes([index[flags] & ~_TRACK_ENABLED]))


def _index(file: BinaryIO) -> tuple[int, bytes]:
    """Where the content of an MP4's `moov` begins, and that content."""
    at = 0
    while True:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(_BOX_HEADER))
        if name == b"moov":
            return at + _BOX_HEADER, file.read(size - _BOX_HEADER)
        at += size


def _boxes(index: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places of an index, each with the place of its content and of its end."""
    while start < end:
        size, name = struct.unpack_from(">I4s", index, start)
        yield name, start + _BOX_HEADER, start + size
        start += size


def _handler(index: bytes, start: int, end: int) -> bytes:
    """What a track holds, by its `hdlr` (ISO/IEC 14496-12, section 8.4.3)."""
    begins = next(begin for name, begin, _ in _boxes(index, start, end) if name == b"hdlr")
    return index[begins + 8 : begins + 12]


def _picture(reel: Sequence[Strip], track: VideoStream, profile: Profile) -> Iterator[Timed]:
    lag = max(strip.footage.lag for strip in reel)
    start = written = 0
    for strip in reel:
        for shown, packet in packets(strip, profile):
            at = ticks(written - lag, profile)
            packet.pts = ticks(start + shown, profile)
            packet.dts = at
            packet.duration = ticks(start + shown + 1, profile) - packet.pts
            packet.stream = track
            written += 1
            yield at / TIMESCALE, _PICTURE, packet
        start += strip.frames


def _written(texts: Sequence[_Text], track: Stream, scale: int) -> Iterator[Timed]:
    """Samples of 3GPP timed text (TS 26.245, section 5.17): the length of the text, then the text."""
    for text in texts:
        content = text.text.encode()
        packet: av.Packet[Stream] = av.Packet(struct.pack(">H", len(content)) + content)
        packet.time_base = Fraction(1, scale)
        packet.stream, packet.is_keyframe = track, True
        packet.pts = packet.dts = text.start_ms * scale // 1000
        packet.duration = text.end_ms * scale // 1000 - packet.pts
        yield text.start_ms / 1000, _CAPTION, packet
