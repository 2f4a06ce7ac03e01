from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.music import FADE_OUT_S, as_wav, lengthened
from moltpipe.media.pcm import SAMPLE_RATE, Block, decoded, write_wav
from moltpipe.media.probe import probe
from moltpipe.media.sound import measure
from moltpipe_tests.fakes import media
from moltpipe_tests.media.material import source


def seconds(file: Path) -> float:
    sound = probe(file).audio
    assert sound is not None
    return sound.duration_seconds


def long(source: Path, wanted_s: float) -> Block:
    return np.concatenate(list(lengthened(source, round(wanted_s * SAMPLE_RATE))))


@pytest.fixture
def music(room: Path) -> Path:
    sent = room / "sent.mp3"
    sent.write_bytes(media.music(6, "mp3"))
    wav = room / "music.wav"
    assert as_wav(sent, wav) == pytest.approx(6, abs=0.1)
    return wav


def test_music_becomes_one_kind_of_file(music: Path) -> None:
    sound = probe(music).audio
    assert sound is not None
    assert (sound.codec, sound.rate, sound.channels) == ("pcm_s16le", SAMPLE_RATE, 2)


@pytest.mark.parametrize("wanted", [0.001, 2.5, 6, 7, 31.3])
def test_music_is_cut_or_looped_to_the_very_length(music: Path, wanted: float) -> None:
    assert len(long(music, wanted)) == round(wanted * SAMPLE_RATE)


def test_a_loop_has_no_hole_where_it_turns(room: Path) -> None:
    # Noise is unlike itself two seconds later, as music is: equal power, and no silence at any turn.
    score = source(room / "score.wav", "-f lavfi -i anoisesrc=d=7:a=0.2:r=48000:seed=4 -ac 2")
    sound = long(score, 40)[: round((40 - FADE_OUT_S) * SAMPLE_RATE), 0]
    powers = (sound[: len(sound) // 4_800 * 4_800].reshape(-1, 4_800) ** 2).mean(axis=1)
    assert powers == pytest.approx(np.median(powers), rel=0.25)


def test_every_turn_is_the_whole_piece(room: Path) -> None:
    score = source(room / "score.wav", "-f lavfi -i anoisesrc=d=5:a=0.2:r=48000:seed=4 -ac 2")
    once = np.concatenate(list(decoded(score)))
    whole = long(score, 20)
    # A piece of five seconds is too short for an overlap of two: it gets a quarter of its length.
    overlap = 5 * SAMPLE_RATE // 4
    turn = 5 * SAMPLE_RATE - overlap
    for number in range(3):
        begin = number * turn + overlap
        length = turn - overlap
        assert np.array_equal(whole[begin : begin + length], once[overlap:][:length])


def test_the_end_fades_to_nothing(music: Path) -> None:
    sound = np.abs(long(music, 12))
    tenths = sound[-round(FADE_OUT_S * SAMPLE_RATE) :].reshape(10, -1).max(axis=1)
    assert list(tenths) == sorted(tenths, reverse=True)
    assert tenths[-1] < tenths[0] / 8


def test_a_loop_is_as_loud_as_the_piece(music: Path, room: Path) -> None:
    write_wav([long(music, 20)], room / "long.wav")
    whole, _ = measure(room / "long.wav")
    once, _ = measure(music)
    assert whole is not None
    assert once is not None
    assert whole == pytest.approx(once, abs=1.5)


LONG = """
import resource, sys
from pathlib import Path
from moltpipe.media.music import lengthened

for _ in lengthened(Path(sys.argv[1]), 48_000 * int(sys.argv[2])):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_a_quarter_of_an_hour_takes_no_more_memory_than_a_minute(room: Path) -> None:
    score = source(room / "score.wav", "-f lavfi -i sine=d=10:sample_rate=48000 -ac 2")

    def mib(wanted: int) -> float:
        args = [sys.executable, "-c", LONG, str(score), str(wanted)]
        return float(subprocess.run(args, check=True, capture_output=True, text=True, timeout=120).stdout)

    assert mib(900) < mib(60) + 10


def test_what_is_no_music_is_refused(room: Path) -> None:
    picture = room / "picture.mp4"
    picture.write_bytes(media.clip(1, 64, 64, sound=False))
    with pytest.raises(MediaError):
        as_wav(picture, room / "music.wav")
    with pytest.raises(MediaError, match="holds no sound"):
        long(picture, 10)
    assert not (room / "music.wav").exists()
