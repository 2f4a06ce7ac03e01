"""The stills of a finished episode, out of a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from moltpipe.ledger.production import load_production
from moltpipe.media.runner import run, url
from moltpipe.production.line import Line
from moltpipe.production.posters import stills
from moltpipe.studio.keys import variant_key
from moltpipe.studio.records import Episode, Production, Variant
from moltpipe_tests.media.material import ramp
from moltpipe_tests.stories import a_series
from moltpipe_tests.studio.making import shot

SECONDS = 2.0


def a_published_one(line: Line, episode: Episode, folder: Path, *picture: str) -> Production:
    """An episode with one variant in the store: a tone of two seconds under the picture that the arguments name."""
    video, still = folder / "episode.mp4", folder / "still.jpg"
    tone = ["-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={SECONDS}"]
    run([*tone, *picture, "-map", "0:a", "-c:a", "aac", "-movflags", "+faststart", url(video)], timeout_s=60)
    Image.new("RGB", (64, 36), (200, 40, 40)).save(still)
    stored = line.store.put(video, lambda sha256: variant_key(episode.id, 1, sha256, ".mp4"))
    thumbnail = line.store.put(still, lambda sha256: variant_key(episode.id, 1, sha256, ".jpg"))
    with line.database.begin() as db:
        production = load_production(db, episode.partition_key)
    variant = Variant(
        id=episode.id,
        variant_number=1,
        video=stored,
        captions_key="not/read.vtt",
        thumbnail_key=thumbnail.key,
        duration_seconds=SECONDS,
        ingredients="",
        is_selected=True,
    )
    return replace(production, episode=episode, shots=(shot(1, 1.0), shot(2, 1.0)), variants={1: variant})


def test_an_episode_shows_its_thumbnail_a_picture_of_every_shot_and_its_waveform(line: Line, tmp_path: Path) -> None:
    reel = ramp(tmp_path / "reel.mp4", 24, line.profile)
    production = a_published_one(
        line, a_series(line.database)[1], tmp_path, "-i", url(reel), "-map", "1:v", "-c:v", "copy"
    )
    before = set(tmp_path.iterdir())
    shown = stills(line, production)
    assert shown.thumbnail.size == (64, 36)
    assert shown.sheet is not None
    assert shown.sheet.width > 2 * 160
    assert shown.waveform.size == (640, 120)
    assert set(tmp_path.iterdir()) == before, "nothing is left in the scratch space"


def test_an_episode_that_is_only_heard_has_no_contact_sheet(line: Line, tmp_path: Path) -> None:
    heard = replace(a_series(line.database)[1], medium="audio")
    cover = ["-f", "lavfi", "-i", "color=c=red:s=64x96:d=0.1", "-map", "1:v", "-frames:v", "1", "-c:v", "mjpeg"]
    production = a_published_one(line, heard, tmp_path, *cover, "-disposition:v", "attached_pic")
    shown = stills(line, production)
    assert shown.sheet is None
    assert shown.thumbnail.size == (64, 36)
    assert shown.waveform.getbbox() is not None
