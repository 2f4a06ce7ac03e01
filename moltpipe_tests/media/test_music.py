from __future__ import annotations

from pathlib import Path

import pytest

from moltpipe.media.errors import MediaError
from moltpipe.media.music import as_wav, lengthen
from moltpipe.media.probe import probe
from moltpipe.media.sound import SAMPLE_RATE, measure
from moltpipe_tests.fakes import media


def seconds(file: Path) -> float:
    sound = probe(file).audio
    assert sound is not None
    return sound.duration_seconds


@pytest.fixture
def music(tmp_path: Path) -> Path:
    sent = tmp_path / "sent.mp3"
    sent.write_bytes(media.music(6, "mp3"))
    wav = tmp_path / "music.wav"
    assert as_wav(sent, wav) == pytest.approx(6, abs=0.1)
    return wav


def test_music_becomes_one_kind_of_file(music: Path) -> None:
    sound = probe(music).audio
    assert sound is not None
    assert (sound.codec, sound.rate, sound.channels) == ("pcm_s16le", SAMPLE_RATE, 2)


@pytest.mark.parametrize("wanted", [2.5, 6, 7, 31.3])
def test_music_is_cut_or_looped_to_the_very_length(music: Path, tmp_path: Path, wanted: float) -> None:
    target = tmp_path / "long.wav"
    lengthen(music, wanted, target)
    assert seconds(target) == pytest.approx(wanted, abs=1 / SAMPLE_RATE)


def test_a_loop_has_no_hole_where_it_turns(music: Path, tmp_path: Path) -> None:
    target = tmp_path / "long.wav"
    lengthen(music, 20, target)
    whole, _ = measure(target)
    once, _ = measure(music)
    assert whole is not None
    assert once is not None
    assert whole == pytest.approx(once, abs=1.5)


def test_what_is_no_music_is_refused(tmp_path: Path) -> None:
    picture = tmp_path / "picture.mp4"
    picture.write_bytes(media.clip(1, 64, 64, sound=False))
    with pytest.raises(MediaError):
        as_wav(picture, tmp_path / "music.wav")
    assert not (tmp_path / "music.wav").exists()
