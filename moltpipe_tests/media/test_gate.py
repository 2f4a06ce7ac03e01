from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from moltpipe.media.captions import Caption, write_srt
from moltpipe.media.errors import DeliveryRefused
from moltpipe.media.gate import RULES, Delivery, deliver, deliver_sound
from moltpipe.media.loudness import measure
from moltpipe.media.probe import decode
from moltpipe.media.reel import encode_frames
from moltpipe.media.runner import run, url
from moltpipe.studio.asked import Asked, Stretch
from moltpipe.studio.profiles import parse_profile
from moltpipe_tests.media.material import P, pictures, ramp, scene

FRAMES = 48
NOTHING = Asked()
SPOKEN = (
    Caption(200, 900, "Stand by the buoy,\nand do not answer."),
    Caption(1000, 1800, "It knows the way home & back."),
)
TONE = "sine=frequency=440:sample_rate=48000"
SILENCE = "anullsrc=sample_rate=48000"
TONE_LUFS = -21.8
"""Of the tone in a cut."""
TWO_TONES = f"{TONE},volume='if(between(t,1,4),0,1)':eval=frame"


def _cut(room: Path, clip: Path | None = None, *, sound: str = TONE, captions: tuple[Caption, ...] = SPOKEN) -> Path:
    """A cut as the cutting room delivers it: picture copied, one AAC track of whole packets, a soft caption track."""
    target, srt = room / "cut.mp4", room / "captions.srt"
    picture = clip or ramp(room / "clip.mp4", FRAMES)
    seconds = decode(picture, strict=False).frames / P.rate
    packets = f"atrim=end_sample={round(seconds * 48_000 / 1024) * 1024}"
    write_srt(captions, srt)
    texts = ("-i", url(srt), "-map", "2:s", "-c:s", "mov_text") if captions else ()
    run(
        [
            *("-i", url(picture), "-f", "lavfi", "-i", f"{sound},{packets}", *texts, "-map", "0:v", "-map", "1:a"),
            *("-c:v", "copy", "-c:a", "aac", "-ac", "2", "-b:a", "192k"),
            *("-video_track_timescale", "90000", "-movie_timescale", "90000", "-movflags", "+faststart", url(target)),
        ],
        timeout_s=60,
    )
    return target


def _again(room: Path, *args: str) -> Path:
    """The cut, taken apart and put together again in a wrong way."""
    broken = room / "broken.mp4"
    run(["-i", url(_cut(room)), *args, url(broken)], timeout_s=60)
    return broken


def _judge(
    path: Path,
    frames: int = FRAMES,
    asked: Asked = NOTHING,
    captions: tuple[Caption, ...] = SPOKEN,
    aim_lufs: float | None = TONE_LUFS,
) -> Delivery:
    return deliver(path, frames=frames, profile=P, loudness_lufs=aim_lufs, asked=asked, captions=captions)


def _refused(path: Path, **judged: object) -> Delivery:
    with pytest.raises(DeliveryRefused) as refused:
        _judge(path, **judged)  # type: ignore[arg-type]  # passed on as they are
    assert not any("Traceback" in failure for failure in refused.value.failures)
    assert not refused.value.delivery.passed
    return refused.value.delivery


def _broken(delivery: Delivery) -> dict[str, str]:
    return {one.rule: one.sentence for one in delivery.findings if not one.passed}


def _strip(path: Path, *parts: Iterable[bytes]) -> Path:
    encode_frames((frame for part in parts for frame in part), P, path)
    return path


def _black(frames: int) -> list[bytes]:
    return [bytes(P.width * P.height * 3)] * frames


def _moving(room: Path, frames: int) -> list[bytes]:
    return [picture.tobytes() for picture in pictures(scene(room / "moving.mp4", frames))]


def test_a_good_cut_passes_every_rule_with_its_figures(room: Path) -> None:
    cut = _cut(room)
    delivery = _judge(cut)
    assert [finding.rule for finding in delivery.findings] == list(RULES)
    assert delivery.passed
    assert (delivery.seconds, delivery.bytes) == (2.0, cut.stat().st_size)
    figures = delivery.figures
    assert (figures["frames"], figures["width"], figures["height"]) == (48, 320, 180)
    assert abs(float(str(figures["sound_less_picture_s"]))) <= 512 / 48_000
    assert (figures["captions"], figures["captions_in_file"]) == (2, 2)
    assert figures["lufs"] == pytest.approx(TONE_LUFS, abs=0.1)
    assert figures["streams"] == "audio, subtitle, video"


def test_findings_survive_the_ledger(room: Path) -> None:
    delivery = _judge(_cut(room))
    assert Delivery.from_json(json.loads(json.dumps(delivery.as_json()))) == delivery


@pytest.mark.parametrize(
    ("args", "rule", "said"),
    [
        (("-c", "copy", "-c:s", "copy", "-an"), "playable_from_the_start", "found subtitle, video"),
        (("-c", "copy", "-an"), "sound_fits_picture", "there is no sound"),
        (("-c", "copy", "-map", "0", "-map", "0:a"), "playable_from_the_start", "found audio, audio, subtitle, video"),
        (("-c:v", "copy", "-c:a", "libmp3lame"), "sound_fits_picture", "the sound is mp3, not aac"),
        (("-c:a", "copy", "-c:v", "mpeg4"), "picture_is_exact", "the picture is mpeg4"),
        (("-c:a", "copy", "-vf", "scale=160:90"), "picture_is_exact", "160x90, not 320x180"),
        (("-c:a", "copy", "-vf", "setsar=2"), "picture_is_exact", "not square"),
        (("-c:a", "copy", "-r", "25"), "picture_is_exact", "the rate is 25, not 24"),
        (("-c:a", "copy", "-pix_fmt", "yuv444p"), "picture_is_exact", "yuv444p, not h264 yuv420p"),
        (("-c:a", "copy", "-vf", "setparams=colorspace=smpte170m"), "picture_is_exact", "not BT.709 limited"),
        (("-c:v", "copy", "-af", "apad=pad_dur=0.1"), "sound_fits_picture", "sound less picture is +0."),
        (("-c:v", "copy", "-af", "atrim=end=1.9"), "sound_fits_picture", "sound less picture is -0."),
        (("-c", "copy", "-c:s", "mov_text"), "playable_from_the_start", "(moov) does not stand before the media"),
        (("-c:a", "copy", "-vf", "setpts=PTS+0.5/TB"), "sound_fits_picture", "the picture starts at"),
        (("-c", "copy", "-sn"), "captions_inside", "0 captions are inside the file, not 2"),
    ],
)
def test_a_cut_that_breaks_a_rule_is_refused_by_that_rule(
    room: Path, args: tuple[str, ...], rule: str, said: str
) -> None:
    assert said in _broken(_refused(_again(room, *args)))[rule]


def test_a_picture_that_players_would_turn_is_refused(room: Path) -> None:
    turned = room / "turned.mp4"
    run(
        ["-display_rotation", "90", "-i", url(_cut(room)), "-c", "copy", "-movflags", "+faststart", url(turned)],
        timeout_s=60,
    )
    assert "turned by 90 degrees" in _broken(_refused(turned))["picture_is_exact"]


def test_a_cut_of_another_length_is_refused(room: Path) -> None:
    assert "48 frames decode, not 49" in _broken(_refused(_cut(room), frames=FRAMES + 1))["picture_is_exact"]


def test_a_black_cut_is_refused_as_black_and_not_as_frozen(room: Path) -> None:
    black = _strip(room / "black.mp4", _black(FRAMES * 2))
    broken = _broken(_refused(_cut(room, black), frames=FRAMES * 2))
    assert broken["nothing_black"].startswith("black from 0:00.00 to 0:03.")
    assert "nothing_frozen" not in broken


def test_black_in_the_middle_is_refused_unless_the_script_asks_for_it(room: Path) -> None:
    strip = _strip(room / "strip.mp4", _moving(room, 24), _black(36), _moving(room, 24))
    cut = _cut(room, strip)
    assert set(_broken(_refused(cut, frames=84))) == {"nothing_black"}
    assert _judge(cut, frames=84, asked=Asked(black=(Stretch(1.0, 2.5),))).passed
    elsewhere = Asked(black=(Stretch(2.5, 4.0),))
    assert "nothing_black" in _broken(_refused(cut, frames=84, asked=elsewhere))


def test_a_blink_of_black_and_a_dark_scene_pass(room: Path) -> None:
    night = [bytes([14, 14, 20]) * (P.width * P.height)] * 40
    lamp = bytearray(night[0])
    for row in range(80, 100):
        lamp[(row * P.width + 150) * 3 : (row * P.width + 170) * 3] = bytes([200, 160, 60]) * 20
    strip = _strip(room / "strip.mp4", _moving(room, 12), _black(16), [bytes(lamp)] * 20)
    delivery = _judge(_cut(room, strip, captions=()), captions=())
    assert delivery.passed


def test_a_picture_that_stands_for_two_seconds_is_refused_unless_the_script_asks_for_it(room: Path) -> None:
    moving = _moving(room, 24)
    cut = _cut(room, _strip(room / "strip.mp4", moving, [moving[-1]] * 60, moving))
    broken = _broken(_refused(cut, frames=108))
    assert list(broken) == ["nothing_frozen"]
    assert broken["nothing_frozen"].startswith("without any movement from 0:0")
    assert _judge(cut, frames=108, asked=Asked(frozen=(Stretch(1.0, 3.5),))).passed


def test_a_clip_that_holds_still_for_more_than_a_second_passes(room: Path) -> None:
    moving = _moving(room, 24)
    cut = _cut(room, _strip(room / "strip.mp4", moving, [moving[-1]] * 40, moving))
    delivery = _judge(cut, frames=88)
    assert 1 < float(str(delivery.figures["frozen_longest_s"])) < 2


def test_a_small_thing_that_moves_in_a_wide_shot_is_movement(room: Path) -> None:
    """`freezedetect` at its own threshold takes this for a freeze: it weighs the mean over the picture."""

    def frame(number: int) -> bytes:
        grey = bytearray(bytes([90, 90, 90]) * (P.width * P.height))
        left = 100 + number
        for row in range(90, 96):
            grey[(row * P.width + left) * 3 : (row * P.width + left + 6) * 3] = bytes([140, 140, 140]) * 6
        return bytes(grey)

    strip = _strip(room / "strip.mp4", (frame(number) for number in range(120)))
    assert _judge(_cut(room, strip), frames=120).figures["frozen_s"] == 0


def test_silence_is_refused_unless_the_script_asks_for_it(room: Path) -> None:
    strip = _strip(room / "strip.mp4", _moving(room, 120))
    cut = _cut(room, strip, sound=TWO_TONES)
    broken = _broken(_refused(cut, frames=120))
    assert broken["nothing_silent"].startswith("silent from 0:01.")
    asked = Asked(silent=(Stretch(0.9, 3.9),))
    assert "nothing_silent" not in _broken(_refused(cut, frames=120, asked=asked))


def test_what_is_soft_in_a_soft_film_is_no_silence(room: Path) -> None:
    """Between 1 s and 4 s there is a tone of -65 dBFS: nothing beside speech at -14 LUFS, a room beside one at -31."""
    strip = _strip(room / "strip.mp4", _moving(room, 120))
    cut = _cut(room, strip, sound=f"{TONE},volume='if(between(t,1,4),0.0045,0.35)':eval=frame")
    assert "nothing_silent" in _broken(_refused(cut, frames=120, aim_lufs=-14.0))
    assert _judge(cut, frames=120, aim_lufs=measure(cut)[0]).figures["silent_s"] == 0


def test_a_film_without_any_sound_to_hear_is_judged_as_that(room: Path) -> None:
    silent = Asked(silent=(Stretch(0, 2),))
    cut = _cut(room, sound=SILENCE)
    assert _judge(cut, asked=silent, aim_lufs=None).passed
    assert "silent from 0:00.00" in _broken(_refused(cut, aim_lufs=None))["nothing_silent"]
    broken = _broken(_refused(cut, asked=silent, aim_lufs=-14.0))
    assert broken == {"loudness_on_target": "nothing is heard, -14.0 LUFS were aimed at"}


def test_sound_where_nothing_should_be_heard_is_refused(room: Path) -> None:
    strip = _strip(room / "strip.mp4", _moving(room, FRAMES))
    broken = _broken(_refused(_cut(room, strip), aim_lufs=None))
    assert broken == {"loudness_on_target": "-21.8 LUFS are heard where nothing should be"}


@pytest.mark.parametrize(("off_lu", "passes"), [(0.4, True), (-0.4, True), (0.6, False), (-0.6, False)])
def test_the_loudness_is_held_within_half_a_unit(room: Path, off_lu: float, *, passes: bool) -> None:
    cut = _cut(room)
    if passes:
        assert _judge(cut, aim_lufs=TONE_LUFS + off_lu).passed
    else:
        assert set(_broken(_refused(cut, aim_lufs=TONE_LUFS + off_lu))) == {"loudness_on_target"}


def test_a_true_peak_over_the_ceiling_is_refused(room: Path) -> None:
    cut = _cut(room, sound=f"{TONE},volume=24dB")
    assert "over the ceiling of -1.0" in _broken(_refused(cut))["loudness_on_target"]


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ((*SPOKEN[:1], Caption(800, 1800, SPOKEN[1].text)), "begins at 800 ms, before caption 1 ends"),
        ((SPOKEN[0], Caption(1000, 2100, SPOKEN[1].text)), "ends at 2100 ms, after the end at 2001 ms"),
        ((SPOKEN[0], Caption(1000, 1800, "It knows the way home.")), "caption 2 reads"),
        ((SPOKEN[0], Caption(1100, 1800, SPOKEN[1].text)), "caption 2 is 100 ms off inside the file"),
        ((SPOKEN[0],), "2 captions are inside the file, not 1"),
        ((SPOKEN[0], Caption(1000, 1000, SPOKEN[1].text)), "caption 2 stands from 1000 to 1000 ms"),
    ],
)
def test_captions_that_are_out_of_order_or_others_than_inside_are_refused(
    room: Path, captions: tuple[Caption, ...], said: str
) -> None:
    assert said in _broken(_refused(_cut(room), captions=captions))["captions_inside"]


def test_a_cut_without_captions_needs_no_track_for_them(room: Path) -> None:
    assert _judge(_cut(room, captions=()), captions=()).passed


def test_all_broken_rules_are_listed_at_once(room: Path) -> None:
    said = "; ".join(_refused(_again(room, "-an", "-vf", "scale=160:90"), frames=7).faults)
    assert all(part in said for part in ("found video", "160x90", "48 frames decode, not 7", "moov", "no sound"))


@pytest.mark.parametrize("keep", [0, 100, 0.6, 0.95])
def test_a_cut_that_ends_in_the_middle_is_refused(room: Path, keep: float) -> None:
    whole = _cut(room).read_bytes()
    half = room / "half.mp4"
    half.write_bytes(whole[: int(keep if keep > 1 else len(whole) * keep)])
    with pytest.raises(DeliveryRefused):
        deliver(half, frames=FRAMES, profile=P, loudness_lufs=-14, asked=NOTHING, captions=SPOKEN)


def test_damage_inside_the_picture_is_refused_and_the_rest_is_told_as_not_checked(room: Path) -> None:
    cut = _cut(room, scene(room / "scene.mp4"), sound=SILENCE)
    content = bytearray(cut.read_bytes())
    begin = content.index(b"mdat")
    for tenth in range(2, 10):
        at = begin + (len(content) - begin) * tenth // 10
        content[at : at + 8] = bytes(byte ^ 0x5A for byte in content[at : at + 8])
    cut.write_bytes(content)
    # A player conceals it and shows every frame; the gate must not.
    assert decode(cut, strict=False).frames == FRAMES
    with pytest.raises(DeliveryRefused, match="cannot be read") as refused:
        deliver(cut, frames=FRAMES, profile=P, loudness_lufs=-14, asked=NOTHING, captions=SPOKEN)
    assert [one.rule for one in refused.value.delivery.findings] == ["playable_from_the_start"]


def test_decoding_times_that_stand_still_are_refused(room: Path) -> None:
    cut = _cut(room)
    # The table of decoding times: one entry, 48 frames of 3750 ticks each.
    table = b"stts" + struct.pack(">IIII", 0, 1, FRAMES, 3750)
    content = cut.read_bytes()
    assert content.count(table) == 1
    cut.write_bytes(content.replace(table, table[:-4] + struct.pack(">I", 0)))
    assert "decoding times do not grow" in _broken(_refused(cut))["playable_from_the_start"]


def test_the_profile_is_part_of_the_rules(room: Path) -> None:
    with pytest.raises(DeliveryRefused, match="320x180, not 426x240"):
        deliver(
            _cut(room),
            frames=FRAMES,
            profile=parse_profile("240p24"),
            loudness_lufs=-14,
            asked=NOTHING,
            captions=SPOKEN,
        )


def _heard(room: Path, *args: str, name: str = "heard.mp4") -> Path:
    """An episode that is only heard, with a cover and captions."""
    target, srt, cover = room / name, room / "captions.srt", room / "cover.png"
    pictures(ramp(room / "one.mp4", 3))[0].save(cover)
    write_srt(SPOKEN, srt)
    run(
        [
            *("-f", "lavfi", "-i", f"{TONE},atrim=end_sample={94 * 1024}", "-i", url(srt), "-i", url(cover)),
            *("-map", "0:a", "-map", "1:s", "-map", "2:v", "-c:a", "aac", "-c:s", "mov_text", "-c:v", "png"),
            *("-disposition:v", "attached_pic", "-movflags", "+faststart", *args, url(target)),
        ],
        timeout_s=60,
    )
    return target


def test_an_episode_that_is_only_heard_passes_the_rules_that_it_can_break(room: Path) -> None:
    episode = _heard(room)
    delivery = deliver_sound(episode, seconds=2.0, loudness_lufs=TONE_LUFS, asked=NOTHING, captions=SPOKEN)
    assert delivery.passed
    assert delivery.medium == "audio"
    assert delivery.seconds == 94 * 1024 / 48_000
    assert [one.rule for one in delivery.findings] == [
        rule for rule in RULES if rule not in ("picture_is_exact", "nothing_black", "nothing_frozen")
    ]
    assert Delivery.from_json(delivery.as_json()) == delivery


def test_a_narration_of_another_length_or_with_a_film_in_it_is_refused(room: Path) -> None:
    episode = _heard(room)
    with pytest.raises(DeliveryRefused, match=r"the sound lasts 2\.005 s, not 2\.020 s"):
        deliver_sound(episode, seconds=2.02, loudness_lufs=TONE_LUFS, asked=NOTHING, captions=SPOKEN)
    with pytest.raises(DeliveryRefused, match="found audio, subtitle, video"):
        deliver_sound(_cut(room), seconds=2.0, loudness_lufs=TONE_LUFS, asked=NOTHING, captions=SPOKEN)
