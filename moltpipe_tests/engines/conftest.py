"""A pilot script that the engine tests work from, and requests made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from moltpipe.engines.protocols import EpisodeRequest, TakeRequest
from moltpipe.studio.screenplay import PilotScript
from moltpipe.studio.variants import style_suffix


def _shot(camera: str, scene: str, motion: str, audio: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": {"camera": camera, "scene": scene, "motion": motion},
        "audio": audio,
        "gen_clip_seconds": 5,
        "duration_seconds": 6,
        "edit_extend_strategy": "hold_last_frame",
    }


_SAID = {"type": "narration", "description": "Some letters are never sent."}
_ASKED = {"type": "dialogue", "dialogue": {"speaker": "CHAR_MARA", "line": "Who wrote this?"}}
PILOT = PilotScript.model_validate(
    {
        "title": "The Tide Archive",
        "logline": "A retired lighthouse robot finds that the sea returns every letter ever thrown into it.",
        "genre": "sci_fi",
        "arc": {
            "beat_1": "Mara finds a dry letter in the surf; it is dated tomorrow.",
            "beat_2": "The archive under the rock wakes up. Tomas wants it drowned again.",
            "beat_3": "Mara answers the letter and gives the archive back to the sea.",
        },
        "series_bible": {
            "global_style_bible": "Painterly wide frames, teal nights and amber lamps.",
            "location_anchors": [
                {
                    "id": "LOC_LIGHTHOUSE",
                    "description": "a white lighthouse on black rock",
                    "visual_rules": "amber lamp",
                },
                {"id": "LOC_TIDE_ARCHIVE", "description": "a flooded hall of shelves under the rock"},
            ],
            "character_anchors": [
                {
                    "id": "CHAR_MARA",
                    "name": "Mara",
                    "appearance": "a tall brass robot",
                    "voice_style": "calm, old, female",
                },
                {"id": "CHAR_TOMAS", "name": "Tomas", "appearance": "an old engineer", "voice_style": "deep male"},
            ],
            "do_not_change": ["Mara has exactly one eye", "The sea is never calm"],
        },
        "shots": [
            _shot("wide_establishing", "A lighthouse on black rock at night, its beam in rain", "subtle_motion", _SAID),
            _shot("slow_dolly_in", "Mara looks at the sea at dusk", "breathing", {"type": "ambient"}),
            _shot("close_up", "A dry letter lies on wet sand", "static", {**_SAID, "description": "It came back dry."}),
            _shot("tracking_shot", "Mara walks through the harbour town in the rain", "walking", _ASKED),
            _shot("low_angle", "The archive, a hall of shelves and lamps", "particle_drift", {"type": "silent"}),
            _shot("aerial", "The lighthouse small under the stars", "floating", {"type": "ambient"}),
        ],
        "poster_spec": {
            "style": "cinematic",
            "key_visual": "A lone lighthouse over a dark sea",
            "mood": "quiet",
            "palette": ["#0b2239", "#14506b", "#e8a33d", "#f4ead5"],
        },
    }
)  # fmt: skip

TakeRequests = Callable[..., TakeRequest]


@pytest.fixture
def pilot() -> PilotScript:
    return PILOT


def episode_request(pilot: PilotScript, number: int) -> EpisodeRequest:
    return EpisodeRequest(
        title=pilot.title,
        logline=pilot.logline,
        genre=pilot.genre,
        arc=pilot.arc,
        bible=pilot.series_bible,
        pilot_shots=pilot.shots,
        episode_number=number,
    )


@pytest.fixture
def take() -> TakeRequests:
    """Requests for a take at 240 lines, with what a test wants to be different."""

    def request(
        *,
        shot: int = 0,
        variant: int = 1,
        wanted: int = 1,
        prompt: dict[str, Any] | None = None,
        **other: Any,  # noqa: ANN401 - any field of the request
    ) -> TakeRequest:
        written = PILOT.shots[shot]
        fields: dict[str, Any] = {
            "series_title": PILOT.title,
            "episode_number": 1,
            "shot_number": shot + 1,
            "shot_count": len(PILOT.shots),
            "prompt": written.prompt.model_copy(update=prompt or {}),
            "audio": written.audio,
            "bible": PILOT.series_bible,
            "poster": PILOT.poster_spec,
            "variant_number": variant,
            "style_suffix": style_suffix(variant, wanted),
            "seconds": 2.0,
            "width": 426,
            "height": 240,
            "rate": 12,
            "seed": 7,
        }
        return TakeRequest(**{**fields, **other})

    return request
