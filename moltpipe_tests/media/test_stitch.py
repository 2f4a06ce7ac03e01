from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest

from moltpipe.media.conform import conform
from moltpipe.media.errors import MediaError
from moltpipe.media.gate import deliver
from moltpipe.media.probe import opened
from moltpipe.media.reel import join
from moltpipe.media.sound import Cue, CueKind, mix
from moltpipe.media.stitch import stitch
from moltpipe.studio.profiles import Profile, parse_profile
from moltpipe_tests.media.material import P, frame_numbers, ramp, samples, source
from moltpipe_tests.media.test_conform import SOURCES


def _soundtrack(room: Path, frames: int, profile: Profile = P) -> Path:
    target = room / "sound track.wav"
    blip = source(room / "blip.wav", "-f lavfi -i sine=f=900:d=0.2")
    seconds = profile.seconds(frames)
    mix([Cue(blip, seconds - 0.3, CueKind.VOICE)], seconds=seconds, target=target)
    return target


def test_twelve_mixed_sources_become_one_exact_episode(room: Path) -> None:
    lengths = [37, 61, 24, 53, 29, 31, 43, 27, 59, 33, 41, 47]
    clips = []
    for number, (length, name) in enumerate(zip(lengths, itertools.cycle(SOURCES), strict=False)):
        clip = room / f"shot '{number}'.mp4"
        conform(source(room / name, SOURCES[name]), P, clip, frames=length)
        clips.append(clip)
    target = room / "episode.mp4"
    stitched = stitch(clips, _soundtrack(room, sum(lengths)), target, profile=P)
    delivery = deliver(target, frames=sum(lengths), profile=P)
    assert (stitched.frames, stitched.conformed_again) == (sum(lengths), ())
    assert delivery.samples == stitched.samples
    assert abs(delivery.audio_minus_video_s) < 1 / P.rate
    with opened(target) as container:
        times = [frame.pts for frame in container.decode(video=0)]
    assert times == [3750 * number for number in range(sum(lengths))]


def test_a_stitch_copies_every_packet_of_its_clips(room: Path) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 50)]
    stitch(clips, _soundtrack(room, 80), room / "episode.mp4", profile=P)
    assert _packets(room / "episode.mp4") == [*_packets(clips[0]), *_packets(clips[1])]
    assert frame_numbers(room / "episode.mp4") == pytest.approx([*range(30), *range(50)], abs=0.7)


def _packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_a_foreign_clip_is_conformed_again_and_only_that_one(room: Path) -> None:
    clips = [ramp(room / "a.mp4", 30), ramp(room / "b.mp4", 50, parse_profile("240p25")), ramp(room / "c.mp4", 20)]
    stitched = stitch(clips, _soundtrack(room, 98), room / "episode.mp4", profile=P)
    assert (stitched.frames, stitched.conformed_again) == (98, (1,))
    deliver(room / "episode.mp4", frames=98, profile=P)
    packets = _packets(room / "episode.mp4")
    assert packets[:30] == _packets(clips[0])
    assert packets[-20:] == _packets(clips[2])


@pytest.mark.parametrize("name", ["180p24", "180p25", "180p30", "180p60"])
@pytest.mark.parametrize("lengths", [(61,), (40, 60), (70, 31, 42)])
def test_sound_ends_with_the_picture_at_every_rate(room: Path, name: str, lengths: tuple[int, ...]) -> None:
    profile, frames = parse_profile(name), sum(lengths)
    clips = [ramp(room / f"{number}.mp4", length, profile) for number, length in enumerate(lengths)]
    target = room / "episode.mp4"
    stitch(clips, _soundtrack(room, frames, profile), target, profile=profile)
    assert abs(deliver(target, frames=frames, profile=profile).audio_minus_video_s) <= 512 / 48_000


def test_sound_stays_where_it_was_put(room: Path) -> None:
    clips = [ramp(room / f"{number}.mp4", 40) for number in range(6)]
    track = _soundtrack(room, 240)
    stitch(clips, track, room / "episode.mp4", profile=P)
    decoded = source(room / "decoded.wav", f"-i {_plainly_named(room / 'episode.mp4')} -vn -c:a pcm_s16le")
    before, after = _onset(track), _onset(decoded)
    assert after == pytest.approx(before, abs=240)


def _plainly_named(path: Path) -> Path:
    # The test's own command line is cut at blanks.
    plain = path.parent.parent / "plain.mp4"
    plain.write_bytes(path.read_bytes())
    return plain


def _onset(path: Path) -> int:
    return next(number for number, value in enumerate(samples(path)) if abs(value) > 3000)


def test_a_soundtrack_of_another_length_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match=r"lasts 2\.000 s, the picture 1\.250 s"):
        stitch([ramp(room / "a.mp4", 30)], _soundtrack(room, 48), room / "episode.mp4", profile=P)
    assert not (room / "episode.mp4").exists()


def test_an_episode_without_clips_is_refused(room: Path) -> None:
    with pytest.raises(MediaError, match="at least one clip"):
        stitch([], room / "none.wav", room / "episode.mp4", profile=P)


def test_a_reel_with_a_missing_clip_is_not_joined_short(room: Path) -> None:
    with pytest.raises(MediaError, match="ffmpeg ended with status"):
        join([ramp(room / "a.mp4", 30), room / "absent.mp4"], room / "joined.mp4")
    assert not (room / "joined.mp4").exists()
