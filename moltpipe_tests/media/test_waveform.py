from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moltpipe.media.errors import MediaError
from moltpipe.media.waveform import waveform
from moltpipe_tests.media.material import scene, source


def _heights(png: Path) -> list[int]:
    """How many pixels of each column are painted."""
    with Image.open(png) as picture:
        assert picture.mode == "RGBA"
        return [int(count) for count in (np.asarray(picture)[..., 3] > 127).sum(axis=0)]


def test_loud_is_high_and_silence_is_a_thin_line_where_they_are_heard(room: Path) -> None:
    steps = "0.9*sin(2000*t)*lt(t\\,1)+0.3*sin(2000*t)*between(t\\,2\\,3)"
    sound = source(room / "sound.wav", f"-f lavfi -i aevalsrc={steps}:d=4:s=48000")
    waveform(sound, room / "wave.png", size=(400, 100))
    heights = _heights(room / "wave.png")
    assert len(heights) == 400
    # Mono comes out of both sides at half its power each.
    assert heights[10:90] == pytest.approx([64] * 80, abs=3)
    assert heights[110:190] == pytest.approx([1] * 80, abs=1)
    assert heights[210:290] == pytest.approx([21] * 80, abs=3)
    assert min(heights) >= 1


def test_the_sound_of_a_film_is_drawn_as_well(room: Path) -> None:
    film = source(
        room / "film.mp4", "-f lavfi -i testsrc2=s=64x64:d=1 -f lavfi -i sine=d=1 -c:v libx264 -c:a aac -shortest"
    )
    waveform(film, room / "wave.png")
    with Image.open(room / "wave.png") as picture:
        assert picture.size == (640, 120)
    assert (room / "wave.png").stat().st_size < 60_000


def test_a_sound_shorter_than_its_picture_is_wide_is_drawn(room: Path) -> None:
    sound = source(room / "blip.wav", "-f lavfi -i sine=d=0.02:sample_rate=48000")
    waveform(sound, room / "wave.png")
    assert max(_heights(room / "wave.png")) > 5


def test_what_has_no_sound_is_refused_and_leaves_nothing(room: Path) -> None:
    film = scene(room / "film.mp4", frames=4)
    with pytest.raises(MediaError, match="holds no sound"):
        waveform(film, room / "wave.png")
    assert not (room / "wave.png").exists()
