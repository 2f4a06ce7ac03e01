from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Image

from moltpipe import samples
from moltpipe.engines.protocols import TakeRequest
from moltpipe.engines.storyboard.card import Card
from moltpipe.engines.storyboard.moves import MOVES
from moltpipe.media.ambience import bed
from moltpipe.media.captions import Caption, write_srt
from moltpipe.media.errors import MediaError
from moltpipe.media.extend import extend
from moltpipe.media.gate import FROZEN_S
from moltpipe.media.reel import encode_frames
from moltpipe.media.runner import run, url
from moltpipe.media.screening import screen
from moltpipe.studio.admission import judge
from moltpipe.studio.asked import Stretch
from moltpipe.studio.finish import HOUSE_FINISH
from moltpipe.studio.profiles import Profile
from moltpipe.studio.screenplay import ExtendStrategy, PilotScript
from moltpipe_tests.media.material import P, pictures, scene, source


def _pilot() -> PilotScript:
    script = judge(samples.pilots()[0][1]).script
    assert isinstance(script, PilotScript)
    return script


def _animatic(path: Path, camera: str, seconds: float, profile: Profile = P) -> Path:
    pilot = _pilot()
    shot = pilot.shots[0]
    request = TakeRequest(
        series_title=pilot.title,
        episode_number=1,
        shot_number=1,
        shot_count=len(pilot.shots),
        prompt=shot.prompt.model_copy(update={"camera": camera, "motion": "subtle_motion"}),
        audio=shot.audio,
        bible=pilot.series_bible,
        poster=pilot.poster_spec,
        variant_number=1,
        style_suffix="",
        seconds=seconds,
        width=profile.width,
        height=profile.height,
        rate=profile.rate,
        seed=3,
    )
    encode_frames(Card(request).frames(), profile, path)
    return path


def _frozen(film: Path) -> list[Stretch]:
    return [one for one in screen(film).frozen if one.seconds >= FROZEN_S]


@pytest.mark.parametrize("camera", [camera for camera in MOVES if camera != "static"])
def test_no_camera_of_the_animatic_stands_still(room: Path, camera: str) -> None:
    assert screen(_animatic(room / "shot.mp4", camera, 3.0)).frozen == ()


@pytest.mark.parametrize(
    "strategy", [ExtendStrategy.SLOW_2D_PAN, ExtendStrategy.LOOP_SUBTLE_MOTION, ExtendStrategy.SPEED_RAMP]
)
def test_what_makes_a_take_longer_moves_as_well(room: Path, strategy: ExtendStrategy) -> None:
    take = _animatic(room / "take.mp4", "slow_dolly_in", 3.0)
    extend(take, strategy, frames=8 * 24, profile=P, target=room / "shot.mp4")
    assert _frozen(room / "shot.mp4") == []


def test_a_held_take_stands_from_its_last_frame_on(room: Path) -> None:
    take = _animatic(room / "take.mp4", "slow_dolly_in", 3.0)
    extend(take, ExtendStrategy.HOLD_LAST_FRAME, frames=8 * 24, profile=P, target=room / "shot.mp4")
    (held,) = _frozen(room / "shot.mp4")
    assert held.start_s == pytest.approx(3.0, abs=0.26)
    assert held.end_s == pytest.approx(8.0, abs=0.26)


def _scattered(picture: Image, seed: int) -> bytes:
    """Every pixel taken from up to nine rows and columns away. Pillow's own `effect_spread` takes no seed."""
    pixels, dice = np.asarray(picture.convert("RGB")), np.random.default_rng(seed)
    height, width = pixels.shape[:2]
    rows = np.arange(height)[:, None] + dice.integers(-9, 10, (height, width))
    columns = np.arange(width)[None] + dice.integers(-9, 10, (height, width))
    return bytes(pixels[rows.clip(0, height - 1), columns.clip(0, width - 1)].tobytes())


def test_a_held_picture_stands_across_key_frames_however_much_is_in_it(room: Path) -> None:
    busy = _scattered(pictures(scene(room / "scene.mp4", 3))[0], seed=0)
    encode_frames([busy] * 150, P, room / "held.mp4")
    (held,) = screen(room / "held.mp4").frozen
    assert held.start_s == 0
    assert held.end_s == pytest.approx(6.125, abs=0.13)


def test_black_frozen_and_silent_stretches_are_told_with_their_times(room: Path) -> None:
    moving = [picture.tobytes() for picture in pictures(scene(room / "scene.mp4", 24))]
    black = bytes(P.width * P.height * 3)
    encode_frames([*moving, *[black] * 36, *moving, *[moving[-1]] * 48], P, room / "strip.mp4")
    film = room / "film.mp4"
    tone = "sine=frequency=300:sample_rate=48000,volume='if(between(t,2,4),0,1)':eval=frame,atrim=end=5.5"
    run(["-i", url(room / "strip.mp4"), "-f", "lavfi", "-i", tone, "-c:v", "copy", url(film)], timeout_s=60)
    shown = screen(film)
    assert shown.frames == 132
    (dark,), (still,), (silent,) = shown.black, shown.frozen, shown.silent
    assert [dark.start_s, dark.end_s] == pytest.approx([1.0, 2.5], abs=0.13)
    assert [still.start_s, still.end_s] == pytest.approx([3.5, 5.5], abs=0.2)
    assert [silent.start_s, silent.end_s] == pytest.approx([2.0, 4.0], abs=0.05)


def test_room_tone_is_heard_however_soft_the_whole_is_and_true_silence_is_not(room: Path) -> None:
    bed("room tone", seconds=4, seed=1, target=room / "tone.wav")
    softer = f"volume={-31 - HOUSE_FINISH.loudness_lufs - 5}dB,volume='if(between(t,1,2),0,1)':eval=frame"
    run(["-i", url(room / "tone.wav"), "-af", softer, "-c:a", "aac", "-b:a", "192k", url(room / "b.m4a")], timeout_s=60)
    (silent,) = screen(room / "b.m4a", loudness_lufs=-31.0).silent
    assert [silent.start_s, silent.end_s] == pytest.approx([1.0, 2.0], abs=0.05)
    assert screen(room / "b.m4a").silent[0].seconds > 3


def test_a_file_of_captions_alone_is_refused(room: Path) -> None:
    write_srt([Caption(0, 1000, "Hello.")], room / "captions.srt")
    run(["-i", url(room / "captions.srt"), "-c:s", "mov_text", url(room / "words.mp4")], timeout_s=60)
    with pytest.raises(MediaError, match="neither picture nor sound"):
        screen(room / "words.mp4")


def test_a_longer_film_needs_no_more_memory(room: Path) -> None:
    film = source(room / "minute.mp4", "-f lavfi -i testsrc2=s=64x36:r=24 -f lavfi -i anoisesrc=r=48000 -t 30 -g 48")
    long = room / "long.mp4"
    run(["-stream_loop", "29", "-i", url(film), "-c", "copy", url(long)], timeout_s=60)
    short_mb, long_mb = _peak_mb(film), _peak_mb(long)
    assert long_mb - short_mb < 40


def _peak_mb(film: Path) -> float:
    script = (
        "import resource, sys; from pathlib import Path; from moltpipe.media.screening import screen;"
        "screen(Path(sys.argv[1])); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(film)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024
