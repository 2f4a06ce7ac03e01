from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moltpipe.media.captions import Caption, write_srt
from moltpipe.media.compositing import AfterEnd, Crop, Position, SoundMode, overlay, replace_sound
from moltpipe.media.conform import fingerprint, house_fingerprint
from moltpipe.media.errors import MediaError
from moltpipe.media.probe import opened, probe
from moltpipe.media.reel import encode_frames
from moltpipe.media.runner import run, url
from moltpipe_tests.media.material import P, pictures, ramp, scene, source

GREY, WHITE = 60, 235
RATE = 48_000


def _plain(path: Path, frames: int, value: int) -> Path:
    """A conformed reel of one grey."""
    encode_frames([bytes([value]) * (P.width * P.height * 3)] * frames, P, path)
    return path


def _with_sound(path: Path, picture: Path, sound: str, *options: str) -> Path:
    run(["-i", url(picture), "-f", "lavfi", "-i", sound, "-c:v", "copy", *options, url(path)], timeout_s=30)
    return path


def _grey(picture: Image.Image, x: float, y: float) -> int:
    return int(str(picture.convert("L").getpixel((int(x), int(y)))))


def _packets(path: Path, kind: str) -> list[bytes]:
    with av.open(str(path)) as container:
        stream = container.streams.get(**{kind: 0})
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def _heard(path: Path) -> npt.NDArray[np.float32]:
    """The left channel, as a player hears it."""
    with opened(path) as container:
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def _level(sound: npt.NDArray[np.float32], frequency: float) -> float:
    """Amplitude of one tone in the middle of a sound."""
    middle = sound[len(sound) // 4 : len(sound) // 4 + RATE // 2]
    turning = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / RATE)
    return float(2 * abs(np.mean(middle * turning)))


@pytest.mark.parametrize(
    ("position", "left", "top"),
    [
        (Position.TOP_LEFT, 8, 8),
        (Position.TOP_RIGHT, 232, 8),
        (Position.BOTTOM_LEFT, 8, 128),
        (Position.BOTTOM_RIGHT, 232, 128),
        (Position.CENTRE, 120, 68),
    ],
)
def test_the_inner_picture_stands_where_it_was_asked_for(room: Path, position: Position, left: int, top: int) -> None:
    behind, inner = _plain(room / "behind.mp4", 6, GREY), _plain(room / "inner.mp4", 6, WHITE)
    overlay(behind, inner, room / "both.mp4", profile=P, position=position, width=0.25, margin=8 / 180)
    seen = np.asarray(pictures(room / "both.mp4")[3].convert("L")) > (GREY + WHITE) / 2
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert (columns[0], rows[0], len(columns), len(rows)) == (left, top, 80, 44)


def test_the_result_is_house_film_as_long_as_the_background(room: Path) -> None:
    behind, inner = ramp(room / "behind.mp4", 30), _plain(room / "inner.mp4", 60, WHITE)
    overlay(behind, inner, room / "both.mp4", profile=P)
    assert fingerprint(room / "both.mp4") == house_fingerprint(P)
    shown = pictures(room / "both.mp4")
    assert [_grey(one, 20, 20) for one in shown] == pytest.approx([40 + 3 * n for n in range(30)], abs=2)


def test_a_foreign_background_is_brought_to_the_profile_first(room: Path) -> None:
    behind = source(room / "wide.mkv", "-f lavfi -i color=white:s=640x240:r=25:d=2 -f lavfi -i sine=d=2 -c:a pcm_s16le")
    inner = source(room / "inner.webm", "-f lavfi -i color=gray:s=321x241:r=30:d=1 -c:v libvpx")
    overlay(behind, inner, room / "both.mp4", profile=P, position=Position.CENTRE)
    assert fingerprint(room / "both.mp4") == house_fingerprint(P)
    found = probe(room / "both.mp4")
    assert found.video is not None
    assert found.audio is not None
    assert (found.video.frames, found.audio.codec) == (48, "aac")
    assert abs(found.audio.duration_seconds - 2) < 1 / P.rate


def test_a_crop_shows_exactly_the_pixels_asked_for_odd_ones_too(room: Path) -> None:
    behind = _plain(room / "behind.mp4", 4, GREY)
    columns = np.zeros((P.height, P.width, 3), np.uint8)
    columns[:, 101:165] = WHITE
    encode_frames([columns.tobytes()] * 4, P, room / "inner.mp4")
    both = room / "both.mp4"
    overlay(behind, room / "inner.mp4", both, profile=P, crop=Crop(101, 31, 64, 48), width=0.2, margin=0.1)
    inside = np.asarray(pictures(both)[2].convert("L"))[180 - 18 - 48 : 180 - 18, 320 - 18 - 64 : 320 - 18]
    assert inside.min() > WHITE - 12


def test_a_turned_clip_is_cropped_as_a_player_shows_it(room: Path) -> None:
    flat = source(
        room / "flat.mp4", "-f lavfi -i color=black:s=320x180:r=24:d=1,drawbox=w=160:c=white:t=fill -c:v libx264"
    )
    turned = room / "turned.mp4"
    run(["-display_rotation", "90", "-i", url(flat), "-c", "copy", url(turned)], timeout_s=30)
    behind = _plain(room / "behind.mp4", 4, GREY)
    # Turned counterclockwise, the left half has become the lower one.
    for top, expected in ((0, 0), (160, 255)):
        crop = Crop(left=0, top=top, width=180, height=160)
        overlay(behind, turned, room / "both.mp4", profile=P, crop=crop, position=Position.CENTRE)
        assert _grey(pictures(room / "both.mp4")[2], 160, 90) == pytest.approx(expected, abs=12)


def test_rounded_corners_have_no_steps(room: Path) -> None:
    behind, inner = _plain(room / "behind.mp4", 4, GREY), _plain(room / "inner.mp4", 4, WHITE)
    corner = (8, 8, 40, 40)
    tones = {}
    for rounded in (False, True, 0.5):
        overlay(
            behind,
            inner,
            room / "both.mp4",
            profile=P,
            position=Position.TOP_LEFT,
            width=0.5,
            margin=8 / 180,
            rounded=rounded,
        )
        shown = pictures(room / "both.mp4")[2].convert("L").crop(corner)
        tones[rounded] = np.asarray(shown, np.int16)
    assert tones[False].min() > WHITE - 12
    for rounded in (True, 0.5):
        between = (tones[rounded] > GREY + 30) & (tones[rounded] < WHITE - 30)
        assert tones[rounded][0, 0] == pytest.approx(GREY, abs=8)
        assert tones[rounded][-1, -1] == pytest.approx(WHITE, abs=8)
        assert between.sum() >= 8
    assert (tones[0.5] < GREY + 30).sum() > 2 * (tones[True] < GREY + 30).sum()


def test_a_transparent_film_lets_the_background_through_and_keeps_its_round_corners(room: Path) -> None:
    behind = _plain(room / "behind.mp4", 4, 0)
    half = "color=white:s=160x160:r=24:d=1,format=rgba,colorchannelmixer=aa=0.5"
    inner = source(room / "ghost.mov", f"-f lavfi -i {half} -c:v qtrle")
    overlay(behind, inner, room / "both.mp4", profile=P, position=Position.TOP_LEFT, rounded=0.5, margin=0)
    shown = pictures(room / "both.mp4")[2]
    assert _grey(shown, 48, 48) == pytest.approx(128, abs=8)
    assert _grey(shown, 1, 1) < 12


@pytest.mark.parametrize(("after_end", "expected"), [(AfterEnd.VANISH, GREY), (AfterEnd.HOLD, WHITE)])
def test_an_inner_film_that_ends_first_vanishes_or_holds(room: Path, after_end: AfterEnd, expected: int) -> None:
    behind, inner = _plain(room / "behind.mp4", 24, GREY), _plain(room / "inner.mp4", 12, WHITE)
    overlay(behind, inner, room / "both.mp4", profile=P, position=Position.CENTRE, after_end=after_end)
    shown = [_grey(one, 160, 90) for one in pictures(room / "both.mp4")]
    assert shown[:12] == pytest.approx([WHITE] * 12, abs=8)
    assert shown[12:] == pytest.approx([expected] * 12, abs=8)


def test_the_sound_of_the_background_is_copied_and_stays_in_its_place(room: Path) -> None:
    blip = "aevalsrc=if(gt(t\\,0.5)\\,0.5*sin(3000*t)\\,0):d=1:s=48000"
    behind = _with_sound(room / "behind.mp4", ramp(room / "picture.mp4", 24), blip, "-c:a", "aac", "-ac", "2")
    overlay(behind, _plain(room / "inner.mp4", 10, WHITE), room / "both.mp4", profile=P)
    assert _packets(room / "both.mp4", "audio") == _packets(behind, "audio")
    assert np.array_equal(_heard(room / "both.mp4"), _heard(behind))


def test_sound_that_was_there_before_the_picture_moves_with_it(room: Path) -> None:
    blip = "aevalsrc=if(gt(t\\,1)\\,0.5*sin(3000*t)\\,0):d=2:s=48000"
    late = source(
        room / "late.mkv",
        f"-f lavfi -i {blip} -itsoffset 0.5 -f lavfi -i testsrc2=s=320x180:r=24:d=1.5 -c:v libx264 -c:a flac",
    )
    overlay(late, _plain(room / "inner.mp4", 10, WHITE), room / "both.mp4", profile=P)
    onset = int(np.argmax(np.abs(_heard(room / "both.mp4")) > 0.1))
    assert onset == pytest.approx(0.5 * RATE, abs=200)
    assert len(_heard(room / "both.mp4")) / RATE == pytest.approx(1.5, abs=1 / P.rate)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": Crop(300, 0, 100, 100)}, r"crop\.width=100 from 300: reaches 400, expected at most 320"),
        ({"crop": Crop(0, 100, 100, 100)}, r"crop\.height=100 from 100: reaches 200, expected at most 180"),
        ({"crop": Crop(-1, 0, 100, 100)}, r"crop\.left=-1: expected whole pixels, at least 0"),
        ({"crop": Crop(0, -2, 100, 100)}, r"crop\.top=-2: expected whole pixels, at least 0"),
        ({"crop": Crop(0, 0, 0, 100)}, r"crop\.width=0: expected whole pixels, at least 16"),
        ({"crop": Crop(0, 0, 100, 8)}, r"crop\.height=8: expected whole pixels, at least 16"),
        ({"width": 0.0}, r"width=0\.0: expected a part of the frame's width, above 0 and at most 1"),
        ({"width": 1.01}, r"width=1\.01: expected"),
        ({"width": float("nan")}, r"width=nan: expected"),
        ({"width": 0.02}, r"width=0\.02: 320x180 would be shown as 6x4 in 180p24, expected at least 16 pixels"),
        ({"margin": 0.5}, r"margin=0\.5: expected a part of the frame's shorter side, from 0 to below 0\.5"),
        ({"margin": -0.1}, r"margin=-0\.1: expected"),
        ({"rounded": 0.6}, r"rounded=0\.6: expected true, false or a part of the shorter side, from 0 to 0\.5"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_the_rule(
    room: Path, values: dict[str, Crop | float], message: str
) -> None:
    behind, inner = _plain(room / "behind.mp4", 2, GREY), _plain(room / "inner.mp4", 2, WHITE)
    with pytest.raises(MediaError, match=message):
        overlay(behind, inner, room / "both.mp4", profile=P, **values)  # type: ignore[arg-type]  # one wrong value each
    assert not (room / "both.mp4").exists()


def test_a_sound_is_no_film_to_lay_over_or_under(room: Path) -> None:
    sound, film = source(room / "tone.wav", "-f lavfi -i sine=d=1"), _plain(room / "film.mp4", 2, GREY)
    with pytest.raises(MediaError, match=r"background: tone\.wav has no picture"):
        overlay(sound, film, room / "both.mp4", profile=P)
    with pytest.raises(MediaError, match=r"overlay: tone\.wav has no picture"):
        overlay(film, sound, room / "both.mp4", profile=P)


def test_a_tall_film_is_made_to_fit_between_the_margins(room: Path) -> None:
    behind = _plain(room / "behind.mp4", 4, GREY)
    inner = source(room / "tall.mp4", "-f lavfi -i color=white:s=180x320:r=24:d=1 -c:v libx264")
    overlay(behind, inner, room / "both.mp4", profile=P, position=Position.CENTRE, width=1.0, margin=0.1)
    seen = np.asarray(pictures(room / "both.mp4")[2].convert("L")) > (GREY + WHITE) / 2
    assert (seen.any(axis=1).sum(), seen.any(axis=0).sum()) == (144, 80)


def test_a_film_can_be_laid_over_itself_and_heard_twice(room: Path) -> None:
    film = _with_sound(room / "film.mp4", ramp(room / "picture.mp4", 48), "sine=f=500:d=2:r=48000", "-c:a", "aac")
    overlay(film, film, room / "both.mp4", profile=P)
    replace_sound(film, film, room / "twice.mp4", mode=SoundMode.MIX)
    assert _packets(room / "both.mp4", "audio") == _packets(film, "audio")
    assert _level(_heard(room / "twice.mp4"), 500) == pytest.approx(2 * _level(_heard(film), 500), rel=0.05)


def test_a_film_gets_another_sound_and_keeps_every_packet_of_its_picture(room: Path) -> None:
    film = _with_sound(room / "film.mp4", scene(room / "picture.mp4"), "sine=f=500:d=2:r=48000", "-c:a", "aac")
    other = source(room / "other.flac", "-f lavfi -i sine=f=900:d=2:r=48000")
    replace_sound(film, other, room / "new.mp4")
    assert _packets(room / "new.mp4", "video") == _packets(film, "video")
    heard = _heard(room / "new.mp4")
    assert _level(heard, 900) == pytest.approx(0.125, rel=0.1)
    assert _level(heard, 500) < 0.005
    with opened(room / "new.mp4") as container:
        assert [frame.pts for frame in container.decode(video=0)] == [3750 * number for number in range(48)]


@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_a_sound_of_any_length_ends_with_the_picture(room: Path, seconds: float) -> None:
    film, target = ramp(room / "film.mp4", 48), room / "new.mp4"
    replace_sound(film, source(room / "other.wav", f"-f lavfi -i sine=f=900:d={seconds}"), target)
    heard = _heard(target)
    assert abs(len(heard) / RATE - 2) < 1 / P.rate
    assert np.abs(heard[: int(0.45 * RATE)]).max() == pytest.approx(0.125, rel=0.1)
    after = heard[int(0.55 * RATE) : int(1.9 * RATE)]
    assert np.abs(after).max() == pytest.approx(0.125 if seconds > 1 else 0, abs=0.02)


def test_two_sounds_are_summed_and_neither_sinks(room: Path) -> None:
    film = _with_sound(
        room / "film.mp4", ramp(room / "picture.mp4", 48), "sine=f=500:d=2:r=48000", "-c:a", "aac", "-ac", "2"
    )
    other = source(room / "other.mp3", "-f lavfi -i sine=f=900:d=2:r=44100")
    replace_sound(film, other, room / "both.mp4", mode=SoundMode.MIX)
    heard, before = _heard(room / "both.mp4"), _heard(film)
    assert _level(heard, 500) == pytest.approx(_level(before, 500), rel=0.05)
    assert _level(heard, 900) == pytest.approx(0.125, rel=0.1)


def test_what_would_clip_is_held(room: Path) -> None:
    film = _with_sound(room / "film.mp4", ramp(room / "picture.mp4", 48), "aevalsrc=0.9*sin(3000*t):d=2", "-c:a", "aac")
    other = source(room / "other.wav", "-f lavfi -i aevalsrc=0.9*sin(3300*t):d=2")
    replace_sound(film, other, room / "both.mp4", mode=SoundMode.MIX, volume=2.0)
    assert np.abs(_heard(room / "both.mp4")).max() < 1


def test_a_silent_film_is_mixed_with_silence(room: Path) -> None:
    film, other = ramp(room / "film.mp4", 48), source(room / "other.wav", "-f lavfi -i sine=f=900:d=2:r=48000")
    replace_sound(film, other, room / "both.mp4", mode=SoundMode.MIX)
    assert _level(_heard(room / "both.mp4"), 900) == pytest.approx(0.125, rel=0.1)


@pytest.mark.parametrize("volume", [0, 0.5, 2.0])
def test_volume_is_a_factor(room: Path, volume: float) -> None:
    film, other = ramp(room / "film.mp4", 48), source(room / "other.wav", "-f lavfi -i sine=f=900:d=2:r=48000")
    replace_sound(film, other, room / "new.mp4", volume=volume)
    assert _level(_heard(room / "new.mp4"), 900) == pytest.approx(volume * 0.125, rel=0.1, abs=0.001)


def test_captions_inside_the_film_stay(room: Path) -> None:
    picture, film = ramp(room / "picture.mp4", 48), room / "film.mp4"
    write_srt([Caption(100, 900, "Mind the gap.")], room / "shown.srt")
    run(
        ["-i", url(picture), "-i", url(room / "shown.srt"), "-c:v", "copy", "-c:s", "mov_text", url(film)], timeout_s=30
    )
    replace_sound(film, source(room / "other.wav", "-f lavfi -i sine=d=2"), room / "new.mp4")
    assert _packets(room / "new.mp4", "subtitles") == _packets(film, "subtitles")


def test_what_cannot_be_given_another_sound_is_refused_by_name(room: Path) -> None:
    film, sound = ramp(room / "film.mp4", 4), source(room / "tone.wav", "-f lavfi -i sine=d=1")
    theora = source(room / "old.ogg", "-f lavfi -i testsrc2=s=320x180:r=24:d=1 -c:v libtheora")
    target = room / "new.mp4"
    with pytest.raises(MediaError, match=r"volume=2\.1: expected a factor from 0 to 2"):
        replace_sound(film, sound, target, volume=2.1)
    with pytest.raises(MediaError, match=r"volume=-1: expected"):
        replace_sound(film, sound, target, volume=-1)
    with pytest.raises(MediaError, match=r"sound: film\.mp4 holds no sound"):
        replace_sound(film, film, target)
    with pytest.raises(MediaError, match=r"video: tone\.wav has no picture"):
        replace_sound(sound, sound, target)
    with pytest.raises(MediaError, match=r"the picture of old\.ogg is theora: expected one of av1, h264"):
        replace_sound(theora, sound, target)
    assert not target.exists()
