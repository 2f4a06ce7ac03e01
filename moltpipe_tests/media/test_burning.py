from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from moltpipe.media.burning import burn
from moltpipe.media.captions import Caption
from moltpipe.media.conform import fingerprint, house_fingerprint
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import decode
from moltpipe.media.reel import encode_frames
from moltpipe.media.stitch import stitch
from moltpipe.studio.profiles import Profile, parse_profile
from moltpipe_tests.media.material import P, pictures, ramp
from moltpipe_tests.media.test_stitch import packets

FULL = "Nobody has lit this light in forty years,\nand still, every night, somebody does so."


def _flat(path: Path, grey: int, profile: Profile = P, frames: int = 24) -> Path:
    encode_frames([bytes([grey]) * (profile.width * profile.height * 3)] * frames, profile, path)
    return path


def _burned(room: Path, text: str, profile: Profile = P, grey: int = 0) -> NDArray[np.float64]:
    """The middle frame of a flat clip with a caption, as greys."""
    clip = _flat(room / "clip.mp4", grey, profile)
    burn(clip, [Caption(0, 1000, text)], room / "burned.mp4", profile=profile)
    return np.asarray(pictures(room / "burned.mp4")[12].convert("L"), dtype=float)


def test_a_caption_is_seen_from_its_first_frame_to_its_last_and_no_other(room: Path) -> None:
    clip = _flat(room / "clip.mp4", 0, frames=48)
    burn(clip, [Caption(500, 1500, "Here.")], room / "burned.mp4", profile=P)
    lit = [number for number, one in enumerate(pictures(room / "burned.mp4")) if np.asarray(one).max() > 150]
    assert lit == list(range(12, 36))


@pytest.mark.parametrize("name", ["180p24", "180p24-9x16", "180p24-1x1", "360p30"])
def test_a_burned_clip_is_house_film_of_the_same_frames(room: Path, name: str) -> None:
    profile = parse_profile(name)
    clip = _flat(room / "clip.mp4", 90, profile, 31)
    burn(clip, [Caption(0, 700, FULL)], room / "burned.mp4", profile=profile)
    assert fingerprint(room / "burned.mp4") == house_fingerprint(profile)
    assert decode(room / "burned.mp4", strict=True).frames == 31
    stitched = stitch([clip, room / "burned.mp4"], None, room / "episode.mp4", profile=profile)
    assert (stitched.frames, stitched.conformed_again) == (62, ())


@pytest.mark.parametrize("name", ["360p24", "360p24-9x16", "360p24-1x1", "720p24"])
def test_two_full_lines_stand_in_the_safe_part_of_every_picture(room: Path, name: str) -> None:
    profile = parse_profile(name)
    seen = _burned(room, FULL, profile) > 150
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert columns[0] >= 0.05 * profile.width
    assert columns[-1] <= 0.95 * profile.width
    assert rows[-1] <= (0.86 if profile.height > profile.width else 0.95) * profile.height
    assert rows[0] >= 0.55 * profile.height
    assert (columns[0] + columns[-1]) / 2 == pytest.approx(profile.width / 2, abs=0.02 * profile.width)


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_captions_are_read_on_any_ground(room: Path, grey: int) -> None:
    seen = _burned(room, FULL, parse_profile("360p24"), grey)
    band = seen[int(0.75 * 360) :]
    assert band.max() > 220
    assert band.min() < 40


@pytest.mark.parametrize(
    "text",
    [
        "Grüße aus Łódź: ÄÖÜ ß é ñ „Zitat“",
        "Ο φάρος δεν έχει ανάψει",  # noqa: RUF001 -- ditto
        "Никто не зажигал этот маяк",
    ],
)
def test_latin_greek_and_cyrillic_are_drawn(room: Path, text: str) -> None:
    assert np.count_nonzero(_burned(room, text, parse_profile("360p24")) > 150) > 400


def test_letters_that_no_font_has_are_refused_by_name(room: Path) -> None:
    clip = _flat(room / "clip.mp4", 0)
    with pytest.raises(MediaError, match="no font of this machine has \U00017000"):
        burn(clip, [Caption(0, 900, "a \U00017000 b")], room / "burned.mp4", profile=P)
    assert not (room / "burned.mp4").exists()


def test_letters_that_no_font_has_are_found_behind_a_sign_that_stays_for_longer(room: Path) -> None:
    clip = ramp(room / "clip.mp4", 60)
    shown = [Caption(0, 200, "a \U00017000 b"), Caption(200, 2400, "So it goes\U0001fae8")]
    with pytest.raises(MediaError, match="no font of this machine has \U00017000"):
        burn(clip, shown, room / "burned.mp4", profile=P)


def test_a_sign_that_no_font_has_is_left_out(room: Path) -> None:
    profile = parse_profile("360p24")
    plain = _burned(room, "So it goes", profile)
    marked = _burned(room, "So it goes\U0001fae8", profile)
    assert np.abs(plain - marked).max() < 8


def test_codes_of_the_script_are_shown_as_they_are_spoken(room: Path) -> None:
    profile = parse_profile("360p24")
    spoken = _burned(room, "{sighs} no", profile)
    silent = _burned(room, "no", profile)
    assert np.count_nonzero(spoken > 150) > 2 * np.count_nonzero(silent > 150)
    one_line = _burned(room, "one\\Ntwo", profile)
    assert one_line.sum() > 1.01 * _burned(room, "oneNtwo", profile).sum()
    assert len(np.flatnonzero((one_line > 150).any(axis=1))) < 0.08 * profile.height


def test_a_clip_without_captions_is_not_touched(room: Path) -> None:
    clip = ramp(room / "clip.mp4", 24)
    burn(clip, [], room / "burned.mp4", profile=P)
    assert (room / "burned.mp4").read_bytes() == clip.read_bytes()
    assert packets(room / "burned.mp4") == packets(clip)


def test_a_clip_that_cannot_be_read_is_refused_and_leaves_nothing(room: Path) -> None:
    (room / "clip.mp4").write_bytes(b"not a film")
    with pytest.raises(MediaError, match=r"clip\.mp4"):
        burn(room / "clip.mp4", [Caption(0, 900, "a")], room / "burned.mp4", profile=P)
    assert not (room / "burned.mp4").exists()
