"""The small disk is full when it says so, nobody else sees it, and its folder can be removed."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from moltpipe_tests.e2e.studio import CHECKOUT

_PROGRAM = f"""
import sys
from pathlib import Path
from moltpipe_tests.faults.disk import Disk

disk = Disk(Path(sys.argv[1]))
if disk.cannot_fill:
    sys.exit(disk.cannot_fill)
file = disk.folder / "file"
file.write_bytes(bytes(1 << 20))
disk.fill()
try:
    file.write_bytes(bytes(2 << 20))
except OSError as error:
    assert error.errno == {errno.ENOSPC}, error
else:
    raise AssertionError("it was not full")
disk.clear()
file.write_bytes(bytes(2 << 20))
disk.leave()
disk.folder.rmdir()
print("kept")
"""


def test_a_full_disk_takes_nothing_more_until_it_is_cleared(tmp_path: Path) -> None:
    """In a process of its own, as a disk is."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(place)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    if "this user may not" in done.stderr or "only Linux" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout == "kept\n", done.stderr
    assert list(tmp_path.iterdir()) == []
