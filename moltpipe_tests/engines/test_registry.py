from __future__ import annotations

from pathlib import Path

import pytest

from moltpipe.engines import registry
from moltpipe.settings import Settings


def test_the_defaults_are_engines_of_this_machine_and_no_composer(tmp_path: Path) -> None:
    settings = Settings()
    assert registry.screenwriter(settings, tmp_path).name == "outline"
    assert registry.voice(settings, tmp_path).name == "espeak"
    assert registry.camera(settings, tmp_path).name == "animatic"
    assert registry.composer(settings, tmp_path) is None


@pytest.mark.parametrize("setting", ["screenwriter", "voice", "camera", "composer"])
def test_an_unknown_engine_is_refused_with_the_names_that_there_are(tmp_path: Path, setting: str) -> None:
    settings = Settings().model_copy(update={setting: "gramophone"})
    with pytest.raises(registry.UnknownEngine, match="gramophone") as refusal:
        getattr(registry, setting)(settings, tmp_path)
    assert f"MOLTPIPE_{setting.upper()}" in str(refusal.value)
    assert all(name in str(refusal.value) for name in refusal.value.there_are)
