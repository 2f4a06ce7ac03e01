from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from PIL import ImageChops, ImageStat

from moltpipe.media.conform import conforms
from moltpipe.media.errors import MediaError
from moltpipe.media.extend import extend
from moltpipe.media.probe import decode, probe
from moltpipe.studio.screenplay import ExtendStrategy
from moltpipe_tests.media.material import P, frame_numbers, pictures, ramp, scene

TAKE = 48


def _extended(room: Path, strategy: ExtendStrategy, frames: int) -> Path:
    target = room / "extended.mp4"
    extend(ramp(room / "take.mp4", TAKE), strategy, frames=frames, profile=P, target=target)
    return target


def _steps(numbers: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(numbers)]


@pytest.mark.parametrize("strategy", ExtendStrategy)
@pytest.mark.parametrize("frames", [1, 17, 47, 48, 49, 50, 51, 72, 131])
def test_every_strategy_gives_house_film_of_the_exact_length(room: Path, strategy: ExtendStrategy, frames: int) -> None:
    target = _extended(room, strategy, frames)
    assert conforms(probe(target), P)
    assert decode(target, strict=False).frames == frames


@pytest.mark.parametrize("strategy", ExtendStrategy)
def test_a_take_of_one_frame_can_be_extended(room: Path, strategy: ExtendStrategy) -> None:
    target = room / "extended.mp4"
    extend(ramp(room / "take.mp4", 1), strategy, frames=24, profile=P, target=target)
    assert conforms(probe(target), P)
    assert decode(target, strict=False).frames == 24


@pytest.mark.parametrize("strategy", ExtendStrategy)
def test_a_take_that_is_long_enough_is_only_cut(room: Path, strategy: ExtendStrategy) -> None:
    assert frame_numbers(_extended(room, strategy, 30)) == pytest.approx(range(30), abs=0.7)


def test_a_take_of_the_right_length_is_kept_to_the_byte(room: Path) -> None:
    target = _extended(room, ExtendStrategy.SPEED_RAMP, TAKE)
    assert target.read_bytes() == (room / "take.mp4").read_bytes()


@pytest.mark.parametrize("strategy", [ExtendStrategy.NONE, ExtendStrategy.HOLD_LAST_FRAME])
def test_a_held_take_stands_on_its_last_frame(room: Path, strategy: ExtendStrategy) -> None:
    numbers = frame_numbers(_extended(room, strategy, 72))
    assert numbers[:TAKE] == pytest.approx(range(TAKE), abs=0.7)
    assert numbers[TAKE:] == pytest.approx([TAKE - 1] * 24, abs=0.7)


def test_a_pan_moves_on_smoothly_from_the_last_frame(room: Path) -> None:
    take = scene(room / "take.mp4")
    target = room / "extended.mp4"
    extend(take, ExtendStrategy.SLOW_2D_PAN, frames=TAKE + 48, profile=P, target=target)
    shown = pictures(target)
    jumps = [
        ImageStat.Stat(ImageChops.difference(before, after).convert("L")).mean[0]
        for before, after in itertools.pairwise(shown)
    ]
    drift = [
        ImageStat.Stat(ImageChops.difference(shown[TAKE - 1], later).convert("L")).mean[0] for later in shown[TAKE:]
    ]
    assert jumps[TAKE - 1] < max(jumps[: TAKE - 1])
    assert max(jumps[TAKE:]) < 2 * max(jumps[: TAKE - 1])
    # It never comes to a stop: a quarter of a second later the picture is further away than it was.
    assert all(later > earlier + 0.1 for earlier, later in zip(drift[6::6], drift[12::6], strict=False))


def test_a_loop_swings_without_a_jump_and_without_standing(room: Path) -> None:
    numbers = frame_numbers(_extended(room, ExtendStrategy.LOOP_SUBTLE_MOTION, 144))
    assert numbers[:TAKE] == pytest.approx(range(TAKE), abs=0.7)
    steps = _steps(numbers)
    assert all(0.2 < abs(step) < 1.8 for step in steps)
    assert numbers[TAKE] == pytest.approx(TAKE - 2, abs=0.7)
    assert numbers[TAKE - 1 + 72] == pytest.approx(TAKE - 1, abs=0.7)
    assert min(numbers[TAKE:]) == pytest.approx(TAKE - 1 - 36, abs=0.7)


@pytest.mark.parametrize("frames", [60, 84, 120])
def test_a_speed_ramp_slows_down_ever_more_and_never_stands(room: Path, frames: int) -> None:
    numbers = frame_numbers(_extended(room, ExtendStrategy.SPEED_RAMP, frames))
    assert (numbers[0], numbers[-1]) == pytest.approx((0, TAKE - 1), abs=0.7)
    quarter = frames // 4
    travelled = [numbers[part * quarter + quarter - 1] - numbers[part * quarter] for part in range(4)]
    assert all(before > after > 0.25 * quarter * TAKE / frames for before, after in itertools.pairwise(travelled))
    assert all(step > -0.4 for step in _steps(numbers))


def test_a_shot_without_a_frame_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match="at least one frame"):
        _extended(room, ExtendStrategy.NONE, 0)
