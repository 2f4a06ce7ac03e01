"""Files that nobody should accept, made on the spot, and files that only look odd.

Here: how each is made, and what is said of it. Not here: the promises about them (`test_bad_files`). They are small,
made of a good clip that is damaged by hand, or written byte by byte where no program would write such a thing.
"""

from __future__ import annotations

import gzip
import os
import random
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from moltpipe.media.runner import run, url
from moltpipe_tests.media.material import source

Build = Callable[[Path, str], Path]
"""Makes a file in a folder; the text is the address of a host that must never be called."""

_H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p"
_PICTURE = "-f lavfi -i testsrc2=s=64x64:r=12:d=2"
_SOUND = "-f lavfi -i sine=r=48000:d=2"


@dataclass(frozen=True)
class Bad:
    """A file and the words that tell its operator what is wrong with it."""

    name: str
    build: Build
    said: str
    kind: str
    """Files of one kind may be told about in the same words, apart from their names."""


BAD: list[Bad] = []
_MADE: dict[str, bytes] = {}


def bad(said: str, *, kind: str | None = None) -> Callable[[Build], Build]:
    """Enter a builder into the corpus under its own name."""

    def enter(build: Build) -> Build:
        name = build.__name__
        BAD.append(Bad(name, build, said, kind or name))
        return build

    return enter


def entered(name: str, said: str, build: Build, *, kind: str | None = None) -> None:
    """Enter a builder that has no name of its own."""
    BAD.append(Bad(name, build, said, kind or name))


def _holding(name: str, content: bytes) -> Build:
    def build(folder: Path, host: str) -> Path:
        file = folder / name
        file.write_bytes(content.replace(b"HOST", host.encode()).replace(b"FOLDER", os.fsencode(folder)))
        return file

    return build


def _noise(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 -- damage, no secret


# What is not media at all.

entered("empty", "is empty", _holding("empty.mp4", b""))
entered("one_byte", "Invalid data found", _holding("one_byte.mp4", b"\x00"), kind="no index")
entered("noise", "Invalid data found", _holding("noise.mp4", _noise(1).randbytes(4096)), kind="no index")
entered("text", "text, which begins 'Internal Server", _holding("text.mp4", b"Internal Server Error\nTry later"))
entered("html", "an HTML page, which begins '<!doctype html>", _holding("page.mp4", b"<!doctype html>\n<p>502</p>"))
entered("json", "JSON, which begins .*quota", _holding("error.mp4", b'{"error": {"code": 429, "message": "quota"}}'))
entered(
    "xml", "XML, which begins .*AccessDenied", _holding("s3.mp4", b'<?xml version="1.0"?><Error>AccessDenied</Error>')
)
entered("pdf", "a PDF document", _holding("wrong_extension.mp4", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"))
entered("program", "a program", _holding("program.mp4", b"\x7fELF\x02\x01\x01" + bytes(64)))
entered("gzip_bomb", "a gzip archive", _holding("bomb.mp4", gzip.compress(bytes(10_000_000), mtime=0)))


@bad("a ZIP archive")
def zip_archive(folder: Path, _: str) -> Path:
    file = folder / "zip.mp4"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("take.mp4", bytes(100))
    return file


@bad("a PNG picture")
def png(folder: Path, _: str) -> Path:
    file = folder / "png.mp4"
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file


@bad("a JPEG picture")
def jpeg(folder: Path, _: str) -> Path:
    file = folder / "jpeg.mp4"
    Image.new("RGB", (64, 64), "red").save(file, "JPEG")
    return file


# What names other files or hosts.

entered(
    "hls_of_a_host",
    "an HLS playlist",
    _holding("hls.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://HOST/take.ts\n#EXT-X-ENDLIST\n"),
    kind="hls",
)
entered(
    "hls_of_a_file",
    "an HLS playlist",
    _holding("hls.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://FOLDER/whole.mp4\n#EXT-X-ENDLIST\n"),
    kind="hls",
)
entered(
    "concat_of_a_host",
    "a script for FFmpeg's concat",
    _holding("script.mp4", b"ffconcat version 1.0\nfile http://HOST/take.mp4\n"),
    kind="concat",
)
entered(
    "concat_of_a_file",
    "a script for FFmpeg's concat",
    _holding("script.txt", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    kind="concat",
)
entered(
    "dash_of_a_host",
    "a DASH manifest",
    _holding(
        "dash.mp4",
        b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
        b'<Representation id="1"><BaseURL>http://HOST/take.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>',
    ),
)
entered(
    "sdp_of_a_host",
    "an SDP session description",
    _holding("sdp.mp4", b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n"),
)
entered("pls_of_a_host", "a PLS playlist", _holding("pls.mp4", b"[playlist]\nFile1=http://HOST/take.mp4\n"))
entered("asx_of_a_host", "an ASX playlist", _holding("a.asf", b"<ASX version='3'><ref href='http://HOST/take'/></ASX>"))
entered(
    "svg_of_a_file",
    "an SVG drawing",
    _holding("drawing.mp4", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
)
entered("xbin", r"character cells \(XBIN\)", _holding("xbin.mp4", b"XBIN\x1a\x50\x00\x19\x00\x10\x00" + bytes(4000)))


# What is no file of its own.


@bad("symbolic link")
def symlink(folder: Path, _: str) -> Path:
    link = folder / "link.mp4"
    link.symlink_to(whole(folder))
    return link


@bad("not a file but a folder")
def directory(folder: Path, _: str) -> Path:
    path = folder / "folder.mp4"
    path.mkdir()
    return path


@bad("not a file but a named pipe")
def fifo(folder: Path, _: str) -> Path:
    path = folder / "pipe.mp4"
    os.mkfifo(path)
    return path


@bad("not a file but a socket")
def socket_file(folder: Path, _: str) -> Path:
    path = folder / "socket.mp4"
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket may hold 108 bytes, so it is bound in its folder and by its name alone.
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        finally:
            os.close(descriptor)
    return path


@bad("not a file but a device")
def device(_: Path, __: str) -> Path:
    return Path("/dev/zero")


@bad("there is nothing of that name")
def absent(folder: Path, _: str) -> Path:
    return folder / "absent.mp4"


# MP4 by its boxes (ISO/IEC 14496-12).

_HOLDERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"}


@dataclass
class Box:
    """A box: a name with bytes, or with boxes in it."""

    name: bytes
    content: bytes = b""
    boxes: list[Box] = field(default_factory=list)

    def __bytes__(self) -> bytes:
        inside = self.content + b"".join(map(bytes, self.boxes))
        return struct.pack(">I4s", 8 + len(inside), self.name) + inside

    def all(self, name: bytes) -> Iterator[Box]:
        """Every box of that name, at any depth."""
        for box in self.boxes:
            if box.name == name:
                yield box
            yield from box.all(name)

    def one(self, name: bytes) -> Box:
        """The first box of that name."""
        return next(self.all(name))


def _boxes(content: bytes) -> list[Box]:
    boxes = []
    at = 0
    while at < len(content):
        size, name = struct.unpack_from(">I4s", content, at)
        inside = content[at + 8 : at + size]
        boxes.append(Box(name, boxes=_boxes(inside)) if name in _HOLDERS else Box(name, inside))
        at += size
    return boxes


def film(file: Path) -> Box:
    """An MP4 as a box without a name that holds the others."""
    return Box(b"", boxes=_boxes(file.read_bytes()))


def _write(file: Path, whole_film: Box) -> Path:
    file.write_bytes(b"".join(map(bytes, whole_film.boxes)))
    return file


def whole(folder: Path, flags: str = "", codec: str = _H264) -> Path:
    """A good clip: 24 frames, 64x64, the index behind the media. Each is made once."""
    file = folder / "whole.mp4"
    args = f"{_PICTURE} {codec} {flags}"
    if args not in _MADE:
        _MADE[args] = source(file, args).read_bytes()
    file.write_bytes(_MADE[args])
    return file


def _changed(name: str, change: Callable[[Box], None], codec: str = _H264) -> Build:
    """A good clip with something wrong in its boxes. The index stands behind, so that places in the media hold."""

    def build(folder: Path, host: str) -> Path:
        clip = whole(folder, codec=codec)
        boxes = film(clip)
        change(boxes)
        clip.unlink()
        for reference in boxes.all(b"dref"):
            reference.content = reference.content.replace(b"HOST", host.encode())
        return _write(folder / f"{name}.mp4", boxes)

    return build


def _stts(*runs: tuple[int, int]) -> bytes:
    return struct.pack(">II", 0, len(runs)) + b"".join(struct.pack(">II", *one) for one in runs)


def _no_media(boxes: Box) -> None:
    boxes.boxes = [box for box in boxes.boxes if box.name != b"mdat"]


def _zeroed(boxes: Box) -> None:
    boxes.one(b"mdat").content = bytes(len(boxes.one(b"mdat").content))


def _noisy(boxes: Box) -> None:
    """Keep the lengths of the units and their first byte, so that only the pictures themselves are noise."""
    content, at, noise = bytearray(boxes.one(b"mdat").content), 0, _noise(2)
    while at + 6 < len(content):
        (size,) = struct.unpack_from(">I", content, at)
        content[at + 6 : at + 4 + size] = noise.randbytes(max(0, size - 2))
        at += 4 + size
    boxes.one(b"mdat").content = bytes(content)


def _unedited(boxes: Box) -> None:
    """Without edit lists and offsets, so that frames are where the table of durations puts them."""
    for box in (*boxes.all(b"stbl"), *boxes.all(b"trak")):
        box.boxes = [one for one in box.boxes if one.name not in {b"ctts", b"edts"}]


def _endless_samples(boxes: Box) -> None:
    boxes.one(b"stts").content = _stts((2**32 - 1, 512))
    boxes.one(b"stsz").content = struct.pack(">III", 0, 1, 2**32 - 1)


def _slow_frames(boxes: Box) -> None:
    _unedited(boxes)
    boxes.one(b"stts").content = _stts((24, 2**27))


def _wild_times(boxes: Box) -> None:
    _unedited(boxes)
    boxes.one(b"stts").content = _stts((8, 512), (1, 2**30), (15, 512))


def _no_frames(boxes: Box) -> None:
    boxes.one(b"stts").content = _stts()
    boxes.one(b"stsz").content = struct.pack(">III", 0, 0, 0)
    for name in (b"stsc", b"stco"):
        boxes.one(name).content = bytes(8)
    for box in boxes.all(b"stbl"):
        box.boxes = [one for one in box.boxes if one.name not in {b"ctts", b"stss", b"sgpd", b"sbgp"}]


def _no_time(boxes: Box) -> None:
    _unedited(boxes)
    boxes.one(b"stts").content = _stts((24, 0))


def _no_timescale(boxes: Box) -> None:
    _unedited(boxes)
    header = bytearray(boxes.one(b"mdhd").content)
    header[12:16] = bytes(4)
    boxes.one(b"mdhd").content = bytes(header)
    boxes.one(b"stts").content = _stts((24, 7200))


def _edited_away(boxes: Box) -> None:
    """An edit list that shows what lies behind the end."""
    boxes.one(b"elst").content = struct.pack(">IIIiI", 0, 1, 2000, 2**31 - 1, 1 << 16)


def _coded_otherwise(boxes: Box) -> None:
    """The header says HEVC, the media is H.264."""
    described = boxes.one(b"stsd")
    described.content = described.content.replace(b"avc1", b"hvc1").replace(b"avcC", b"hvcC")


def _unknown_codec(boxes: Box) -> None:
    described = boxes.one(b"stsd")
    described.content = described.content.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC")


def _referring(to: bytes) -> Callable[[Box], None]:
    """Have the media lie elsewhere: by address as ISO has it, or by an alias of QuickTime, relative to the folder."""

    def change(boxes: Box) -> None:
        if to.startswith(b"http"):
            entry = bytes(Box(b"url ", bytes(4) + to + b"\0"))
        else:
            levels = struct.pack(">HH", 1, 1)
            alias = bytes(130) + levels + bytes(16) + struct.pack(">HH", 2, len(to)) + to + bytes(len(to) % 2)
            entry = bytes(Box(b"alis", bytes(4) + alias + struct.pack(">HH", 0xFFFF, 0)))
        boxes.one(b"dref").content = struct.pack(">II", 0, 1) + entry
        boxes.boxes = [box for box in boxes.boxes if box.name != b"mdat"]

    return change


def _tracks(count: int) -> Callable[[Box], None]:
    def change(boxes: Box) -> None:
        moov = boxes.one(b"moov")
        moov.boxes += [moov.one(b"trak")] * (count - 1)

    return change


def _many_huge_pictures(boxes: Box) -> None:
    """Ten thousand samples that are all the same bytes: the first picture."""
    count = 10_000
    _unedited(boxes)
    (at,) = struct.unpack_from(">I", boxes.one(b"stco").content, 8)
    (size,) = struct.unpack_from(">I", boxes.one(b"stsz").content, 4)
    boxes.one(b"stco").content = struct.pack(">II", 0, count) + struct.pack(">I", at) * count
    boxes.one(b"stsc").content = struct.pack(">IIIII", 0, 1, 1, 1, 1)
    boxes.one(b"stsz").content = struct.pack(">III", 0, size, count)
    boxes.one(b"stts").content = _stts((count, 512))


def _huge_by_its_stream(blocks: int) -> Callable[[Box], None]:
    """So many macroblocks on a side by the parameters of the H.264 stream itself; the boxes say 64x64 pixels."""

    def change(boxes: Box) -> None:
        described = boxes.one(b"stsd")
        record = described.content.index(b"avcC") + 4
        (old,) = struct.unpack_from(">H", described.content, record + 6)
        sps = _sps(blocks)
        parameters = struct.pack(">H", len(sps)) + sps
        content = described.content[: record + 6] + parameters + described.content[record + 8 + old :]
        grown = len(content) - len(described.content)
        for at in (8, record - 8):  # the sizes of the sample entry and of avcC
            (size,) = struct.unpack_from(">I", content, at)
            content = content[:at] + struct.pack(">I", size + grown) + content[at + 4 :]
        described.content = content

    return change


def _sps(blocks: int) -> bytes:
    """A sequence parameter set of H.264 baseline (ITU-T H.264, 7.3.2.1.1) for a square of macroblocks."""
    bits = "".join(f"{byte:08b}" for byte in (0x67, 66, 0, 52))
    for value in (0, 0, 2, 1):  # id, log2_max_frame_num - 4, picture order by decoding order, one reference frame
        bits += _golomb(value)
    bits += "0" + 2 * _golomb(blocks - 1) + "11001"  # frames only, 8x8 inference, no crop, no VUI, end
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _golomb(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


_NO_FRAME = "without a single frame that can be decoded"
for _name, _said, _change, _kind in (
    ("index_without_media", "cannot be read .*(NAL|access unit)", _no_media, None),
    ("media_of_zeros", "cannot be read .*(NAL|access unit)", _zeroed, None),
    ("all_frames_corrupt", "cannot be read", _noisy, None),
    ("four_billion_samples", _NO_FRAME, _endless_samples, "no frame"),
    ("frames_of_half_an_hour", r"lasts 12.1 hours", _slow_frames, None),
    ("wild_times", r"lasts 24.3 hours", _wild_times, None),
    ("no_frames", _NO_FRAME, _no_frames, "no frame"),
    ("no_time", "it ends after 0.00 of 2.00 s", _no_time, None),
    ("no_timescale", "lasts 14.0 hours .*time scale 0", _no_timescale, None),
    ("edited_away", _NO_FRAME, _edited_away, "no frame"),
    ("coded_otherwise", "cannot be read .*(NAL|access unit)", _coded_otherwise, None),
    ("unknown_codec", "a picture in a codec that cannot be decoded here", _unknown_codec, None),
    ("media_in_a_file_of_the_system", _NO_FRAME, _referring(b"/etc/passwd"), "no frame"),
    ("media_at_a_host", "cannot be read .*(NAL|access unit)", _referring(b"http://HOST/take.mp4"), None),
    ("a_hundred_tracks", "holds 100 streams, more than 64", _tracks(100), None),
    ("three_thousand_tracks", "more streams than it may have .*max_streams", _tracks(3000), None),
    ("huge_by_its_stream", "9600x9600", _huge_by_its_stream(600), None),
    ("impossible_by_its_stream", "cannot be read .*(non-existing PPS|is invalid)", _huge_by_its_stream(4096), None),
):
    entered(_name, _said, _changed(_name, _change), kind=_kind)


def _cut(name: str, part: float, flags: str) -> Build:
    def build(folder: Path, _: str) -> Path:
        clip = whole(folder, flags)
        content = clip.read_bytes()
        clip.unlink()
        file = folder / f"{name}.mp4"
        file.write_bytes(content[: int(len(content) * part)])
        return file

    return build


entered("cut_before_its_index", "moov atom not found", _cut("cut_before_its_index", 0.5, ""), kind="no index")
entered(
    "cut_in_the_middle",
    "truncated: 10 of 24 frames",
    _cut("cut_in_the_middle", 0.5, "-movflags +faststart"),
    kind="cut",
)
entered(
    "cut_near_the_end", "truncated: 22 of 24 frames", _cut("cut_near_the_end", 0.95, "-movflags +faststart"), kind="cut"
)
entered("cut_in_its_index", "cannot be read", _cut("cut_in_its_index", 0.05, "-movflags +faststart"))

_FTYP = bytes(Box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2avc1mp41"))
entered(
    "box_of_no_size",
    "holds neither",
    _holding("box.mp4", _FTYP + struct.pack(">I4s", 0, b"moov") + bytes(64)),
    kind="nothing in it",
)
entered(
    "box_of_two_to_the_63",
    "holds neither",
    _holding("box.mp4", _FTYP + struct.pack(">I4sQ", 1, b"moov", 2**63) + bytes(64)),
    kind="nothing in it",
)
entered(
    "boxes_10000_deep",
    "Atoms too deeply nested",
    _holding(
        "deep.mp4", _FTYP + b"".join(struct.pack(">I4s", 8 * (10_000 - depth), b"moov") for depth in range(10_000))
    ),
    kind="too deep",
)


@bad("takes too long to read for its size")
def ten_thousand_huge_pictures(folder: Path, _: str) -> Path:
    """80 kB of MP4 that hold ten thousand pictures of 64 megapixels."""
    picture = folder / "huge.png"
    Image.new("L", (8000, 8000), 200).save(picture, "PNG", compress_level=9)
    clip = folder / "once.mp4"
    run(["-i", url(picture), "-c:v", "copy", "-f", "mp4", url(clip)], timeout_s=60)
    boxes = film(clip)
    _many_huge_pictures(boxes)
    picture.unlink()
    clip.unlink()
    return _write(folder / "bomb.mp4", boxes)


@bad("8400x64 pixels, more than 8192 on a side")
def too_wide(folder: Path, _: str) -> Path:
    return source(folder / "wide.mkv", "-f lavfi -i color=s=8400x64:r=1:d=1 -c:v ffv1")


@bad("no size that is possible", kind="size")
def gif_of_65535(folder: Path, _: str) -> Path:
    header = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    image = b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00"
    file = folder / "huge.gif"
    file.write_bytes(header + image + b";")
    return file


@bad("lasts 36.4 hours")
def gif_of_a_day(folder: Path, _: str) -> Path:
    header = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    control = b"!\xf9\x04\x00" + struct.pack("<H", 65535) + b"\0\0"
    image = control + b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    file = folder / "slow.gif"
    file.write_bytes(header + image * 200 + b";")
    return file


@bad("no size that is possible", kind="size")
def raw_picture_of_65535(folder: Path, _: str) -> Path:
    """A size that stands in the container alone: uncompressed video has no header of its own."""
    clip = whole(folder, codec="-c:v rawvideo -pix_fmt bgr24 -f avi -frames:v 1")
    content = bytearray(clip.read_bytes())
    for name, ahead in ((b"avih", 40), (b"strf", 12)):
        at = content.index(name) + ahead
        content[at : at + 8] = struct.pack("<ii", 65535, 65535)
    clip.unlink()
    file = folder / "raw.avi"
    file.write_bytes(content)
    return file


@bad("lasts 27777.8 hours")
def matroska_of_years(folder: Path, _: str) -> Path:
    clip = source(folder / "years.mkv", f"{_PICTURE} {_H264}")
    content = clip.read_bytes()
    at = content.index(b"\x44\x89\x88")  # Duration, a float of eight bytes, in milliseconds
    clip.write_bytes(content[: at + 3] + struct.pack(">d", 1e11) + content[at + 11 :])
    return clip


def _wav(channels: int, rate: int, samples: bytes, claims: int | None = None) -> bytes:
    size = len(samples) if claims is None else claims
    form = struct.pack("<HHIIHH", 1, channels, rate & 0xFFFFFFFF, 0, 2 * channels, 16)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 2**32 - 1))
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + samples
    )


entered("sound_without_channels", "sound of 0 channels", _holding("none.wav", _wav(0, 48000, bytes(9600))))
entered(
    "sound_of_a_thousand_channels", "Too many channels: 1000", _holding("many.wav", _wav(1000, 48000, bytes(96000)))
)
entered(
    "sound_of_two_billion_samples",
    "sound of 2147483647 samples a second",
    _holding("fast.wav", _wav(2, 2**31 - 1, bytes(9600))),
)
entered("sound_of_no_rate", "Invalid sample rate: 0", _holding("still.wav", _wav(2, 0, bytes(9600))))
entered("sound_that_ends_early", "96044 of 192044 bytes", _holding("early.wav", _wav(2, 48000, bytes(96000), 192000)))
entered("sound_without_samples", "lasts no time at all", _holding("silent.wav", _wav(2, 48000, b"")))


@bad(_NO_FRAME)
def hevc_that_does_not_decode(folder: Path, _: str) -> Path:
    clip = whole(folder, codec="-c:v libx265 -preset ultrafast -x265-params log-level=none -tag:v hvc1")
    boxes = film(clip)
    _noisy(boxes)
    clip.unlink()
    return _write(folder / "hevc.mp4", boxes)


@bad("holds neither picture nor sound", kind="nothing in it")
def only_subtitles(folder: Path, _: str) -> Path:
    script = folder / "lines.srt"
    script.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    file = folder / "lines.mkv"
    run(["-i", url(script), "-c:s", "srt", url(file)], timeout_s=30)
    return file


@bad("holds neither picture nor sound", kind="nothing in it")
def only_a_cover(folder: Path, _: str) -> Path:
    cover, tune, file = folder / "cover.jpg", folder / "tune.m4a", folder / "cover.m4a"
    Image.new("RGB", (64, 64), "red").save(cover)
    source(tune, f"{_SOUND} -c:a aac")
    args = ["-i", url(tune), "-i", url(cover), "-map", "1:v", "-c", "copy", "-disposition:v", "attached_pic"]
    run([*args, "-f", "mp4", url(file)], timeout_s=30)
    return file


@bad("holds neither picture nor sound", kind="nothing in it")
def only_an_attachment(folder: Path, _: str) -> Path:
    lines, file = folder / "lines.srt", folder / "attached.mkv"
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n")
    args = ["-i", url(lines), "-attach", str(lines), "-metadata:s:t", "mimetype=text/plain"]
    run([*args, "-c:s", "srt", url(file)], timeout_s=30)
    return file


# What only looks odd.


@dataclass(frozen=True)
class Odd:
    """A file that is good, however it looks."""

    name: str
    args: str


ODD = (
    Odd(
        "variable_rate.mp4",
        f"-f lavfi -i testsrc2=s=64x64:r=30:d=2 -vf select=lt(n\\,20)+not(mod(n\\,10)) -fps_mode vfr {_H264}",
    ),
    Odd("ten_bits.mkv", f"{_PICTURE} -c:v libx264 -preset ultrafast -pix_fmt yuv420p10le"),
    Odd("every_colour.mkv", f"{_PICTURE} -c:v libx264 -preset ultrafast -pix_fmt yuv444p"),
    Odd("odd_size.mkv", "-f lavfi -i testsrc2=s=63x35:r=12:d=2 -c:v libx264 -preset ultrafast -pix_fmt yuv444p"),
    Odd("anamorphic.mp4", f"{_PICTURE} {_H264} -vf setsar=4/3"),
    Odd("interlaced.mov", f"{_PICTURE} -c:v mpeg2video -flags +ilme+ildct"),
    Odd("fragmented.mp4", f"{_PICTURE} {_SOUND} {_H264} -c:a aac -movflags +frag_keyframe+empty_moov"),
    Odd("seen_alone.avi", f"{_PICTURE} -c:v mpeg4"),
    Odd("heard_alone.m4a", f"{_SOUND} -c:a aac"),
    Odd("telephone.wav", "-f lavfi -i sine=r=8000:d=2 -ac 1"),
    Odd("surround.mkv", f"{_PICTURE} {_SOUND} {_H264} -ac 6 -c:a ac3"),
    Odd("web.webm", f"{_PICTURE} {_SOUND} -c:v libvpx -deadline realtime -c:a libopus"),
    Odd("edited.mov", f"{_PICTURE} {_SOUND} -c:v prores_ks -c:a pcm_s24le"),
    Odd("broadcast.ts", f"{_PICTURE} {_SOUND} {_H264} -c:a mp2 -f mpegts"),
    Odd("old.flv", f"{_PICTURE} {_SOUND} -c:v flv -c:a libmp3lame -ar 44100"),
    Odd("joke.gif", f"{_PICTURE}"),
    Odd("one_frame.mp4", f"{_PICTURE} -frames:v 1 {_H264}"),
    Odd("short.mp3", "-f lavfi -i sine=d=0.3 -c:a libmp3lame"),
    Odd("silence.flac", "-f lavfi -i anullsrc -t 1 -c:a flac"),
    Odd("named_wrong.txt", f"{_PICTURE} {_H264} -f mp4"),
)
