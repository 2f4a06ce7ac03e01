"""How a finished file arrives at its place: whole or not at all.

Here: the temp file beside the target and the rename. Not here: what is written into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def landing(target: Path) -> Iterator[Path]:
    """Yield a path in the target's folder with its suffix; rename it to `target` once the block ends well.

    After a failure nothing is left and an older `target` is untouched. The folder is made when missing.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.parent / f".{uuid4().hex}.part{target.suffix}"
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
