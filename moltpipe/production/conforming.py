"""House film, made once of every source and kept in the store by what it was made from.

Here: looking it up, making it when it is missing, and who waits while another makes it. Not here: how a clip is
conformed (`media.conform`), which takes an episode has (`production.filming`).

Whoever talks in four variants of a pilot is filmed once and was conformed four times; and a cut in a new profile would
conform every take again, each time that it is cut.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from moltpipe.ledger.media import arrival_of_take
from moltpipe.media.conform import conform, conforms, natural_frames, recipe
from moltpipe.media.offload import heed
from moltpipe.media.probe import Probe, probe
from moltpipe.production.line import Line
from moltpipe.store import StoreError, sha256_of
from moltpipe.studio.keys import conformed_key
from moltpipe.studio.records import Take

_LOG = logging.getLogger(__name__)
_TURNS: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
_AT_THE_DOOR = threading.Lock()
_LOOK_S = 0.2
"""How often who waits for another's film looks whether its own work is to end."""


def conformed(line: Line, arrived: Path, found: Probe, folder: Path, *, longest: int) -> Path:
    """An arrived clip as house film of the line's profile, at its own length but no longer than `longest` frames.

    A clip that is house film already is not touched: the path is its own. Else it is a new file in `folder`.

    Raises:
        MediaError: the clip has no picture, or cannot be conformed.
        StoreError: the store could not be asked.
    """
    if conforms(found, line.profile):
        return arrived
    frames = min(longest, natural_frames(found, line.profile))
    return _made_once(line, sha256_of(arrived), frames, folder / f"conformed-{arrived.stem}.mp4", lambda: arrived)


def house_film(line: Line, take: Take, folder: Path) -> Path:
    """A take as house film of the line's profile, as a new file in `folder`.

    That is the take itself, as long as the profile is the one that it was made in. Else it is made of what the camera
    delivered, where that was kept, so that nothing is encoded twice, and as long as the take was.

    Raises:
        MediaError: the take cannot be conformed.
        StoreError: the take is missing, or the store could not be asked.
    """
    own = line.store.get(take.media, folder / f"take-{take.id}.mp4")
    if conforms(probe(own), line.profile):
        return own
    with line.database.begin() as db:
        arrival = arrival_of_take(db, take.id)
    kept = arrival if arrival is not None and line.store.size(arrival.key) == arrival.bytes else None
    fetched = folder / f"arrival-{take.id}.bin"

    def source() -> Path:
        return own if kept is None else line.store.get(kept, fetched)

    sha256 = (kept or take.media).sha256
    frames = line.profile.frames(take.duration_seconds)
    try:
        return _made_once(line, sha256, frames, folder / f"conformed-{take.id}.mp4", source)
    finally:
        own.unlink()
        fetched.unlink(missing_ok=True)


def _made_once(line: Line, sha256: str, frames: int, target: Path, source: Callable[[], Path]) -> Path:
    """The house film of a source, from the store, else made now and put there. `source` fetches what it is made of.

    What lies in the store and cannot be read as what was put there is made anew and put over it: the same work would
    else fail for ever at film that can be made again at any time.
    """
    key = conformed_key(sha256, recipe(line.profile, frames=frames))
    with _turn(key):
        kept = line.store.find(key)
        if kept is not None:
            try:
                return line.store.get(kept, target)
            except StoreError as error:
                _LOG.warning("made anew: %s", error)
        conform(source(), line.profile, target, frames=frames, threads=line.encoder_threads)
        if kept is None:
            line.store.put(target, lambda _: key)
        else:
            line.store.mend(target, key)
    return target


@contextmanager
def _turn(key: str) -> Iterator[None]:
    """One thread of this process at a time. Processes do not wait for each other: both make it, and one is kept."""
    with _AT_THE_DOOR:
        turn = _TURNS.setdefault(key, threading.Lock())
    while not turn.acquire(timeout=_LOOK_S):
        heed()
    try:
        yield
    finally:
        turn.release()
