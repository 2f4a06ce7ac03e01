from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moltpipe.engines.protocols import TakeRequest
from moltpipe.engines.storyboard.card import Card
from moltpipe.engines.storyboard.palette import palette_of
from moltpipe.engines.storyboard.slate import FOOT, slate
from moltpipe.studio.screenplay import CAMERA_TERMS, MOTION_TERMS
from moltpipe_tests.engines.conftest import TakeRequests

Grey = npt.NDArray[np.float64]


def _grey(image: Image.Image) -> Grey:
    return np.asarray(image.convert("L"), dtype=np.float64)


def _picture(image: Image.Image) -> Grey:
    """The part of a frame that no lettering stands on."""
    grey = _grey(image)
    return grey[round(len(grey) * 0.14) : round(len(grey) * 0.74)]


def _shift(first: Grey, last: Grey) -> tuple[int, int]:
    """By how many pixels the content went right and down, from the phase of both pictures' spectra."""
    one, two = np.gradient(first)[1] + np.gradient(first)[0], np.gradient(last)[1] + np.gradient(last)[0]
    cross = np.fft.fft2(two) * np.conj(np.fft.fft2(one))
    peak = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    down, right = np.unravel_index(int(np.argmax(peak)), peak.shape)
    height, width = peak.shape
    return int(right if right <= width // 2 else right - width), int(down if down <= height // 2 else down - height)


def _first_and_last(request: TakeRequest) -> tuple[Image.Image, Image.Image]:
    card = Card(request)
    return card.frame(0), card.frame(card.frame_count - 1)


_CITY = {"scene": "The skyline of the city at noon", "motion": "static"}


@pytest.mark.parametrize(
    ("camera", "right", "down"),
    [
        ("slow_pan_left", 1, 0),
        ("slow_pan_right", -1, 0),
        ("whip pan left", 1, 0),
        ("tracking_shot", -1, 0),
        ("slow_tilt_up", 0, 1),
        ("slow_tilt_down", 0, -1),
    ],
)
def test_the_picture_goes_against_the_camera(take: TakeRequests, camera: str, right: int, down: int) -> None:
    first, last = _first_and_last(take(prompt={**_CITY, "camera": camera}))
    went_right, went_down = _shift(_picture(first), _picture(last))
    assert (np.sign(went_right), np.sign(went_down)) == (right, down)


@pytest.mark.parametrize(("camera", "grows"), [("slow_dolly_in", True), ("slow_dolly_out", False), ("push in", True)])
def test_a_dolly_makes_the_figure_larger_or_smaller(take: TakeRequests, camera: str, *, grows: bool) -> None:
    scene = {"scene": "A robot in the desert at noon", "motion": "static", "camera": camera}
    first, last = _first_and_last(take(prompt=scene))
    inked = [int((_picture(image) < 40).sum()) for image in (first, last)]
    assert (inked[1] > 1.1 * inked[0]) is grows


def test_a_still_camera_still_lets_the_figure_walk(take: TakeRequests) -> None:
    scene = {"scene": "A robot in the desert at noon", "camera": "static"}
    still = _first_and_last(take(prompt={**scene, "motion": "static"}))
    walking = _first_and_last(take(prompt={**scene, "motion": "walking"}))
    moved = [float(np.abs(_picture(last) - _picture(first)).mean()) for first, last in (still, walking)]
    assert moved[1] > 5 * moved[0]


@pytest.mark.parametrize(
    "camera", [*CAMERA_TERMS, "an orbit around the spire", "something nobody knows", "\u6620\u753b"]
)
def test_every_camera_term_gives_frames_of_the_right_size(take: TakeRequests, camera: str) -> None:
    card = Card(take(prompt={"camera": camera}, seconds=1.0))
    frames = list(card.frames())
    assert len(frames) == card.frame_count == 12
    assert {len(frame) for frame in frames} == {426 * 240 * 3}
    if camera != "static":
        assert frames[0] != frames[-1]


@pytest.mark.parametrize("motion", MOTION_TERMS)
def test_every_motion_term_moves_something(take: TakeRequests, motion: str) -> None:
    card = Card(take(shot=1, prompt={"camera": "static", "motion": motion}))
    assert len({card.frame(number).tobytes() for number in range(0, 24, 6)}) == 4


def test_the_same_request_is_the_same_film_and_a_new_seed_another(take: TakeRequests) -> None:
    assert Card(take()).frame(9).tobytes() == Card(take()).frame(9).tobytes()
    assert Card(take()).frame(9).tobytes() != Card(take(seed=8)).frame(9).tobytes()


def test_the_four_variants_can_be_told_apart(take: TakeRequests) -> None:
    frames = [Card(take(variant=number, wanted=4)).frame(12) for number in (1, 2, 3, 4)]
    pictures = [np.asarray(frame, dtype=np.float64)[40:170] for frame in frames]
    for one in range(4):
        for other in range(one):
            assert np.abs(pictures[one] - pictures[other]).mean() > 4, (one + 1, other + 1)
    fog, focus, ink, vivid = pictures
    assert np.ptp(ink.mean(axis=2)) > np.ptp(fog.mean(axis=2)), "the third has the harder contrast"
    assert np.abs(np.diff(focus, axis=0)).mean() < np.abs(np.diff(vivid, axis=0)).mean(), "the second is softer"
    saturation = [float((one.max(axis=2) - one.min(axis=2)).mean()) for one in pictures]
    assert saturation[3] > max(saturation[0], saturation[2]), "the fourth is the most colourful"


@pytest.mark.parametrize("lines", [240, 360, 720])
@pytest.mark.parametrize("variant", [1, 2, 3, 4])
def test_the_caption_can_be_read_over_every_variant(take: TakeRequests, lines: int, variant: int) -> None:
    bright = {"scene": "White snow and a white sky at noon, white light on white hills " * 4, "camera": "static"}
    palette = {"palette": ("#ffffff", "#f4f4f0")}
    request = take(variant=variant, wanted=4, prompt=bright, width=lines * 16 // 9, height=lines)
    request = request.model_copy(update={"poster": request.poster.model_copy(update=palette)})
    grey = _grey(Card(request).frame(0))
    text = grey[-round(lines * FOOT * 0.75) : -round(lines * 0.02), round(lines * 0.12) : round(lines * 1.5)]
    ink, ground = np.quantile(text, 0.985), np.quantile(text, 0.5)

    def linear(level: float) -> float:
        return float(((level / 255 + 0.055) / 1.055) ** 2.4)

    assert (linear(ink) + 0.05) / (linear(ground) + 0.05) > 4.5, "WCAG's AA"


def test_the_lettering_stands_still_while_the_picture_moves(take: TakeRequests) -> None:
    first, last = _first_and_last(take(prompt={**_CITY, "camera": "tracking_shot"}))
    caption = (40, 222, 200, 236)
    light = [_grey(image.crop(caption)) > 180 for image in (first, last)]
    assert light[0].any()
    assert (light[0] == light[1]).mean() > 0.99


def test_odd_words_are_drawn_without_failing(take: TakeRequests) -> None:
    odd = (
        "\u6d77\u306e\u624b\u7d19 \U0001f642 \u0430\u0440\u0445 \u03a9\u03ba\u03b5\u03b1\u03bd\u03cc\u03c2 \uffff "
        + "x" * 400
    )
    request = take(prompt={"scene": odd, "camera": odd[:100]}, series_title=odd[:200])
    poster = request.poster.model_copy(update={"palette": ("red", "#12", "#zzzzzz")})
    assert Card(request.model_copy(update={"poster": poster})).frame(0).size == (426, 240)


@pytest.mark.parametrize(("width", "height"), [(360, 640), (720, 1280), (1080, 1920), (360, 360), (640, 360)])
def test_nothing_in_the_upper_line_is_written_over_another_however_the_picture_stands(
    take: TakeRequests, width: int, height: int
) -> None:
    def head(title: str, camera: str) -> Grey:
        request = take(variant=2, wanted=4, width=width, height=height, series_title=title, prompt={"camera": camera})
        return np.asarray(slate(request, palette_of(request.poster.palette, request.poster.style))[0].mask, dtype=float)

    empty, term, title = head("\u200b", ""), head("\u200b", "extreme_close_up"), head("The Moth Who Ate the Map", "")
    both = head("The Moth Who Ate the Map", "extreme_close_up")
    of_term = np.flatnonzero((term != empty).any(axis=0))
    assert of_term.size > 0.05 * width
    assert (both[:, of_term[0] :] == term[:, of_term[0] :]).all(), "the title ends before the camera begins"
    assert (title != empty).any()
