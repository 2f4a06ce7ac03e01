from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from moltpipe.media import runner
from moltpipe.media.conform import conform, conforms, recipe
from moltpipe.media.cores import usable_cores
from moltpipe.media.encoders import chosen, desk_size, trial
from moltpipe.media.errors import MediaError
from moltpipe.media.extend import extend
from moltpipe.media.probe import decode, probe
from moltpipe.media.reel import HARDWARE, SOFTWARE, device_options, encode_frames, house_encoding
from moltpipe.studio.profiles import parse_profile
from moltpipe.studio.screenplay import ExtendStrategy
from moltpipe_tests.media.material import source

STAND_IN = """#!{python}
import os, sys

given = sys.argv[1:]
if "h264_nvenc" in given:
    first, last = given.index("h264_nvenc"), given.index("-g")
    with open(__file__ + ".turns", "a+b") as turns:
        turns.write(b".")
        level = str(30 + turns.tell())
    given[first:last] = [level if flag == "NEXT_LEVEL" else flag for flag in {flags}]
os.execv({ffmpeg!r}, ["ffmpeg", *given])
"""
"""An FFmpeg whose NVENC works: it is x264, under the flags that it is given instead of NVENC's own."""
ALIKE = ["libx264", "-pix_fmt", "yuv420p", "-profile:v", "high", "-bf", "0", "-x264-params", "stitchable=1"]


@pytest.fixture(autouse=True)
def unknown_machine() -> Iterator[None]:
    """What a test learns of its machine is forgotten before and after."""
    chosen.cache_clear()
    yield
    chosen.cache_clear()
    runner.ffmpeg_program.cache_clear()


@pytest.fixture
def with_nvenc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    def install(flags: list[str]) -> None:
        real = runner.ffmpeg_program()
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(STAND_IN.format(python=sys.executable, flags=flags, ffmpeg=real), encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")
        runner.ffmpeg_program.cache_clear()
        assert shutil.which("ffmpeg") == str(program)

    return install


@pytest.mark.parametrize("name", [SOFTWARE, *HARDWARE])
def test_the_flags_of_every_encoder_are_the_ones_that_were_reviewed(name: str, snapshot: SnapshotAssertion) -> None:
    profile = replace(parse_profile("720p24"), encoder=name)
    assert [*device_options(profile), "...", *house_encoding(profile, threads=2)] == snapshot


@pytest.mark.parametrize("name", HARDWARE)
@pytest.mark.usefixtures("room")
def test_an_encoder_without_its_hardware_gives_way_to_x264_with_one_warning(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    profile = parse_profile("144p24")
    if trial(replace(profile, encoder=name)) is None:
        pytest.skip(f"this machine has {name}")
    with caplog.at_level(logging.WARNING):
        assert {chosen(name, profile) for _ in range(3)} == {"libx264"}
    (warning,) = caplog.records
    assert f"{name} does not encode 144p24 here, libx264 is used: ffmpeg ended with status" in warning.message


@pytest.mark.usefixtures("room")
def test_auto_tries_without_a_word_and_x264_is_not_tried_at_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING):
        assert chosen("auto", parse_profile("144p25")) in {SOFTWARE, *HARDWARE}
        monkeypatch.setenv("PATH", "")
        assert chosen("libx264", parse_profile("144p25")) == "libx264"
    assert caplog.records == []


def test_an_encoder_that_passes_its_trial_makes_the_house_film(
    room: Path, with_nvenc: Callable[[list[str]], None]
) -> None:
    with_nvenc(ALIKE)
    plain = parse_profile("162p24")
    assert chosen("auto", plain) == chosen("h264_nvenc", plain) == "h264_nvenc"

    profile = replace(plain, encoder="h264_nvenc")
    clip = source(room / "clip.mp4", "-f lavfi -i testsrc2=s=320x240:r=25:d=1 -c:v mpeg4")
    conform(clip, profile, room / "film.mp4", frames=24)
    assert conforms(probe(room / "film.mp4"), profile)
    assert not conforms(probe(room / "film.mp4"), plain)
    assert recipe(profile) != recipe(plain)
    for strategy in ExtendStrategy:
        extend(room / "film.mp4", strategy, frames=31, profile=profile, target=room / "longer.mp4")
        assert conforms(probe(room / "longer.mp4"), profile)
        assert decode(room / "longer.mp4", strict=False).frames == 31


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["mpeg4", "-sc_threshold", "1000000000"], "it made mpeg4 of 288x162"),
        ([*ALIKE, "-s", "320x180"], "it made h264 of 320x180, not h264 of 288x162"),
        ([*ALIKE, "-level", "NEXT_LEVEL"], "its headers follow the picture"),
    ],
)
@pytest.mark.usefixtures("room")
def test_an_encoder_whose_film_would_not_do_is_not_used(
    with_nvenc: Callable[[list[str]], None], flags: list[str], said: str
) -> None:
    with_nvenc(flags)
    refused = trial(replace(parse_profile("162p25"), encoder="h264_nvenc"))
    assert refused is not None
    assert said in refused


def test_an_encoder_of_another_house_is_refused_by_name(room: Path) -> None:
    profile = replace(parse_profile("144p24"), encoder="mpeg2video")
    with pytest.raises(MediaError, match="mpeg2video is none of the house's encoders: expected libx264, h264_nvenc"):
        encode_frames([bytes(profile.width * profile.height * 3)], profile, room / "film.mp4")
    assert list(room.iterdir()) == []


# Desks ---------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 256))
def test_all_cores_have_work_and_none_has_much_too_much(cores: int) -> None:
    size = desk_size(cores)
    assert cores <= size.at_once * size.threads <= 2 * cores
    assert size.threads <= 4
    assert size.at_once == 1 or size.threads >= 2


@given(st.integers(1, 256), st.integers(1, 64))
def test_no_more_takes_are_made_at_once_than_were_allowed(cores: int, at_most: int) -> None:
    size = desk_size(cores, at_most=at_most)
    assert size.at_once <= at_most
    assert size.at_once * size.threads >= cores


@pytest.mark.parametrize(("cores", "expected"), [(1, (1, 1)), (2, (2, 2)), (4, (3, 2)), (8, (6, 2)), (16, (6, 4))])
def test_desks_of_usual_machines(cores: int, expected: tuple[int, int]) -> None:
    size = desk_size(cores)
    assert (size.at_once, size.threads) == expected


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", 64), ("", 64)])
def test_a_container_has_no_more_cores_than_its_limit_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    limit = tmp_path / "cpu.max"
    limit.write_text(quota)
    assert usable_cores(limit) == cores


def test_outside_a_container_all_cores_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(3))
    assert usable_cores(tmp_path / "cpu.max") == 3


@pytest.mark.parametrize(("cores", "at_most"), [(0, None), (2, 0)])
def test_a_machine_without_a_core_is_a_mistake(cores: int, at_most: int | None) -> None:
    with pytest.raises(ValueError, match="at least one of each"):
        desk_size(cores, at_most=at_most)
