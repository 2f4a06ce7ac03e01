from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from moltpipe.settings import CameraName
from moltpipe.studio.cameras import asked_for_sound, camera_for, sound_is_kept
from moltpipe.studio.finish import Finish
from moltpipe.studio.screenplay import AudioType, ShotAudio, ShotKind, ShotScript
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


AMBIENT = ShotAudio(type=AudioType.AMBIENT, description="Gulls.")
SPOKEN = ShotAudio(type=AudioType.NARRATION, description="Once upon a time.")
SILENT = ShotAudio(type=AudioType.SILENT)


@pytest.mark.parametrize(
    ("camera", "ambient", "spoken"),
    [
        ("veo", True, True),
        ("replicate", True, False),
        ("ltx2", False, False),
        ("stock", False, False),
        ("heygen", False, False),
        ("animatic", False, False),
    ],
)
def test_sound_is_asked_for_where_it_is_heard_and_paid_for_only_where_nobody_speaks(
    camera: str,
    ambient: bool,  # noqa: FBT001 - a column of the table above
    spoken: bool,  # noqa: FBT001 - a column of the table above
) -> None:
    buying = Finish(paid_clip_sound=True)
    assert asked_for_sound(camera, AMBIENT, buying) is ambient
    assert asked_for_sound(camera, SPOKEN, buying) is spoken
    assert not asked_for_sound(camera, SILENT, buying)
    assert not asked_for_sound(camera, AMBIENT, Finish(clip_sound=False))


def test_nobody_pays_for_sound_who_has_not_said_so() -> None:
    assert not asked_for_sound("replicate", AMBIENT, Finish())
    assert asked_for_sound("veo", AMBIENT, Finish())


def test_what_is_heard_is_kept_from_every_camera_but_from_who_says_the_voiceover() -> None:
    assert [sound_is_kept(camera, SPOKEN, Finish()) for camera in ("stock", "ltx2", "heygen")] == [True, True, False]
    assert not sound_is_kept("stock", SILENT, Finish())
    assert not sound_is_kept("stock", SPOKEN, Finish(clip_sound=False))
