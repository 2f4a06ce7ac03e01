"""Where a command finds its studio."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from moltpipe.cli.session import tell_of_new_studio
from moltpipe.settings import Settings


def test_the_first_command_in_a_folder_says_that_it_makes_a_studio_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the wrong folder it would look as if everything were gone."""
    tell_of_new_studio(Settings(data_dir=tmp_path / "new"))
    assert f"there is no studio in {tmp_path / 'new'} yet" in capsys.readouterr().err


def test_nothing_is_said_of_a_studio_that_is_there_or_lies_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_of_new_studio(Settings(data_dir=tmp_path))
    tell_of_new_studio(Settings(data_dir=tmp_path / "new", database_url=SecretStr("postgresql://a@b/c")))
    assert capsys.readouterr() == ("", "")
