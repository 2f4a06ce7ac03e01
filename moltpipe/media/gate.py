"""The delivery gate: what must hold before a cut may have a row in the ledger.

Here: each rule of delivery (`studio.delivery.RULES`) and the figures that it was checked against. Not here: mending
(`media.stitch` conforms a clip again) and publishing. Everything is read off the finished file, decoded to its end;
nothing is taken from what the stitch believes that it wrote. The incident behind it: episodes of thirty black seconds
were reported as done.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from moltpipe.media.aac import PACKET
from moltpipe.media.captions import Caption
from moltpipe.media.errors import DeliveryRefused, MediaError
from moltpipe.media.probe import opened, picture_of
from moltpipe.media.screening import Screening, Title, screen
from moltpipe.media.sound import measure
from moltpipe.studio.asked import Asked, Stretch, beyond
from moltpipe.studio.delivery import RULES, Delivery, Figure, Finding
from moltpipe.studio.finish import HOUSE_FINISH
from moltpipe.studio.profiles import Profile

__all__ = ["RULES", "Delivery", "deliver", "deliver_sound"]

BT709 = 1
BLACK_S = 1.0
"""Shorter black is a blink that directors use; a second of it reads as a fault."""
FROZEN_S = 2.0
"""Clips of generative cameras hold still for a second now and then, and nobody minds."""
SILENT_S = 2.0
"""Longer than the pauses of speech and of a clip's own sound, shorter than what a listener takes for the end."""
TOLERANCE_S = 0.25
"""How far what was asked for reaches over its edges: looks lie an eighth of a second apart, sounds end in fades."""
LOUDNESS_TOLERANCE_LU = 0.5
PEAK_TOLERANCE_DB = 0.5
"""What AAC may add to the peak that the mix was limited to."""
CAPTION_SLIP_MS = 50
"""How far a soft caption's times may differ from the sidecar's: a frame at 24 per second, and rounding."""
SHOWN = 5
"""Stretches that a fault names; the rest is counted."""


def deliver(
    path: Path,
    *,
    frames: int,
    profile: Profile,
    loudness_lufs: float | None,
    asked: Asked,
    captions: Sequence[Caption],
    ceiling_dbtp: float = HOUSE_FINISH.ceiling_dbtp,
) -> Delivery:
    """Check a finished cut against every rule of delivery.

    `loudness_lufs` is what the mix should have reached; None means that there is nothing to hear. `captions` are those
    of the sidecars.

    Raises:
        DeliveryRefused: at least one rule is broken; the error names them all and carries every finding.
    """

    def look(file: _File) -> Iterator[Finding]:
        yield Finding("picture_is_exact", *_picture(file, frames, profile))
        yield Finding("sound_fits_picture", *_sound_and_picture(file, profile))
        yield from _common(file, profile.seconds(file.shown.frames), loudness_lufs, ceiling_dbtp, asked, captions)

    kinds = ["audio", *(["subtitle"] if captions else []), "video"]
    return _judged(path, "video", kinds, lambda shown: profile.seconds(shown.frames), look, loudness_lufs)


def deliver_sound(
    path: Path,
    *,
    seconds: float,
    loudness_lufs: float | None,
    asked: Asked,
    captions: Sequence[Caption],
    ceiling_dbtp: float = HOUSE_FINISH.ceiling_dbtp,
) -> Delivery:
    """The same for an episode that is only heard: an MP4 with sound, perhaps captions and a cover, `seconds` long.

    Raises:
        DeliveryRefused: at least one rule is broken.
    """

    def look(file: _File) -> Iterator[Finding]:
        yield Finding("sound_fits_picture", *_sound_alone(file, seconds))
        yield from _common(file, file.shown.sound_s, loudness_lufs, ceiling_dbtp, asked, captions)

    kinds = ["audio", *(["subtitle"] if captions else [])]
    return _judged(path, "audio", kinds, lambda shown: shown.sound_s, look, loudness_lufs)


@dataclass(frozen=True)
class _Picture:
    """What the header says of the picture."""

    codec: str
    pixel_format: str | None
    width: int
    height: int
    pixel_shape: Fraction
    rate: Fraction
    colour: tuple[int, int, int, int]
    """Range, primaries, transfer, matrix (ITU-T H.273)."""


@dataclass(frozen=True)
class _File:
    """A cut as it was found: its streams as the header has them, and what was seen and heard."""

    path: Path
    kinds: tuple[str, ...]
    """Of its streams, in order of the alphabet; a cover is `cover`."""
    picture: _Picture | None
    sound_codec: str | None
    boxes: tuple[str, ...]
    shown: Screening


_Found = tuple[tuple[str, ...], dict[str, Figure]]
"""Faults and figures."""


def _judged(
    path: Path,
    medium: str,
    kinds: list[str],
    length: Callable[[Screening], float],
    look: Callable[[_File], Iterator[Finding]],
    loudness_lufs: float | None,
) -> Delivery:
    try:
        file = _opened(path, loudness_lufs)
    except MediaError as error:
        size = path.stat().st_size if path.is_file() else 0
        unreadable = Finding("playable_from_the_start", (str(error),), {"bytes": size})
        raise DeliveryRefused(path, Delivery((unreadable,), seconds=0.0, bytes=size, medium=medium)) from error
    playable = Finding("playable_from_the_start", *_playable(file, kinds))
    found = {finding.rule: finding for finding in (playable, *look(file))}
    delivery = Delivery(
        findings=tuple(found[rule] for rule in RULES if rule in found),
        seconds=length(file.shown),
        bytes=path.stat().st_size,
        medium=medium,
    )
    if not delivery.passed:
        raise DeliveryRefused(path, delivery)
    return delivery


def _opened(path: Path, loudness_lufs: float | None) -> _File:
    with opened(path) as container:
        moving = picture_of(container)
        still = {stream.index for stream in container.streams.video if stream is not moving}
        kinds = sorted("cover" if stream.index in still else stream.type for stream in container.streams)
        sound = next(iter(container.streams.audio), None)
        sound_codec = sound.codec_context.codec.canonical_name if sound is not None else None
        picture = None
        if moving is not None:
            context = moving.codec_context
            picture = _Picture(
                codec=context.codec.canonical_name,
                pixel_format=context.pix_fmt,
                width=context.width,
                height=context.height,
                pixel_shape=moving.sample_aspect_ratio or Fraction(1),
                rate=moving.average_rate or Fraction(0),
                colour=(context.color_range, context.color_primaries, context.color_trc, context.colorspace),
            )
    return _File(
        path, tuple(kinds), picture, sound_codec, tuple(_boxes(path)), screen(path, loudness_lufs=loudness_lufs)
    )


def _common(
    file: _File,
    length_s: float,
    loudness_lufs: float | None,
    ceiling_dbtp: float,
    asked: Asked,
    captions: Sequence[Caption],
) -> Iterator[Finding]:
    shown = file.shown
    if shown.frames:
        yield _without("nothing_black", "black", shown.black, asked.black, BLACK_S)
        yield _without("nothing_frozen", "without any movement", shown.frozen, asked.frozen, FROZEN_S)
    if file.sound_codec is not None:
        yield _without("nothing_silent", "silent", shown.silent, asked.silent, SILENT_S)
        yield Finding("loudness_on_target", *_loudness(file.path, loudness_lufs, ceiling_dbtp))
    yield Finding("captions_inside", *_captions(captions, shown.titles, length_s))


def _picture(file: _File, frames: int, profile: Profile) -> _Found:
    found, shown = file.picture, file.shown
    if found is None:
        return ("there is no picture",), {"frames": shown.frames, "frames_wanted": frames}

    def faults() -> Iterator[str]:
        if (found.codec, found.pixel_format) != ("h264", "yuv420p"):
            yield f"the picture is {found.codec} {found.pixel_format}, not h264 yuv420p"
        if (found.width, found.height) != (profile.width, profile.height):
            yield f"the picture is {found.width}x{found.height}, not {profile.width}x{profile.height}"
        if found.pixel_shape != 1:
            yield f"pixels are {found.pixel_shape} as wide as high, not square"
        if shown.rotation:
            yield f"the picture is turned by {shown.rotation} degrees"
        if found.rate != Fraction(profile.rate):
            yield f"the rate is {found.rate}, not {profile.rate} frames per second"
        if found.colour != (BT709,) * 4:
            yield f"range, primaries, transfer and matrix are {found.colour}, not BT.709 limited (1, 1, 1, 1)"
        if shown.frames != frames:
            yield f"{shown.frames} frames decode, not {frames}"

    figures: dict[str, Figure] = {
        "frames": shown.frames,
        "frames_wanted": frames,
        "width": found.width,
        "height": found.height,
        "frames_per_s": float(found.rate),
    }
    return tuple(faults()), figures


def _sound_and_picture(file: _File, profile: Profile) -> _Found:
    shown = file.shown
    apart_s = shown.sound_s - profile.seconds(shown.frames)

    def faults() -> Iterator[str]:
        yield from _codec(file)
        if shown.samples and shown.frames and abs(apart_s) >= 1 / profile.rate:
            yield f"sound less picture is {apart_s:+.3f} s, a frame or more"
        yield from _starts(shown)

    return tuple(faults()), {
        "sound_s": round(shown.sound_s, 6),
        "sound_less_picture_s": round(apart_s, 6),
        "samples": shown.samples,
        "picture_starts_at_s": shown.picture_starts_at_s,
        "sound_starts_at_s": shown.sound_starts_at_s,
    }


def _sound_alone(file: _File, seconds: float) -> _Found:
    shown = file.shown
    apart_s = shown.sound_s - seconds
    half_a_packet_s = PACKET / 2 / (shown.sample_rate or 1)

    def faults() -> Iterator[str]:
        yield from _codec(file)
        # A microsecond for what was a float: a length that lies between two packets is as far from either.
        if shown.samples and abs(apart_s) > half_a_packet_s + 1e-6:
            yield f"the sound lasts {shown.sound_s:.3f} s, not {seconds:.3f} s"
        yield from _starts(shown)

    return tuple(faults()), {
        "sound_s": round(shown.sound_s, 6),
        "sound_less_wanted_s": round(apart_s, 6),
        "samples": shown.samples,
        "sound_starts_at_s": shown.sound_starts_at_s,
    }


def _codec(file: _File) -> Iterator[str]:
    if file.sound_codec is None:
        yield "there is no sound"
    elif file.sound_codec != "aac":
        yield f"the sound is {file.sound_codec}, not aac"


def _starts(shown: Screening) -> Iterator[str]:
    for what, starts_at_s in (("picture", shown.picture_starts_at_s), ("sound", shown.sound_starts_at_s)):
        if starts_at_s:
            yield f"the {what} starts at {starts_at_s:.3f} s, not at 0"


def _playable(file: _File, kinds: list[str]) -> _Found:
    found = [kind for kind in file.kinds if kind != "cover" or "video" in kinds]
    boxes = file.boxes

    def faults() -> Iterator[str]:
        if found != kinds:
            yield f"one stream of {', '.join(kinds)} each is expected, found {', '.join(found) or 'none'}"
        if file.shown.stumbles:
            yield f"decoding times do not grow at {file.shown.stumbles} places"
        if "moov" not in boxes or "mdat" not in boxes or boxes.index("moov") > boxes.index("mdat"):
            yield f"the index (moov) does not stand before the media (mdat): {', '.join(boxes)}"

    return tuple(faults()), {
        "bytes": file.path.stat().st_size,
        "streams": ", ".join(file.kinds),
        "boxes": ", ".join(boxes),
        "order_faults": file.shown.stumbles,
    }


def _without(rule: str, word: str, found: Sequence[Stretch], asked: Sequence[Stretch], shortest_s: float) -> Finding:
    """No stretch of this kind that lasts so long and that nobody asked for."""
    faults = beyond(found, asked, shortest_s=shortest_s, tolerance_s=TOLERANCE_S)
    name = rule.removeprefix("nothing_")
    said = tuple(f"{word} from {_clock(one.start_s)} to {_clock(one.end_s)}" for one in faults[:SHOWN])
    if len(faults) > SHOWN:
        said = (*said, f"{word} at {len(faults) - SHOWN} more places")
    figures: dict[str, Figure] = {
        f"{name}_s": _sum(found),
        f"{name}_unasked_s": _sum(faults),
        f"{name}_longest_s": round(max((one.seconds for one in found), default=0.0), 3),
    }
    return Finding(rule, said, figures)


def _sum(stretches: Iterable[Stretch]) -> float:
    return round(sum((one.seconds for one in stretches), 0.0), 3)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:05.2f}"


def _loudness(path: Path, aim_lufs: float | None, ceiling_dbtp: float) -> _Found:
    lufs, dbtp = measure(path)

    def faults() -> Iterator[str]:
        if aim_lufs is None:
            if lufs is not None:
                yield f"{lufs:.1f} LUFS are heard where nothing should be"
        elif lufs is None:
            yield f"nothing is heard, {aim_lufs:.1f} LUFS were aimed at"
        elif abs(lufs - aim_lufs) > LOUDNESS_TOLERANCE_LU:
            yield f"the loudness is {lufs:.1f} LUFS, {lufs - aim_lufs:+.1f} LU off {aim_lufs:.1f}"
        if dbtp is not None and dbtp > ceiling_dbtp + PEAK_TOLERANCE_DB:
            yield f"the true peak is {dbtp:.1f} dBTP, over the ceiling of {ceiling_dbtp:.1f}"

    return tuple(faults()), {"lufs": lufs, "lufs_wanted": aim_lufs, "dbtp": dbtp, "dbtp_ceiling": ceiling_dbtp}


def _captions(wanted: Sequence[Caption], titles: Sequence[Title], length_s: float) -> _Found:
    end_ms = length_s * 1000 + 1

    def faults() -> Iterator[str]:
        for number, one in enumerate(wanted, start=1):
            if one.end_ms <= one.start_ms or one.start_ms < 0:
                yield f"caption {number} stands from {one.start_ms} to {one.end_ms} ms"
            if number > 1 and one.start_ms < wanted[number - 2].end_ms:
                yield f"caption {number} begins at {one.start_ms} ms, before caption {number - 1} ends"
            if one.end_ms > end_ms:
                yield f"caption {number} ends at {one.end_ms} ms, after the end at {end_ms:.0f} ms"
        if len(titles) != len(wanted):
            yield f"{len(titles)} captions are inside the file, not {len(wanted)}"
            return
        for number, (one, inside) in enumerate(zip(wanted, titles, strict=True), start=1):
            if _letters(one.text) != _letters(inside.text):
                yield f"caption {number} reads {inside.text!r} inside the file, not {one.text!r}"
            slip_ms = max(abs(one.start_ms - inside.start_ms), abs(one.end_ms - inside.end_ms))
            if slip_ms > CAPTION_SLIP_MS:
                yield f"caption {number} is {slip_ms} ms off inside the file"

    found = list(faults())
    said = (*found[:SHOWN], f"{len(found) - SHOWN} more faults of captions") if len(found) > SHOWN else tuple(found)
    return said, {
        "captions": len(wanted),
        "captions_in_file": len(titles),
        "last_caption_ends_s": wanted[-1].end_ms / 1000 if wanted else None,
    }


def _letters(text: str) -> str:
    """What is read of a caption: SubRip and `mov_text` write line breaks and backslashes in their own ways."""
    return "".join(one for one in text if one.isalnum())


def _boxes(path: Path) -> Iterator[str]:
    """Names of the top-level boxes of an MP4 (ISO/IEC 14496-12, section 4.2), in the order of the file."""
    size_left = path.stat().st_size
    with path.open("rb") as file:
        while size_left >= 8:  # noqa: PLR2004 -- size and name, four bytes each
            size, name = struct.unpack(">I4s", file.read(8))
            header = 8
            if size == 1:  # a 64-bit size follows
                (size,) = struct.unpack(">Q", file.read(8))
                header = 16
            size = size or size_left  # 0: to the end of the file
            yield name.decode("latin-1")
            if size < header:
                return
            file.seek(size - header, 1)
            size_left -= size
