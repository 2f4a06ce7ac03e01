from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from moltpipe.media.conform import fingerprint, house_fingerprint
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import opened
from moltpipe.media.reel import encode_frames
from moltpipe.media.seams import Seam
from moltpipe.media.stitch import stitch
from moltpipe.studio.profiles import parse_profile
from moltpipe.studio.screenplay import Transition
from moltpipe_tests.media.material import P, frame_numbers, pictures, ramp, scene
from moltpipe_tests.media.test_stitch import assert_exact, packets, soundtrack

GOP = 2 * P.rate
DISSOLVE, BLACK = Transition.CROSSFADE, Transition.FADE_THROUGH_BLACK


def _flat(path: Path, frames: int, grey: int) -> Path:
    encode_frames([bytes([grey]) * (P.width * P.height * 3)] * frames, P, path)
    return path


def _greys(path: Path) -> list[float]:
    return [float(np.asarray(picture.convert("L"), dtype=float).mean()) for picture in pictures(path)]


def _decoded(path: Path) -> list[str]:
    """A hash of every decoded frame, to tell frames that are the same to the bit."""
    with opened(path) as container:
        return [
            hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()
            for frame in container.decode(container.streams.video[0])
        ]


@pytest.mark.parametrize("transition", [DISSOLVE, BLACK])
def test_a_transition_moves_nothing_and_leaves_all_frames_outside_its_groups_as_they_were(
    room: Path, transition: Transition
) -> None:
    clips = [scene(room / "a.mp4", 130), scene(room / "b.mp4", 150), scene(room / "c.mp4", 120)]
    track = soundtrack(room, P.seconds(400))
    stitch(clips, track, room / "cut.mp4", profile=P)
    seams = [Seam(1, transition, 6), Seam(2, transition, 12)]
    stitched = stitch(clips, track, room / "sewn.mp4", profile=P, seams=seams)
    assert (stitched.frames, stitched.conformed_again) == (400, ())
    assert_exact(room / "sewn.mp4", 400)
    assert fingerprint(room / "sewn.mp4") == house_fingerprint(P)
    # Groups begin at every 48th frame of a clip. Touched are the last of a, two of b, the first of c.
    copied = {*range(96), *range(130 + 48, 130 + 96), *range(280 + 48, 400)}
    cut, sewn = packets(room / "cut.mp4"), packets(room / "sewn.mp4")
    assert all(cut[number] == sewn[number] for number in copied)
    before, after = _decoded(room / "cut.mp4"), _decoded(room / "sewn.mp4")
    assert all(before[number] == after[number] for number in copied)
    assert before[135] != after[135]


def test_a_crossfade_grows_evenly_and_without_a_jump_at_the_cut(room: Path) -> None:
    clips = [_flat(room / "dark.mp4", 60, 50), _flat(room / "light.mp4", 60, 200)]
    stitch(clips, None, room / "sewn.mp4", profile=P, seams=[Seam(1, DISSOLVE, 6)])
    greys = _greys(room / "sewn.mp4")
    assert greys[:54] == pytest.approx([50] * 54, abs=2)
    assert greys[66:] == pytest.approx([200] * 54, abs=2)
    assert greys[54:66] == pytest.approx([50 + 150 * (step + 0.5) / 12 for step in range(12)], abs=3)


def test_motion_goes_on_through_a_crossfade(room: Path) -> None:
    # Two ramps that go on where the other one ends: the one before the cut from 0 to 39, the one after from 20 to 59.
    whole = ramp(room / "whole.mp4", 60)
    frames = [picture.tobytes() for picture in pictures(whole)]
    early, late = room / "early.mp4", room / "late.mp4"
    encode_frames(frames[:40], P, early)
    encode_frames(frames[20:], P, late)
    stitch([early, late], None, room / "sewn.mp4", profile=P, seams=[Seam(1, DISSOLVE, 8)])
    shown = frame_numbers(room / "sewn.mp4")
    for number in range(-8, 8):
        # Beyond the cut each clip runs backwards from the frame next to the one at the cut.
        leaving, arriving = 39 - abs(number + 1), 20 + abs(number)
        weight = (number + 8.5) / 16
        assert shown[40 + number] == pytest.approx(leaving * (1 - weight) + arriving * weight, abs=1.0)


def test_a_fade_goes_through_black_and_nowhere_else(room: Path) -> None:
    clips = [_flat(room / "a.mp4", 60, 180), _flat(room / "b.mp4", 60, 120)]
    stitch(clips, None, room / "sewn.mp4", profile=P, seams=[Seam(1, BLACK, 12)])
    greys = _greys(room / "sewn.mp4")
    assert all(before > after for before, after in itertools.pairwise(greys[47:60]))
    assert all(before < after for before, after in itertools.pairwise(greys[60:72]))
    assert greys[59:61] == pytest.approx([0, 0], abs=2)
    assert greys[:48] == pytest.approx([180] * 48, abs=2)
    assert greys[72:] == pytest.approx([120] * 48, abs=2)


def test_no_frame_differs_from_its_neighbour_more_than_the_blend_asks(room: Path) -> None:
    stills = [scene(room / "a.mp4", 3), scene(room / "b.mp4", 40)]
    first, last = pictures(stills[0])[0], pictures(stills[1])[39].rotate(180)
    for clip, picture in (("still.mp4", first), ("other.mp4", last)):
        encode_frames([picture.tobytes()] * 72, P, room / clip)
    stitch([room / "still.mp4", room / "other.mp4"], None, room / "sewn.mp4", profile=P, seams=[Seam(1, DISSOLVE, 10)])
    seen = [np.asarray(picture, dtype=float) for picture in pictures(room / "sewn.mp4")]
    whole = np.abs(seen[0] - seen[-1]).mean()
    steps = [np.abs(after - before).mean() for before, after in itertools.pairwise(seen)]
    assert max(steps) < 1.8 * whole / 20
    # Nor does a new group of pictures pop up in a still one.
    assert max(steps[:60]) < 1.5
    assert max(steps[84:]) < 1.5


def test_seams_of_one_clip_in_one_group_both_come_out(room: Path) -> None:
    clips = [_flat(room / "a.mp4", 30, 60), _flat(room / "b.mp4", 30, 120), _flat(room / "c.mp4", 30, 200)]
    stitch(clips, None, room / "sewn.mp4", profile=P, seams=[Seam(1, DISSOLVE, 10), Seam(2, BLACK, 10)])
    assert_exact(room / "sewn.mp4", 90)
    greys = _greys(room / "sewn.mp4")
    assert greys[20:40] == pytest.approx([60 + 60 * (step + 0.5) / 20 for step in range(20)], abs=3)
    assert greys[40:50] == pytest.approx([120] * 10, abs=2)
    assert greys[59:61] == pytest.approx([0, 0], abs=2)
    assert greys[70:] == pytest.approx([200] * 20, abs=2)


@pytest.mark.parametrize(
    ("length", "side"), [(GOP - 1, 16), (GOP, 1), (GOP + 1, 11), (2 * GOP, 16), (2 * GOP + 1, 1), (2 * GOP + 1, 11)]
)
def test_seams_fit_clips_of_every_length_around_a_group(room: Path, length: int, side: int) -> None:
    clips = [ramp(room / f"{number}.mp4", min(length, 71)) for number in range(2)]
    long = scene(room / "long.mp4", length)
    total = 2 * min(length, 71) + length
    seams = [Seam(1, DISSOLVE, side), Seam(2, BLACK, side)]
    stitch([clips[0], long, clips[1]], None, room / "sewn.mp4", profile=P, seams=seams)
    assert_exact(room / "sewn.mp4", total)


def test_cuts_and_seams_of_no_length_encode_nothing(room: Path) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 30)]
    for seam in (Seam(1, Transition.CUT, 6), Seam(1, DISSOLVE, 0)):
        stitch(clips, None, room / "joined.mp4", profile=P, seams=[seam])
        assert packets(room / "joined.mp4") == [*packets(clips[0]), *packets(clips[1])]


def test_a_clip_that_was_conformed_again_may_have_a_seam(room: Path) -> None:
    clips = [ramp(room / "a.mp4", 50, parse_profile("240p25")), ramp(room / "b.mp4", 48)]
    stitched = stitch(clips, None, room / "sewn.mp4", profile=P, seams=[Seam(1, DISSOLVE, 6)])
    assert (stitched.frames, stitched.conformed_again) == (96, (0,))
    assert_exact(room / "sewn.mp4", 96)


@pytest.mark.parametrize(
    ("seams", "said"),
    [
        ([Seam(0, DISSOLVE, 6)], "into clip 0 stands between no two of 2 clips"),
        ([Seam(2, DISSOLVE, 6)], "into clip 2 stands between no two of 2 clips"),
        ([Seam(1, DISSOLVE, 6), Seam(1, BLACK, 6)], "clip 1 has two transitions"),
        ([Seam(1, DISSOLVE, -1)], "lasts -1 frames"),
        ([Seam(1, DISSOLVE, 30)], "clip 0 has 30 frames, too few for transitions of 0 and 30"),
    ],
)
def test_a_seam_that_cannot_be_is_refused(room: Path, seams: list[Seam], said: str) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 40)]
    with pytest.raises(MediaError, match=said):
        stitch(clips, None, room / "sewn.mp4", profile=P, seams=seams)
    assert not (room / "sewn.mp4").exists()
