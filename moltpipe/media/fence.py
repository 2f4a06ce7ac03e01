"""The fence around a file that somebody else made: what it may be and claim before anything in it is decoded.

Here: what kind of file is none of ours by its first bytes, and the largest figures that a header may hold. Not here:
reading (`media.probe`), and the limits on time and memory of the process that reads (`media.examine`).
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Stream

from moltpipe.media.errors import MediaError

READABLE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,gif,mxf,ogg,mp3,wav,w64,flac,aac,aiff,caf,amr"
)
"""Containers that hold their own media. Playlists and scripts, which name other files, are not among them."""

MOST_STREAMS = 64
"""A broadcast master carries some twenty; a transport stream of a whole multiplex is no take."""
MOST_STREAMS_OPENED = 1000
"""Where libavformat stops (its `max_streams`), so that a file of a million tracks costs no memory."""
LONGEST_SIDE = 8192
MOST_PIXELS = 64 * 1024 * 1024
"""8K (7680x4320) has half as many. One frame of so many in 10 bits, RGB, takes 400 MB."""
LONGEST_S = 12 * 3600.0
"""Footage of a whole shooting day. What claims more is a live stream or a lie, and counting it would take hours."""
MOST_CHANNELS = 64
"""What libavutil's layouts can tell apart."""
SLOWEST_RATE, FASTEST_RATE = 1_000, 768_000
"""Samples per second: below, nothing is sound; above, no converter works."""

_HEAD_BYTES = 512
_EXCERPT = 60
_KINDS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    # Those that name other files or hosts come first.
    ("an HLS playlist", re.compile(rb"#EXTM3U")),
    ("a script for FFmpeg's concat demuxer", re.compile(rb"ffconcat version")),
    ("a DASH manifest", re.compile(rb"(<\?xml[^>]*\?>\s*)?(<!--.*?-->\s*)*<(\w+:)?MPD\b", re.DOTALL)),
    ("an SDP session description", re.compile(rb"v=0\s")),
    ("a PLS playlist", re.compile(rb"\[playlist\]", re.IGNORECASE)),
    ("an ASX playlist", re.compile(rb"<asx\b|\[Reference\]", re.IGNORECASE)),
    ("an SVG drawing", re.compile(rb"(<\?xml[^>]*\?>\s*)?(<!--.*?-->\s*)*<svg\b", re.DOTALL)),
    ("an HTML page", re.compile(rb"<!doctype html|<html\b", re.IGNORECASE)),
    ("XML", re.compile(rb"<\?xml")),
    ("JSON", re.compile(rb"[{\[]\s*[\"{\[\]}\d]")),
    ("a ZIP archive", re.compile(rb"PK(\x03\x04|\x05\x06|\x07\x08)")),
    ("a gzip archive", re.compile(rb"\x1f\x8b")),
    ("a PNG picture", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("a JPEG picture", re.compile(rb"\xff\xd8\xff")),
    ("a WebP picture", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("a PDF document", re.compile(rb"%PDF-")),
    ("a program", re.compile(rb"\x7fELF|MZ.{58}|#!/", re.DOTALL)),
    ("text drawn with character cells (XBIN)", re.compile(rb"XBIN\x1a")),
)
_BREAKS = {ord(character): " " for character in "\t\r\n\f"}
_RIFF_HEADER_BYTES = 12
_RIFF_UNKNOWN = 0x7F000000
"""Writers to a pipe put 0xFFFFFFFF there (FFmpeg), or something near 0x7FFFFFFF (eSpeak NG, SoX)."""
_FILE_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_file(path: Path) -> None:
    """Make sure that there is a plain file with something in it that is not known to be something else.

    Raises:
        MediaError: it is missing, empty, no file at all, or of a kind that is not video or audio.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"{path} is not a file: there is nothing of that name") from error
    except OSError as error:
        raise MediaError(f"{path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path} is not a file but {_FILE_KINDS.get(stat.S_IFMT(found.st_mode), 'something else')}")
    if not found.st_size:
        raise MediaError(f"{path.name} is empty")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise MediaError(f"{path.name} cannot be read: {error.strerror}") from error
    announced = _riff_bytes(head)
    # Some writers count a padding byte at the end that they leave out.
    if announced > found.st_size + 1:
        raise MediaError(f"{path.name} is truncated: {found.st_size} of {announced} bytes are there")
    kind = kind_of(head)
    if kind is not None:
        raise MediaError(f"{path.name} cannot be read as video or audio: it is {kind}")


def _riff_bytes(head: bytes) -> int:
    """How large a RIFF file (WAV, AVI) must at least be; 0 where that was not known when its header was written.

    libavformat plays what is there: half of a WAV went for a whole one.
    """
    if len(head) < _RIFF_HEADER_BYTES or not head.startswith(b"RIFF"):
        return 0
    size = int.from_bytes(head[4:8], "little")
    return size + 8 if size < _RIFF_UNKNOWN else 0


def kind_of(head: bytes) -> str | None:
    """What a file is by its first bytes, in words, where it is certainly no video or audio.

    Playlists and descriptions of streams are among them: to read one means to read what it names. Text, such as the
    error page of a provider, is quoted from its beginning.
    """
    content = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    kind = next((name for name, beginning in _KINDS if beginning.match(content)), None)
    text = _text(content)
    if not text:
        return kind
    return f"{kind or 'text'}, which begins {text[:_EXCERPT]!r}"


def _text(content: bytes) -> str | None:
    """The content as text; None where it holds bytes that no text has."""
    try:
        # A character of several bytes may be cut off at the end.
        text = content.decode("utf-8", "strict" if len(content) < _HEAD_BYTES - 4 else "ignore")
    except UnicodeDecodeError:
        return None
    return text if text.translate(_BREAKS).isprintable() else None


def check_claims(container: InputContainer, name: str) -> None:
    """Make sure that the headers of an opened file claim nothing that would be absurd to decode.

    Raises:
        MediaError: too many streams, too long, a picture too large or without a size, a sound of no possible form,
            or nothing but codecs that cannot be decoded here.
    """
    if len(container.streams) > MOST_STREAMS:
        raise MediaError(f"{name} holds {len(container.streams)} streams, more than {MOST_STREAMS}")
    check_length(name, (container.duration or 0) / av.time_base)
    for kind, streams in (("a picture", container.streams.video), ("sound", container.streams.audio)):
        if streams and not any(map(decodable, streams)):
            raise MediaError(f"{name} has {kind} in a codec that cannot be decoded here")
    for picture in filter(decodable, container.streams.video):
        check_size(name, picture.codec_context.width, picture.codec_context.height)
    for sound in filter(decodable, container.streams.audio):
        check_sound(name, sound.codec_context.channels, sound.codec_context.rate)


def decodable(stream: Stream) -> bool:
    """Whether there is a decoder for a stream. Phones write tracks beside the common ones that only they can play."""
    return stream.codec_context is not None


def check_length(name: str, seconds: float) -> None:
    """Make sure that a file goes on for no longer than footage does.

    Raises:
        MediaError: it claims to, or it does.
    """
    if seconds > LONGEST_S:
        raise MediaError(f"{name} lasts {seconds / 3600:.1f} hours by its own times, more than {LONGEST_S / 3600:.0f}")


def check_size(name: str, width: int, height: int) -> None:
    """Make sure that a picture can be held in memory.

    Raises:
        MediaError: a side is 0 or too long, or the area is too large.
    """
    if width < 1 or height < 1:
        raise MediaError(f"{name} has a picture of {width}x{height} pixels: its header tells no size that is possible")
    if max(width, height) > LONGEST_SIDE or width * height > MOST_PIXELS:
        raise MediaError(f"{name} has a picture of {width}x{height} pixels, more than {LONGEST_SIDE} on a side")


def check_sound(name: str, channels: int, rate: int) -> None:
    """Make sure that a sound has a form that exists.

    Raises:
        MediaError: no channel or too many, or a rate at which nothing is sampled.
    """
    if not 1 <= channels <= MOST_CHANNELS:
        raise MediaError(f"{name} has sound of {channels} channels, not 1 to {MOST_CHANNELS}")
    if not SLOWEST_RATE <= rate <= FASTEST_RATE:
        raise MediaError(f"{name} has sound of {rate} samples a second, not {SLOWEST_RATE} to {FASTEST_RATE}")
