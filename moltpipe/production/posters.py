"""Pictures for the eye of the operator and the audience: the series poster, and stills of a finished episode."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from moltpipe.engines.storyboard.poster import SIZE, draw_poster
from moltpipe.ledger.series import set_poster
from moltpipe.media.stills import contact_sheet
from moltpipe.media.waveform import waveform
from moltpipe.production.line import Line
from moltpipe.studio.keys import poster_key
from moltpipe.studio.records import Production, Series
from moltpipe.studio.timing import timeline

SMALL = (300, 450)
"""Large enough to look at beside a script, and drawn in a quarter of the time."""


def poster(series: Series, size: tuple[int, int] = SIZE) -> Image.Image:
    """The poster as the series' poster spec describes it, the same at every call."""
    return draw_poster(
        series.title, series.logline, series.genre, series.poster_spec, credit=series.agent_name, size=size
    )


def ensure_poster(line: Line, series: Series) -> None:
    """Store the poster of a series that has none yet."""
    if series.poster_key is not None:
        return
    with tempfile.TemporaryDirectory(dir=line.workdir) as folder:
        file = Path(folder) / "poster.png"
        # Not `optimize`: it takes a second to save a twentieth, and the whole series waits for its pilot.
        poster(series).save(file)
        stored = line.store.put(file, lambda sha256: poster_key(series.id, sha256))
    with line.database.begin() as db:
        set_poster(db, series.id, stored)


@dataclass(frozen=True)
class Stills:
    """What an operator looks at before opening an episode. All are of its first variant."""

    thumbnail: Image.Image
    sheet: Image.Image | None
    """The middle of every shot; None for an episode that is only heard."""
    waveform: Image.Image
    """The sound from beginning to end."""


def stills(line: Line, production: Production) -> Stills:
    """Pictures of an episode's first variant, out of what lies in the store.

    Raises:
        MediaError: what lies there cannot be read.
    """
    first = production.variants[min(production.variants)]
    with tempfile.TemporaryDirectory(dir=line.workdir) as name:
        folder = Path(name)
        video = line.store.get(first.video, folder / "episode.mp4")
        waveform(video, folder / "waveform.png")
        return Stills(
            thumbnail=_read(line.store.fetch(first.thumbnail_key, folder / "thumbnail.jpg")),
            sheet=None if production.episode.medium == "audio" else contact_sheet(video, _middles(line, production)),
            waveform=_read(folder / "waveform.png"),
        )


def _read(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.copy()


def _middles(line: Line, production: Production) -> list[float]:
    """The middle of every shot in seconds, which no transition reaches."""
    voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
    timing = timeline(production.shots, voices, line.profile)
    return [timing.profile.seconds(slot.start_frame + slot.frames // 2) for slot in timing.slots]
