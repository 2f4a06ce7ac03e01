"""Pictures for the eye of the operator and the audience: the series poster, an episode's thumbnail."""

from __future__ import annotations

import tempfile
from pathlib import Path

from PIL import Image

from moltpipe.engines.storyboard.poster import draw_poster
from moltpipe.ledger.series import set_poster
from moltpipe.production.line import Line
from moltpipe.studio.keys import poster_key
from moltpipe.studio.records import Production, Series


def poster(series: Series) -> Image.Image:
    """The poster as the series' poster spec describes it, the same at every call."""
    return draw_poster(series.title, series.logline, series.genre, series.poster_spec, credit=series.agent_name)


def ensure_poster(line: Line, series: Series) -> None:
    """Store the poster of a series that has none yet."""
    if series.poster_key is not None:
        return
    with tempfile.TemporaryDirectory(dir=line.workdir) as folder:
        file = Path(folder) / "poster.png"
        poster(series).save(file, optimize=True)
        stored = line.store.put(file, lambda sha256: poster_key(series.id, sha256))
    with line.database.begin() as db:
        set_poster(db, series.id, stored)


def preview(line: Line, production: Production) -> Image.Image:
    """The thumbnail of the episode's first variant, read back from the store."""
    first = production.variants[min(production.variants)]
    with tempfile.TemporaryDirectory(dir=line.workdir) as folder:
        file = line.store.fetch(first.thumbnail_key, Path(folder) / "thumbnail.jpg")
        return Image.open(file).copy()
