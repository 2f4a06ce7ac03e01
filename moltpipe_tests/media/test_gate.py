from __future__ import annotations

import struct
from pathlib import Path

import pytest

from moltpipe.media.errors import DeliveryRefused
from moltpipe.media.gate import deliver
from moltpipe.media.probe import verify_decodes
from moltpipe.media.reel import encode_frames
from moltpipe.media.runner import run, url
from moltpipe.media.sound import mix
from moltpipe.media.stitch import stitch
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.media.material import P, ramp, scene

FRAMES = 48


def _cut(room: Path, clip: Path | None = None) -> Path:
    track, target = room / "track.wav", room / "cut.mp4"
    mix([], seconds=P.seconds(FRAMES), target=track)
    stitch([clip or ramp(room / "clip.mp4", FRAMES)], track, target, profile=P)
    return target


def _again(room: Path, *args: str) -> Path:
    """The cut, taken apart and put together again in a wrong way."""
    broken = room / "broken.mp4"
    run(["-i", url(_cut(room)), *args, url(broken)], timeout_s=60)
    return broken


def _refusal(path: Path, frames: int = FRAMES) -> str:
    with pytest.raises(DeliveryRefused) as refused:
        deliver(path, frames=frames, profile=P)
    assert not any("Traceback" in failure for failure in refused.value.failures)
    return "; ".join(refused.value.failures)


def test_a_good_cut_passes_with_its_figures(room: Path) -> None:
    cut = _cut(room)
    delivery = deliver(cut, frames=FRAMES, profile=P)
    assert (delivery.frames, delivery.seconds, delivery.width, delivery.height) == (48, 2.0, 320, 180)
    assert delivery.bytes == cut.stat().st_size


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-c", "copy", "-an"), "found video"),
        (("-c", "copy", "-map", "0", "-map", "0:a"), "found audio, audio, video"),
        (("-c:v", "copy", "-c:a", "libmp3lame"), "the sound is mp3, not aac"),
        (("-c:a", "copy", "-c:v", "mpeg4"), "the picture is mpeg4"),
        (("-c:a", "copy", "-vf", "scale=160:90"), "160x90, not 320x180"),
        (("-c:a", "copy", "-vf", "setsar=2"), "not square"),
        (("-c:a", "copy", "-r", "25"), "the rate is 25, not 24"),
        (("-c:a", "copy", "-pix_fmt", "yuv444p"), "yuv444p, not h264 yuv420p"),
        (("-c:a", "copy", "-vf", "setparams=colorspace=smpte170m"), "not BT.709 limited"),
        (("-c:v", "copy", "-af", "apad=pad_dur=0.1"), "sound less picture is +0."),
        (("-c:v", "copy", "-af", "atrim=end=1.9"), "sound less picture is -0."),
        (("-c", "copy"), "the index (moov) does not stand before the media (mdat)"),
        (("-c:a", "copy", "-vf", "setpts=PTS+0.5/TB", "-movflags", "+faststart"), "the picture starts at"),
    ],
)
def test_a_cut_that_breaks_a_rule_is_refused_by_that_rule(room: Path, args: tuple[str, ...], said: str) -> None:
    assert said in _refusal(_again(room, *args))


def test_a_cut_of_another_length_is_refused(room: Path) -> None:
    assert "48 frames decode, not 49" in _refusal(_cut(room), frames=FRAMES + 1)


def test_a_black_cut_is_refused(room: Path) -> None:
    black = room / "black.mp4"
    encode_frames([bytes(P.width * P.height * 3)] * FRAMES, P, black)
    assert "black from beginning to end" in _refusal(_cut(room, black))


def test_all_broken_rules_are_listed_at_once(room: Path) -> None:
    said = _refusal(_again(room, "-an", "-vf", "scale=160:90"), frames=7)
    assert all(part in said for part in ("found video", "160x90", "48 frames decode, not 7", "moov"))


@pytest.mark.parametrize("keep", [0, 100, 0.6, 0.95])
def test_a_cut_that_ends_in_the_middle_is_refused(room: Path, keep: float) -> None:
    whole = _cut(room).read_bytes()
    half = room / "half.mp4"
    half.write_bytes(whole[: int(keep if keep > 1 else len(whole) * keep)])
    assert _refusal(half)


def test_damage_inside_the_picture_is_refused(room: Path) -> None:
    cut = _cut(room, scene(room / "scene.mp4"))
    content = bytearray(cut.read_bytes())
    begin = content.index(b"mdat")
    for tenth in range(2, 10):
        at = begin + (len(content) - begin) * tenth // 10
        content[at : at + 8] = bytes(byte ^ 0x5A for byte in content[at : at + 8])
    cut.write_bytes(content)
    # A player conceals it and shows every frame; the gate must not.
    assert verify_decodes(cut).frames == FRAMES
    assert "cannot be read as video or audio" in _refusal(cut)


def test_decoding_times_that_stand_still_are_refused(room: Path) -> None:
    cut = _cut(room)
    # The table of decoding times: one entry, 48 frames of 3750 ticks each.
    table = b"stts" + struct.pack(">IIII", 0, 1, FRAMES, 3750)
    content = cut.read_bytes()
    assert content.count(table) == 1
    cut.write_bytes(content.replace(table, table[:-4] + struct.pack(">I", 0)))
    assert "decoding times do not grow" in _refusal(cut)


def test_the_profile_is_part_of_the_rules(room: Path) -> None:
    with pytest.raises(DeliveryRefused, match="320x180, not 426x240"):
        deliver(_cut(room), frames=FRAMES, profile=parse_profile("240p24"))
