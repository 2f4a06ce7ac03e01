from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from moltpipe.media import runner
from moltpipe.media.conform import Job, conform, conform_all, conforms, fingerprint, house_fingerprint, recipe
from moltpipe.media.encoders import DeskSize
from moltpipe.media.errors import MediaError
from moltpipe.media.offload import offload
from moltpipe.media.probe import decode, probe
from moltpipe.media.reel import encode_frames, h264_level
from moltpipe.media.runner import run, url
from moltpipe.media.stills import frame_at
from moltpipe.studio.profiles import Fit, parse_profile
from moltpipe_tests.media.material import P, frame_numbers, pictures, ramp, source
from moltpipe_tests.media.processes import children_called

SOURCES = {
    "24.mp4": "-f lavfi -i testsrc2=s=320x180:r=24:d=2 -c:v libx264",
    "25-odd.mkv": "-f lavfi -i testsrc2=s=321x241:r=25:d=2.3 -c:v libx264 -pix_fmt yuv444p",
    "ntsc-sound.mp4": "-f lavfi -i testsrc2=s=640x360:r=30000/1001:d=5 -f lavfi -i sine=d=4 -c:v libx264 -c:a aac",
    "30-tall.webm": "-f lavfi -i testsrc2=s=200x400:r=30:d=1 -c:v libvpx",
    "full-range.mov": "-f lavfi -i testsrc2=s=320x240:r=25:d=2 -pix_fmt yuvj420p -c:v mjpeg",
    "late.mp4": "-f lavfi -i sine=d=2 -itsoffset 0.7 -f lavfi -i testsrc2=s=320x180:r=24:d=1 -c:v libx264 -c:a aac",
    "60.mp4": "-f lavfi -i testsrc2=s=1280x720:r=60:d=0.5 -c:v libx264 -preset ultrafast -g 5",
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_becomes_house_film_of_the_exact_length(room: Path, name: str) -> None:
    target = room / "conformed.mp4"
    conform(source(room / name, SOURCES[name]), P, target, frames=61)
    found = probe(target)
    assert fingerprint(target) == house_fingerprint(P)
    assert conforms(found, P)
    assert decode(target, strict=False).frames == 61


@pytest.mark.parametrize("profile", ["180p25", "180p30", "240p24"])
def test_film_of_another_profile_does_not_conform(room: Path, profile: str) -> None:
    other = ramp(room / "other.mp4", 12, parse_profile(profile))
    assert conforms(probe(other), parse_profile(profile))
    assert not conforms(probe(other), P)


def test_a_clip_with_its_own_sound_does_not_conform(room: Path) -> None:
    silent = ramp(room / "silent.mp4", 24)
    loud = room / "loud.mp4"
    run(["-i", url(silent), "-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy", url(loud)], timeout_s=30)
    assert not conforms(probe(loud), P)


def test_a_drawn_reel_is_house_film_at_once_whatever_it_shows(room: Path) -> None:
    size = P.width * P.height * 3
    for number, frame in enumerate((bytes(size), bytes([255]) * size, bytes(range(240)) * (size // 240))):
        drawn = room / f"drawn-{number}.mp4"
        encode_frames([frame] * 5, P, drawn)
        assert conforms(probe(drawn), P)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_clip_comes_out_upright(room: Path, turn: int) -> None:
    flat = source(room / "flat.mp4", "-f lavfi -i smptebars=s=180x320:d=1 -c:v libx264 -colorspace bt709")
    turned = room / "turned.mp4"
    run(["-display_rotation", str(turn), "-i", url(flat), "-c", "copy", url(turned)], timeout_s=30)
    conform(turned, P, room / "upright.mp4", frames=24)
    expected = frame_at(turned, 0.5)
    expected.thumbnail((P.width, P.height))
    shown = frame_at(room / "upright.mp4", 0.5)
    left, top = (shown.width - expected.width) // 2, (shown.height - expected.height) // 2
    for x, y in ((0.1, 0.2), (0.9, 0.2), (0.1, 0.9), (0.9, 0.9)):
        dx, dy = int(expected.width * x), int(expected.height * y)
        pairs = zip(_pixel(expected, dx, dy), _pixel(shown, left + dx, top + dy), strict=True)
        assert all(abs(one - other) < 40 for one, other in pairs)


def _pixel(picture: Image.Image, x: int, y: int) -> tuple[int, int, int]:
    red, green, blue = picture.convert("RGB").resize((1, 1), box=(x, y, x + 1, y + 1)).tobytes()
    return red, green, blue


def test_a_square_picture_gets_bars_and_keeps_its_shape(room: Path) -> None:
    conform(source(room / "s.mp4", "-f lavfi -i color=white:s=100x100:d=1 -c:v libx264"), P, room / "c.mp4", frames=24)
    row = pictures(room / "c.mp4")[12].convert("L").crop((0, 90, 320, 91)).tobytes()
    white = [x for x, grey in enumerate(row) if grey > 128]
    assert (white[0], white[-1]) == pytest.approx((70, 249), abs=2)


def test_an_anamorphic_picture_gets_its_true_shape(room: Path) -> None:
    wide = source(room / "w.mp4", "-f lavfi -i color=white:s=90x100:d=1 -vf setsar=2 -c:v libx264")
    conform(wide, P, room / "c.mp4", frames=24)
    row = pictures(room / "c.mp4")[12].convert("L").crop((0, 90, 320, 91)).tobytes()
    assert sum(grey > 128 for grey in row) == pytest.approx(320, abs=2)


def test_colours_survive_conforming(room: Path) -> None:
    red = source(
        room / "red.mp4", "-f lavfi -i color=0xC81E3C:s=320x180:d=1 -vf scale=out_color_matrix=bt601 -c:v libx264"
    )
    conform(red, P, room / "c.mp4", frames=24)
    shown = _pixel(pictures(room / "c.mp4")[3], 160, 90)
    assert shown == pytest.approx((0xC8, 0x1E, 0x3C), abs=8)


BT709 = "format=gbrp16,zscale=pin=709:tin=709:min=gbr:rin=pc"
LIGHT = f"{BT709}:t=linear:p=709:m=gbr:r=pc,format=gbrpf32le,zscale=npl=203:tin=linear:min=gbr:pin=709:rin=pc"
COLOURS = {
    "BT.601": ("scale=out_color_matrix=bt601,format=yuv420p,setparams=colorspace=smpte170m", "libx264 -qp 1", "mp4"),
    "full range": (
        "scale=out_color_matrix=bt709:out_range=pc,format=yuv420p,setparams=colorspace=bt709:range=pc",
        "libx264 -qp 1",
        "mp4",
    ),
    "10 bits": ("scale=out_color_matrix=bt709,format=yuv420p10,setparams=colorspace=bt709", "libx264 -qp 1", "mp4"),
    "4:2:2": ("scale=out_color_matrix=bt709,format=yuv422p,setparams=colorspace=bt709", "libx264 -qp 1", "mov"),
    "4:4:4": ("scale=out_color_matrix=bt709,format=yuv444p,setparams=colorspace=bt709", "libx264 -qp 1", "mkv"),
    "RGB": ("format=rgb24", "ffv1", "mkv"),
    "YCgCo": (f"{BT709}:m=ycgco:r=tv:p=709:t=709,format=yuv444p", "libx264 -qp 1", "mp4"),
    "BT.2020": (f"{BT709}:p=2020:t=2020_10:m=2020_ncl:r=tv,format=yuv420p10", "libx264 -qp 1", "mp4"),
    "BT.2020, constant luminance": (
        f"{BT709}:p=2020:t=2020_10:m=2020_cl:r=tv,format=yuv420p10",
        "libx264 -qp 1",
        "mp4",
    ),
}
HDR = {
    "PQ": f"{LIGHT}:p=2020:t=smpte2084:m=2020_ncl:r=tv,format=yuv420p10",
    "HLG": f"{LIGHT}:p=2020:t=arib-std-b67:m=2020_ncl:r=tv,format=yuv420p10",
}
PATCHES = ((0xC8, 0x1E, 0x3C), (0x1E, 0xB4, 0x3C), (0x28, 0x46, 0xC8), (0xB4, 0xB4, 0xB4), (0x30, 0x30, 0x30))


def _patches(path: Path, graph: str, encoder: str) -> Path:
    """Five fields of known colours side by side, in the colours that the graph makes of RGB."""
    fields = [
        item
        for red, green, blue in PATCHES
        for item in ("-f", "lavfi", "-i", f"color=0x{red:02X}{green:02X}{blue:02X}:s=64x180:r=24:d=0.25,format=gbrp")
    ]
    joined = "".join(f"[{number}]" for number in range(len(PATCHES))) + f"hstack={len(PATCHES)},{graph}"
    run([*fields, "-filter_complex", joined, "-c:v", *encoder.split(), url(path)], timeout_s=60)
    return path


def _fields(path: Path) -> list[tuple[int, int, int]]:
    shown = pictures(path)[3]
    return [_pixel(shown, 32 + 64 * number, 90) for number in range(len(PATCHES))]


@pytest.mark.parametrize("name", COLOURS)
def test_known_colours_come_out_as_they_went_in(room: Path, name: str) -> None:
    graph, encoder, suffix = COLOURS[name]
    conform(_patches(room / f"patches.{suffix}", graph, encoder), P, room / "c.mp4", frames=6)
    assert conforms(probe(room / "c.mp4"), P)
    for shown, painted in zip(_fields(room / "c.mp4"), PATCHES, strict=True):
        assert shown == pytest.approx(painted, abs=7)


@pytest.mark.parametrize("name", HDR)
def test_hdr_is_brought_back_with_its_reference_white_as_white(room: Path, name: str) -> None:
    source = _patches(room / "hdr.mp4", HDR[name], "libx264 -qp 1")
    assert probe(source).video is not None
    conform(source, P, room / "c.mp4", frames=6)
    for shown, painted in zip(_fields(room / "c.mp4"), PATCHES, strict=True):
        assert shown == pytest.approx(painted, abs=14)


def test_a_picture_that_tells_no_matrix_is_read_as_a_player_reads_it(room: Path) -> None:
    for size, matrix in (("320x180", "bt601"), ("1280x720", "bt709")):
        untold = source(
            room / f"{matrix}.mp4",
            f"-f lavfi -i color=0x1EB43C:s={size}:r=24:d=0.25 -c:v libx264 -qp 1 "
            f"-vf scale=out_color_matrix={matrix},setparams=colorspace=2",
        )
        conform(untold, P, room / "c.mp4", frames=6)
        assert _pixel(pictures(room / "c.mp4")[3], 160, 90) == pytest.approx((0x1E, 0xB4, 0x3C), abs=7)


def test_an_ffmpeg_that_cannot_convert_hdr_says_what_to_install(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hdr = _patches(room / "hdr.mp4", HDR["PQ"], "libx264 -qp 1")
    real = runner.ffmpeg_program()
    program = room / "bin" / "ffmpeg"
    program.parent.mkdir()
    lacking = "import os, sys\nif 'zscale' in ' '.join(sys.argv):\n    sys.exit(\"No such filter: 'zscale'\")\n"
    program.write_text(
        f"#!{sys.executable}\n{lacking}os.execv({real!r}, ['ffmpeg', *sys.argv[1:]])\n", encoding="utf-8"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    runner.ffmpeg_program.cache_clear()
    try:
        with pytest.raises(MediaError, match=r"hdr\.mp4 is in colours .*transfer 16.* libzimg"):
            conform(hdr, P, room / "c.mp4", frames=6)
        assert not (room / "c.mp4").exists()
    finally:
        runner.ffmpeg_program.cache_clear()


@pytest.mark.parametrize(
    "made",
    [
        "alpha.mov -pix_fmt yuva444p10le -c:v prores_ks -profile:v 4444",
        "alpha.webm -pix_fmt yuva420p -c:v libvpx-vp9 -auto-alt-ref 0",
        "alpha-8.webm -pix_fmt yuva420p -c:v libvpx -auto-alt-ref 0",
        "alpha-rle.mov -pix_fmt argb -c:v qtrle",
    ],
)
def test_what_can_be_seen_through_lies_over_black(room: Path, made: str) -> None:
    name, _, encoder = made.partition(" ")
    seen = source(room / name, f"-f lavfi -i color=red@0.5:s=320x180:r=24:d=0.25,format=argb {encoder}")
    conform(seen, P, room / "c.mp4", frames=6)
    assert _pixel(pictures(room / "c.mp4")[3], 160, 90) == pytest.approx((126, 0, 0), abs=8)


def test_interlaced_film_loses_its_combs_and_other_film_keeps_its_lines(room: Path) -> None:
    # A white bar that moves by 16 pixels from field to field over black: in a comb every other line differs.
    moving = "color=black:s=320x180:r=48:d=1[b];color=white:s=16x180:r=48:d=1[w];[b][w]overlay=x='16*mod(n,18)'"
    for name, how in (("interlaced.mpg", ",tinterlace=interleave_top,fieldorder=tff"), ("plain.mpg", ",fps=24")):
        flags = "-flags +ildct+ilme" if "interlace" in how else ""
        args = ["-filter_complex", f"{moving}{how}", "-c:v", "mpeg2video", "-q:v", "1", *flags.split()]
        run([*args, url(room / name)], timeout_s=60)
        conform(room / name, P, room / "c.mp4", frames=20)
        picture = pictures(room / "c.mp4")[10].convert("L")
        rows = [picture.crop((0, y, 320, y + 1)).tobytes() for y in range(60, 120)]
        apart = [sum(abs(one - other) for one, other in zip(*pair, strict=True)) for pair in itertools.pairwise(rows)]
        assert max(apart) < 255 * 16


def test_a_clip_whose_pictures_change_their_size_goes_on(room: Path) -> None:
    parts = []
    for number, (colour, size) in enumerate((("red", "320x180"), ("lime", "90x180"), ("blue", "640x360"))):
        made = f"-f lavfi -i color={colour}:s={size}:r=24:d=1 -c:v libx264 -bf 0 -f mpegts"
        parts.append(source(room / f"part-{number}.ts", made))
    spliced = room / "spliced.ts"
    spliced.write_bytes(b"".join(part.read_bytes() for part in parts))
    conform(spliced, P, room / "c.mp4", frames=72)
    shown = pictures(room / "c.mp4")
    assert [_pixel(shown[number], 160, 90).index(max(_pixel(shown[number], 160, 90))) for number in (12, 36, 60)] == [
        0,
        1,
        2,
    ]
    assert max(_pixel(shown[36], 60, 90)) < 30, "the narrow one stands between bars"
    assert max(_pixel(shown[60], 4, 90)) > 200, "the wide one does not"


SHAPES = {
    "lying": "-f lavfi -i testsrc2=s=640x360:r=24:d=0.25 -c:v libx264",
    "upright": "-f lavfi -i testsrc2=s=360x640:r=24:d=0.25 -c:v libx264",
    "square": "-f lavfi -i testsrc2=s=300x300:r=24:d=0.25 -c:v libx264",
    "odd": "-f lavfi -i testsrc2=s=333x187:r=24:d=0.25 -pix_fmt yuv444p -c:v libx264",
    "anamorphic": "-f lavfi -i testsrc2=s=360x240:r=24:d=0.25 -vf setsar=32/27 -c:v libx264",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("profile", ["144p24", "144p24-9x16", "144p24-1x1"])
@pytest.mark.parametrize("fit", Fit)
def test_every_shape_fills_every_frame_or_is_seen_whole(room: Path, shape: str, profile: str, fit: Fit) -> None:
    wanted = replace(parse_profile(profile), fit=fit)
    conform(source(room / "s.mp4", SHAPES[shape]), wanted, room / "c.mp4", frames=6)
    assert fingerprint(room / "c.mp4") == house_fingerprint(wanted)
    shown = pictures(room / "c.mp4")[3]
    assert shown.size == (wanted.width, wanted.height)
    # Red stands at the left and cyan at the right of the test picture, down to its edges.
    left, right = (_pixel(shown, x, wanted.height // 2) for x in (4, wanted.width - 5))
    top, foot = (_pixel(shown, wanted.width // 2, y) for y in (2, wanted.height - 3))
    width, height = {"lying": (16, 9), "upright": (9, 16), "square": (1, 1), "odd": (333, 187)}.get(shape, (16, 9))
    wider = width * wanted.height - height * wanted.width
    barred = fit is Fit.PAD and abs(wider) > 0.02 * width * wanted.height
    assert (max(left) < 30 and max(right) < 30) is (barred and wider < 0)
    assert (max(top) < 30 and max(foot) < 30) is (barred and wider > 0)


@pytest.mark.parametrize("fit", Fit)
def test_a_turned_anamorphic_clip_is_upright_and_in_shape(room: Path, fit: Fit) -> None:
    flat = source(room / "flat.mp4", "-f lavfi -i color=white:s=100x100:r=24:d=0.25 -vf setsar=2 -c:v libx264")
    run(["-display_rotation", "90", "-i", url(flat), "-c", "copy", url(room / "turned.mp4")], timeout_s=30)
    wanted = replace(parse_profile("180p24-1x1"), fit=fit)
    conform(room / "turned.mp4", wanted, room / "c.mp4", frames=6)
    row = pictures(room / "c.mp4")[3].convert("L").crop((0, 90, 180, 91)).tobytes()
    assert sum(grey > 128 for grey in row) == pytest.approx(90 if fit is Fit.PAD else 180, abs=2)


def test_a_recipe_changes_with_all_that_changes_the_film_and_with_nothing_else() -> None:
    profiles = [
        P,
        replace(P, fit=Fit.CROP),
        parse_profile("180p25"),
        parse_profile("180p24-1x1"),
        parse_profile("180p24-9x16"),
    ]
    recipes = {recipe(profile, frames=frames) for profile in profiles for frames in (None, 24, 48)}
    assert len(recipes) == 3 * len(profiles)
    assert recipe(parse_profile("180p24"), frames=24) == recipe(P, frames=24)
    assert all(len(one) == 64 for one in recipes)


def test_a_batch_is_conformed_side_by_side_and_leaves_nothing_when_one_fails(room: Path) -> None:
    clips = [source(room / f"{name}.mkv", SHAPES[name]) for name in SHAPES]
    jobs = [Job(clip, room / f"{clip.stem}.mp4", frames=7) for clip in clips]
    conform_all(jobs, P, desk=DeskSize(at_once=2, threads=1))
    assert [fingerprint(job.target) for job in jobs] == [house_fingerprint(P)] * len(jobs)
    assert {decode(job.target, strict=False).frames for job in jobs} == {7}

    broken = room / "broken.mkv"
    broken.write_bytes(clips[0].read_bytes()[:400])
    jobs = [Job(clip, room / f"again-{clip.stem}.mp4", frames=7) for clip in (broken, *clips)]
    with pytest.raises(MediaError, match=r"broken\.mkv"):
        conform_all(jobs, P, desk=DeskSize(at_once=1, threads=1))
    assert not any(job.target.exists() for job in jobs[2:])


async def test_a_batch_that_is_cancelled_ends_at_once(room: Path) -> None:
    clip = source(room / "long.mp4", "-f lavfi -i testsrc2=s=1280x720:r=30:d=4 -c:v libx264 -preset ultrafast")
    jobs = [Job(clip, room / f"{number}.mp4", frames=2400) for number in range(4)]
    working = asyncio.create_task(
        offload(conform_all, jobs, parse_profile("1080p24"), desk=DeskSize(at_once=2, threads=1))
    )
    async with asyncio.timeout(20):
        while len(children_called("ffmpeg")) < 2:  # noqa: ASYNC110 - processes tell nobody
            await asyncio.sleep(0.02)
    begun = time.monotonic()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert time.monotonic() - begun < 5
    assert not any(job.target.exists() for job in jobs)


def test_a_picture_that_begins_late_loses_its_wait(room: Path) -> None:
    late = room / "late.mkv"
    reel = ramp(room / "reel.mp4", 24)
    sound = ("-f", "lavfi", "-i", "sine=d=2")
    run([*sound, "-itsoffset", "0.5", "-i", url(reel), "-c:v", "copy", url(late)], timeout_s=30)
    conform(late, P, room / "c.mp4", frames=24)
    assert frame_numbers(room / "c.mp4") == pytest.approx(range(24), abs=0.7)


def test_a_longer_take_is_cut_and_a_shorter_one_holds_its_last_frame(room: Path) -> None:
    take = ramp(room / "take.mp4", 24)
    conform(take, P, room / "short.mp4", frames=10)
    conform(take, P, room / "long.mp4", frames=40)
    assert frame_numbers(room / "short.mp4") == pytest.approx(range(10), abs=0.7)
    assert frame_numbers(room / "long.mp4")[24:] == pytest.approx([23] * 16, abs=0.7)


def test_a_take_without_a_picture_is_refused_and_leaves_nothing(room: Path) -> None:
    sound = source(room / "sound.mp4", "-f lavfi -i sine=d=1 -c:a aac")
    with pytest.raises(MediaError, match="no picture"):
        conform(sound, P, room / "target.mp4", frames=24)
    assert not (room / "target.mp4").exists()


def test_frames_of_a_wrong_size_are_refused_and_leave_nothing(room: Path) -> None:
    for frames, said in (([bytes(7)], "frame 0 has 7 bytes, expected 172800"), ([], "no frame")):
        with pytest.raises(MediaError, match=said):
            encode_frames(frames, P, room / "target.mp4")
    assert list(room.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("180p24", "3.0"),
        ("360p24", "3.0"),
        ("720p24", "3.1"),
        ("720p30", "3.1"),
        ("1080p24", "4.0"),
        ("1080p60", "4.2"),
        ("2160p30", "5.1"),
    ],
)
def test_the_level_is_the_lowest_that_carries_the_profile(name: str, level: str) -> None:
    assert h264_level(parse_profile(name)) == level
