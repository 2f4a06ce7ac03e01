from __future__ import annotations

import array
import itertools
import json
import struct
from pathlib import Path

import av
import pytest
from PIL import Image

from moltpipe.media.captions import Caption, write_srt
from moltpipe.media.errors import MediaError
from moltpipe.media.footage import footage
from moltpipe.media.probe import decode, opened
from moltpipe.media.reel import join
from moltpipe.media.runner import run, url
from moltpipe.media.sound import Cue, CueKind, mix
from moltpipe.media.stitch import package, stitch
from moltpipe.studio.profiles import Profile, parse_profile
from moltpipe_tests.media.material import P, frame_numbers, ramp, source

PACKET = 1024


def soundtrack(room: Path, seconds: float, *, tone_from_s: float | None = None) -> Path:
    """AAC of whole packets, as near to a length as can be; a tone from `tone_from_s` on, else its last 0.3 s."""
    target = room / "sound track.m4a"
    samples = max(1, round(seconds * 48_000 / PACKET)) * PACKET
    begins = max(0.0, seconds - 0.3) if tone_from_s is None else tone_from_s
    tone = f"aevalsrc=0.5*sin(5655*t)*gte(t\\,{begins}):s=48000,atrim=end_sample={samples}"
    run(["-f", "lavfi", "-i", tone, "-ac", "2", "-c:a", "aac", "-b:a", "192k", "-y", url(target)], timeout_s=60)
    return target


def _track(room: Path, frames: int, profile: Profile = P) -> Path:
    return soundtrack(room, profile.seconds(frames))


def packets(path: Path, kind: str = "video") -> list[bytes]:
    """The coded packets of a file's first stream of a kind."""
    with av.open(url(path)) as container:
        stream = next(one for one in container.streams if one.type == kind)
        return [bytes(packet) for packet in container.demux(stream) if packet.size]


def times(path: Path) -> list[tuple[int, int]]:
    """Decoding and showing times of the picture's packets, in 1/90000 s."""
    with av.open(url(path)) as container:
        return [(one.dts or 0, one.pts or 0) for one in container.demux(container.streams.video[0]) if one.size]


def assert_exact(path: Path, frames: int, profile: Profile = P) -> None:
    """Every frame at its time from 0 on, decoding times that grow, sound within a frame, the index first."""
    decoded = decode(path, strict=True)
    assert decoded.frames == frames
    assert decoded.picture_starts_at_s == 0
    with opened(path) as container:
        shown = [frame.pts for frame in container.decode(container.streams.video[0])]
    assert shown == [round(number * 90_000 / profile.rate) for number in range(frames)]
    order = [dts for dts, _ in times(path)]
    assert all(before < after for before, after in itertools.pairwise(order))
    if decoded.samples:
        assert decoded.sound_starts_at_s == 0
        assert abs(decoded.samples / 48_000 - profile.seconds(frames)) < 1 / profile.rate
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_stitch_copies_every_packet_of_its_clips_and_of_its_sound(room: Path) -> None:
    clips, track = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 50)], _track(room, 80)
    stitch(clips, track, room / "episode.mp4", profile=P)
    assert packets(room / "episode.mp4") == [*packets(clips[0]), *packets(clips[1])]
    assert packets(room / "episode.mp4", "audio") == packets(track, "audio")
    assert frame_numbers(room / "episode.mp4") == pytest.approx([*range(30), *range(50)], abs=0.7)


def test_without_a_soundtrack_the_film_is_silent(room: Path) -> None:
    stitched = stitch([ramp(room / "a.mp4", 30)], None, room / "episode.mp4", profile=P)
    assert (stitched.frames, stitched.samples) == (30, 0)
    with opened(room / "episode.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video"]
    assert_exact(room / "episode.mp4", 30)


def test_a_film_without_sound_is_house_film_again(room: Path) -> None:
    stitch([ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 20)], None, room / "reel.mp4", profile=P)
    found = footage(room / "reel.mp4", P)
    assert found is not None
    assert (found.frames, found.keyframes) == (50, (0, 30))


def test_a_foreign_clip_is_conformed_again_and_only_that_one(room: Path) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 50, parse_profile("240p25")), ramp(room / "c.mp4", 20)]
    stitched = stitch(clips, _track(room, 98), room / "episode.mp4", profile=P)
    assert (stitched.frames, stitched.conformed_again) == (98, (1,))
    assert_exact(room / "episode.mp4", 98)
    copied = packets(room / "episode.mp4")
    assert copied[:30] == packets(clips[0])
    assert copied[-20:] == packets(clips[2])


@pytest.mark.parametrize(
    "args",
    [
        ("-c", "copy", "-f", "matroska"),
        ("-f", "lavfi", "-i", "sine=d=1", "-c:v", "copy"),
        ("-c:v", "libx264", "-profile:v", "main"),
        ("-c:v", "copy", "-video_track_timescale", "12288"),
        ("-c:v", "mpeg4"),
    ],
)
def test_a_clip_that_differs_in_anything_that_copying_needs_is_conformed_again(
    room: Path, args: tuple[str, ...]
) -> None:
    good, other = ramp(room / "good.mp4", 24), room / "other.mp4"
    run(["-i", url(good), *args, "-y", url(other)], timeout_s=60)
    assert stitch([good, other], None, room / "episode.mp4", profile=P).conformed_again == (1,)
    assert_exact(room / "episode.mp4", 48)


def test_a_turned_clip_is_conformed_again(room: Path) -> None:
    good, turned = ramp(room / "good.mp4", 24), room / "turned.mp4"
    run(["-display_rotation", "90", "-i", url(good), "-c", "copy", url(turned)], timeout_s=30)
    assert stitch([good, turned], None, room / "episode.mp4", profile=P).conformed_again == (1,)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_of_a_frame_or_two_are_joined_in_step(room: Path, frames: int) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", frames), ramp(room / "c.mp4", 30)]
    stitch(clips, None, room / "episode.mp4", profile=P)
    assert_exact(room / "episode.mp4", 60 + frames)
    expected = [*range(30), *range(frames), *range(30)]
    assert frame_numbers(room / "episode.mp4") == pytest.approx(expected, abs=0.7)


@pytest.mark.parametrize("name", ["180p24", "180p25", "180p30", "180p60"])
@pytest.mark.parametrize("lengths", [(61,), (70, 31, 42)])
def test_sound_ends_with_the_picture_at_every_rate(room: Path, name: str, lengths: tuple[int, ...]) -> None:
    profile, frames = parse_profile(name), sum(lengths)
    clips = [ramp(room / f"{number}.mp4", length, profile) for number, length in enumerate(lengths)]
    target = room / "episode.mp4"
    stitched = stitch(clips, _track(room, frames, profile), target, profile=profile)
    assert stitched.conformed_again == ()
    assert_exact(target, frames, profile)
    assert abs(stitched.samples / 48_000 - profile.seconds(frames)) <= 512 / 48_000


def test_sound_stays_where_it_was_put(room: Path) -> None:
    clips = [ramp(room / f"{number}.mp4", 40) for number in range(6)]
    track = soundtrack(room, P.seconds(240), tone_from_s=7.25)
    stitch(clips, track, room / "episode.mp4", profile=P)
    heard = _left(room / "episode.mp4")
    assert heard == _left(track)
    assert next(number for number, value in enumerate(heard) if abs(value) > 0.1) == pytest.approx(348_000, abs=240)


def test_a_mixed_soundtrack_is_heard_sample_for_sample(room: Path) -> None:
    blip = source(room / "blip.wav", "-f lavfi -i sine=f=900:d=0.4")
    heard = mix([Cue(blip, 1.5, CueKind.VOICE)], seconds=P.seconds(80), target=room / "mixed.m4a")
    stitched = stitch([ramp(room / "a.mp4", 40)] * 2, heard.file, room / "episode.mp4", profile=P)
    assert stitched.samples == heard.samples
    assert _left(room / "episode.mp4") == _left(heard.file)


def _left(path: Path) -> list[float]:
    values = array.array("f")
    with opened(path) as container:
        for frame in container.decode(container.streams.audio[0]):
            values.frombytes(bytes(frame.planes[0])[: 4 * frame.samples])
    return values.tolist()


def test_a_soundtrack_of_another_length_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match=r"lasts 2\.005 s, the picture 1\.250 s"):
        stitch([ramp(room / "a.mp4", 30)], _track(room, 48), room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_a_soundtrack_that_is_not_aac_is_refused(room: Path) -> None:
    plain = source(room.parent / "plain.wav", "-f lavfi -i sine=d=1.25")
    with pytest.raises(MediaError, match=r"plain\.wav is not AAC"):
        stitch([ramp(room / "a.mp4", 30)], plain, room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_an_episode_without_clips_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match="at least one clip"):
        stitch([], None, room / "episode.mp4", profile=P)


def test_a_missing_clip_is_refused_by_name(room: Path) -> None:
    with pytest.raises(MediaError, match="absent"):
        stitch([ramp(room / "a.mp4", 30), room / "absent.mp4"], None, room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_a_soundtrack_that_ends_before_its_index_says_is_refused(room: Path) -> None:
    track = _track(room, 240)
    content = track.read_bytes()
    # The index of this file stands at its end: what is lost is in the middle.
    middle = content.index(b"mdat") + 4000
    lost = content[:middle] + content[middle + 3000 :]
    track.write_bytes(lost)
    with pytest.raises(MediaError, match=r"sound track\.m4a"):
        stitch([ramp(room / "a.mp4", 60)] * 4, track, room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_a_clip_that_ends_before_its_index_says_is_refused(room: Path) -> None:
    clip = ramp(room / "a.mp4", 60)
    clip.write_bytes(clip.read_bytes()[:-3000])
    with pytest.raises(MediaError, match=r"a\.mp4"):
        stitch([clip], None, room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_a_reel_with_a_missing_clip_is_not_joined_short(room: Path) -> None:
    with pytest.raises(MediaError, match="ffmpeg ended with status"):
        join([ramp(room / "a.mp4", 30), room / "absent.mp4"], room / "joined.mp4")
    assert not (room / "joined.mp4").exists()


GREETINGS = "Grüße, Γειά σου,\nпривет, 你好, مرحبا"  # noqa: RUF001 -- letters that look alike are the point
SHOWN = [
    Caption(0, 900, "From the very start."),
    Caption(900, 1500, GREETINGS),
    Caption(2000, 3000, "{sighs} 1 < 2 & <i>so</i>"),
]


def texts(path: Path) -> list[tuple[int, int, str]]:
    """The captions inside a file: start and end in milliseconds, and the text as it is written there."""
    found = []
    with av.open(url(path)) as container:
        stream = container.streams.subtitles[0]
        for packet in container.demux(stream):
            content = bytes(packet)
            length = struct.unpack(">H", content[:2])[0] if content else 0
            if length and packet.pts is not None and stream.time_base is not None:
                start = round(packet.pts * stream.time_base * 1000)
                end = start + round((packet.duration or 0) * stream.time_base * 1000)
                found.append((start, end, content[2 : 2 + length].decode()))
    return found


def test_captions_lie_inside_to_the_letter_and_at_their_times(room: Path) -> None:
    write_srt(SHOWN, room / "words.srt")
    clips = [ramp(room / f"{number}.mp4", 40) for number in range(2)]
    target = room / "episode.mp4"
    stitch(clips, _track(room, 80), target, profile=P, captions=room / "words.srt")
    assert texts(target) == [(one.start_ms, one.end_ms, one.text) for one in SHOWN]
    assert_exact(target, 80)


@pytest.mark.parametrize(
    "text",
    [
        "It was\n1999",
        "1999",
        "The tape ran from 00:00:01,000\nto 00:00:02,500, or --> nearly",
        "From 00:00:00,100 to 00:00:00,200",
        "\u20601\n2\u2060",
    ],
)
def test_captions_of_digits_and_times_are_read_as_text(room: Path, text: str) -> None:
    shown = [Caption(0, 400, text), Caption(400, 800, "and"), Caption(900, 1500, text)]
    write_srt(shown, room / "words.srt")
    stitch([ramp(room / "a.mp4", 40)], None, room / "episode.mp4", profile=P, captions=room / "words.srt")
    written = text.replace("-->", "--")
    assert texts(room / "episode.mp4") == [(0, 400, written), (400, 800, "and"), (900, 1500, written)]


def test_captions_that_are_no_subrip_are_refused_with_what_was_found(room: Path) -> None:
    (room / "words.srt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n")
    with pytest.raises(MediaError, match=r"words\.srt cannot be read as SRT: 'WEBVTT' is no caption"):
        stitch([ramp(room / "a.mp4", 30)], None, room / "episode.mp4", profile=P, captions=room / "words.srt")


def test_players_find_the_captions(room: Path) -> None:
    write_srt(SHOWN, room / "words.srt")
    target = room / "episode.mp4"
    stitch([ramp(room / "a.mp4", 72)], _track(room, 72), target, profile=P, captions=room / "words.srt")
    with av.open(url(target)) as container:
        stream = container.streams.subtitles[0]
        assert (stream.codec_context.name, stream.start_time) == ("mov_text", 0)
        assert stream.disposition & av.stream.Disposition.default
        order = [packet.dts for packet in container.demux(stream) if packet.dts is not None]
        assert all(before < after for before, after in itertools.pairwise(order))
    extracted = room / "again.srt"
    run(["-i", url(target), "-map", "0:s:0", url(extracted)], timeout_s=30)
    again = extracted.read_text(encoding="utf-8")
    assert f"00:00:00,900 --> 00:00:01,500\n{GREETINGS}\n" in again


def test_captions_that_are_burned_in_are_not_shown_a_second_time(room: Path) -> None:
    """They lie in the file all the same, and every other byte of it is what it would be."""
    write_srt(SHOWN, room / "words.srt")
    clips, track = [ramp(room / "a.mp4", 72)], _track(room, 72)
    stitch(clips, track, room / "soft.mp4", profile=P, captions=room / "words.srt")
    stitch(clips, track, room / "burned.mp4", profile=P, captions=room / "words.srt", burned=True)
    with av.open(url(room / "burned.mp4")) as container:
        on = {stream.type: bool(stream.disposition & av.stream.Disposition.default) for stream in container.streams}
    assert on == {"video": True, "audio": True, "subtitle": False}
    assert texts(room / "burned.mp4") == texts(room / "soft.mp4") == [(c.start_ms, c.end_ms, c.text) for c in SHOWN]
    soft, burned = (room / "soft.mp4").read_bytes(), (room / "burned.mp4").read_bytes()
    assert len(soft) == len(burned)
    assert sum(one != other for one, other in zip(soft, burned, strict=True)) == 1
    assert_exact(room / "burned.mp4", 72)


def test_a_burned_film_in_which_nobody_speaks_has_nothing_to_leave_off(room: Path) -> None:
    write_srt([], room / "none.srt")
    stitch([ramp(room / "a.mp4", 24)], None, room / "film.mp4", profile=P, captions=room / "none.srt", burned=True)
    assert_exact(room / "film.mp4", 24)


def test_an_episode_in_which_nobody_speaks_has_no_text_track(room: Path) -> None:
    write_srt([], room / "none.srt")
    stitch([ramp(room / "a.mp4", 24)], None, room / "episode.mp4", profile=P, captions=room / "none.srt")
    with opened(room / "episode.mp4") as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ([Caption(0, 1251, "late")], r"ends at 1\.251 s, after the end at 1\.250 s"),
        ([Caption(0, 800, "one"), Caption(700, 900, "two")], "at 700 ms does not follow"),
    ],
)
def test_captions_that_cannot_be_shown_are_refused(room: Path, shown: list[Caption], said: str) -> None:
    write_srt(shown, room / "words.srt")
    with pytest.raises(MediaError, match=said):
        stitch([ramp(room / "a.mp4", 30)], None, room / "episode.mp4", profile=P, captions=room / "words.srt")
    assert not (room / "episode.mp4").exists()


def test_a_package_is_heard_has_a_face_a_title_and_words(room: Path) -> None:
    track, cover, words = soundtrack(room, 4.0), room / "poster.png", room / "words.srt"
    Image.new("RGB", (1200, 1800), (200, 30, 60)).save(cover)
    write_srt(SHOWN, words)
    target = room / "heard.mp4"
    package(track, target, cover=cover, captions=words, title="The Moth; Who = Ate")
    assert packets(target, "audio") == packets(track, "audio")
    assert texts(target) == [(one.start_ms, one.end_ms, one.text) for one in SHOWN]
    content = target.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with av.open(url(target)) as container:
        assert container.metadata["title"] == "The Moth; Who = Ate"
        assert container.streams[0].type == "audio"
        face = container.streams.video[0]
        assert face.disposition & av.stream.Disposition.attached_pic
        picture = next(container.decode(face))
    assert (picture.width, picture.height) == (667, 1000)
    heard = decode(target, strict=True)
    assert (heard.samples, heard.sound_starts_at_s) == (round(4.0 * 48_000 / PACKET) * PACKET, 0)


def test_a_package_needs_neither_face_nor_words(room: Path) -> None:
    package(soundtrack(room, 1.0), room / "heard.mp4", cover=None, captions=None, title="Plain")
    with av.open(url(room / "heard.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["audio"]


def test_a_cover_that_is_no_picture_is_refused_and_leaves_nothing(room: Path) -> None:
    broken = room / "cover.png"
    broken.write_text(json.dumps({"error": "not found"}))
    with pytest.raises(MediaError, match=r"cover\.png is no picture"):
        package(soundtrack(room, 1.0), room / "heard.mp4", cover=broken, captions=None, title="Plain")
    assert not (room / "heard.mp4").exists()
