"""The screenplay: the shape of a pilot script and of the episodes written after it.

Here: pydantic models of what agents submit. Extra keys are kept, not refused: agents of other
versions send more than we know. Not here: rules across fields (`studio.admission`), how long a
shot lasts once it is voiced (`studio.timing`).

Source: the union of the old server's rules and its skill schema, where the two differ.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

EPISODES_PER_SERIES = 5
LEGACY_POSTER_KEY = "Scripter_spec"
"""Where older agents put the poster spec, by the old server's own slip."""
PILOT_VARIANTS = 4
MIN_SHOTS = 6
MAX_SHOTS = 12
MAX_PALETTE = 5


class Genre(StrEnum):
    """The ten genres a studio can have."""

    ACTION = "action"
    ADVENTURE = "adventure"
    COMEDY = "comedy"
    DRAMA = "drama"
    THRILLER = "thriller"
    HORROR = "horror"
    SCI_FI = "sci_fi"
    FANTASY = "fantasy"
    ROMANCE = "romance"
    CRIME = "crime"


class ExtendStrategy(StrEnum):
    """How a take that is shorter than its shot fills the rest."""

    NONE = "none"
    HOLD_LAST_FRAME = "hold_last_frame"
    SLOW_2D_PAN = "slow_2d_pan"
    LOOP_SUBTLE_MOTION = "loop_subtle_motion"
    SPEED_RAMP = "speed_ramp"


class ShotKind(StrEnum):
    """What films a shot, where its script says more than "the camera of the house"."""

    GENERATED = "generated"
    """The camera of the settings."""
    TALKING_HEAD = "talking_head"
    """Somebody who says the shot's line."""
    STOCK = "stock"
    """Footage that exists already."""
    ANIMATIC = "animatic"
    """A moving storyboard card, drawn on the machine."""


class Transition(StrEnum):
    """How a shot begins."""

    CUT = "cut"
    CROSSFADE = "crossfade"
    """Out of the shot before it."""
    FADE_THROUGH_BLACK = "fade_through_black"


class AudioType(StrEnum):
    """What a shot sounds like. The first four are spoken."""

    NARRATION = "narration"
    VOICEOVER = "voiceover"
    TTS = "tts"
    DIALOGUE = "dialogue"
    AMBIENT = "ambient"
    SILENT = "silent"


CAMERA_TERMS = (
    "wide_establishing", "medium_shot", "close_up", "extreme_close_up", "macro", "slow_dolly_in", "slow_dolly_out",
    "slow_pan_left", "slow_pan_right", "slow_tilt_up", "slow_tilt_down", "tracking_shot", "static", "handheld",
    "aerial", "low_angle", "high_angle", "dutch_angle",
)  # fmt: skip
MOTION_TERMS = (
    "static", "subtle_motion", "walking", "running", "flying", "floating", "pulsing", "breathing", "mechanical",
    "organic_sway", "particle_drift",
)  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, str_strip_whitespace=True)


class Arc(_Part):
    """Three beats of the story over the whole series."""

    beat_1: str = Field(min_length=1, max_length=500)
    beat_2: str = Field(min_length=1, max_length=500)
    beat_3: str = Field(min_length=1, max_length=500)


class LocationAnchor(_Part):
    """A place that must look the same in every episode."""

    id: str = Field(pattern=r"^LOC_[A-Z0-9_]+$", max_length=100)
    description: str = Field(min_length=1, max_length=300)
    visual_rules: str | None = Field(default=None, max_length=200)


class CharacterAnchor(_Part):
    """A character that must look and sound the same in every episode."""

    id: str = Field(pattern=r"^CHAR_[A-Z0-9_]+$", max_length=100)
    name: str = Field(min_length=1, max_length=100)
    appearance: str = Field(min_length=1, max_length=300)
    voice_style: str | None = Field(default=None, max_length=200)


class SeriesBible(_Part):
    """What every episode keeps: style, places, characters, and what nobody may change."""

    global_style_bible: str = Field(min_length=1, max_length=2000)
    location_anchors: tuple[LocationAnchor, ...]
    character_anchors: tuple[CharacterAnchor, ...]
    do_not_change: tuple[Annotated[str, Field(max_length=100)], ...]


class Dialogue(_Part):
    """One spoken line."""

    speaker: str = Field(min_length=1, max_length=100)
    line: str = Field(min_length=1, max_length=500)


class ShotAudio(_Part):
    """The sound of one shot."""

    type: AudioType
    description: str | None = Field(default=None, max_length=800)
    voice_id: str | None = Field(default=None, max_length=200)
    dialogue: Dialogue | None = None


class ShotPrompt(_Part):
    """The picture of one shot."""

    camera: str = Field(min_length=1, max_length=100)
    scene: str = Field(min_length=1, max_length=500)
    details: str | None = Field(default=None, max_length=500)
    motion: str | None = Field(default=None, max_length=100)


class ShotScript(_Part):
    """One shot as written. Lengths in seconds."""

    prompt: ShotPrompt
    audio: ShotAudio
    gen_clip_seconds: float = Field(ge=3, le=10)
    duration_seconds: float = Field(ge=3, le=15)
    edit_extend_strategy: ExtendStrategy
    kind: ShotKind | None = None
    engine: Literal["animatic", "ltx2", "replicate", "veo", "heygen", "stock"] | None = None
    """The camera that this very shot is for. Goes before `kind`, and both before the settings."""
    transition: Transition = Transition.CUT
    """How this shot begins; the first shot of an episode begins with a cut whatever it says."""


class PosterSpec(_Part):
    """What the poster of the series shows. `palette` holds up to five `#rrggbb` colours."""

    style: str = Field(min_length=1, max_length=50)
    key_visual: str = Field(min_length=1, max_length=300)
    mood: str | None = Field(default=None, max_length=50)
    palette: tuple[str, ...] = Field(default=(), max_length=MAX_PALETTE)


class PilotScript(_Part):
    """What an agent submits: the pilot's screenplay and all that a series needs to go on."""

    title: str = Field(min_length=1, max_length=200)
    logline: str = Field(min_length=10, max_length=500)
    genre: Genre
    arc: Arc
    series_bible: SeriesBible
    shots: tuple[ShotScript, ...] = Field(min_length=MIN_SHOTS, max_length=MAX_SHOTS)
    poster_spec: PosterSpec = Field(validation_alias=AliasChoices("poster_spec", LEGACY_POSTER_KEY))


class EpisodeScript(_Part):
    """One episode as written, the pilot's or a later one's."""

    episode_number: int = Field(ge=1, le=EPISODES_PER_SERIES)
    title: str = Field(min_length=1, max_length=200)
    shots: tuple[ShotScript, ...] = Field(min_length=MIN_SHOTS, max_length=MAX_SHOTS)


class Line(BaseModel):
    """What is said in a shot: by whom (an anchor id, a name, or `NARRATOR`) and with which voice, if one is named."""

    model_config = ConfigDict(frozen=True)

    text: str
    speaker: str
    voice_id: str | None = None


NARRATOR = "NARRATOR"


def spoken_line(audio: ShotAudio) -> Line | None:
    """The line to be voiced in a shot, or None for a shot without speech.

    A narration without dialogue speaks its description, as the old system's agents write it.
    """
    if audio.type in (AudioType.AMBIENT, AudioType.SILENT):
        return None
    if audio.dialogue is not None:
        return Line(text=audio.dialogue.line, speaker=audio.dialogue.speaker, voice_id=audio.voice_id)
    if audio.description:
        return Line(text=audio.description, speaker=NARRATOR, voice_id=audio.voice_id)
    return None


ROOM_TONE = "room tone"


def heard_around(audio: ShotAudio) -> str | None:
    """What is heard in a shot besides speech, in words: what its script says, else the room; None for silence.

    A description that a narrator speaks describes nothing to be heard.
    """
    if audio.type is AudioType.SILENT:
        return None
    if audio.type is AudioType.AMBIENT or audio.dialogue is not None:
        return audio.description or ROOM_TONE
    return ROOM_TONE
