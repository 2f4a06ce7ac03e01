from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from moltpipe.settings import CameraName
from moltpipe.studio.cameras import camera_for
from moltpipe.studio.screenplay import ShotKind, ShotScript
from moltpipe_tests.studio.making import shot


def asked(*, voiced: bool = False, camera: CameraName = "veo", **of_shot: Any) -> str:  # noqa: ANN401 - any field of a shot
    return camera_for(replace(shot(1), **of_shot), voiced=voiced, camera=camera, second_camera="animatic")


def test_a_plain_shot_is_filmed_by_the_camera_of_the_house() -> None:
    assert asked() == "veo"
    assert asked(kind=ShotKind.GENERATED) == "veo"


@pytest.mark.parametrize(
    ("kind", "camera"),
    [(ShotKind.TALKING_HEAD, "heygen"), (ShotKind.STOCK, "stock"), (ShotKind.ANIMATIC, "animatic")],
)
def test_a_shot_of_a_kind_is_filmed_by_the_camera_for_it(kind: ShotKind, camera: str) -> None:
    assert asked(kind=kind, voiced=True) == camera


def test_a_shot_that_names_its_engine_gets_it_whatever_its_kind() -> None:
    assert asked(kind=ShotKind.STOCK, engine="ltx2") == "ltx2"


def test_a_silent_shot_is_not_given_to_somebody_who_only_talks() -> None:
    assert asked(camera="heygen") == "animatic"
    assert asked(camera="heygen", voiced=True) == "heygen"
    assert asked(kind=ShotKind.TALKING_HEAD) == "animatic"


def test_a_script_that_asks_for_a_camera_that_there_is_not_is_refused_at_the_door() -> None:
    document = {
        "prompt": {"camera": "static", "scene": "A door"},
        "audio": {"type": "silent"},
        "gen_clip_seconds": 4,
        "duration_seconds": 4,
        "edit_extend_strategy": "none",
    }
    assert ShotScript.model_validate({**document, "kind": "stock", "engine": "veo"}).engine == "veo"
    with pytest.raises(ValidationError, match="engine"):
        ShotScript.model_validate({**document, "engine": "sora"})
    with pytest.raises(ValidationError, match="kind"):
        ShotScript.model_validate({**document, "kind": "cartoon"})
