"""The four protocols behind which every engine stands, and what goes in and comes out.

A request is a frozen pydantic model: its canonical JSON is what a provider job is fingerprinted by, so
nothing that does not change the outcome belongs in it. All lengths in seconds, all sizes in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NewType, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from moltpipe.studio.records import Word
from moltpipe.studio.screenplay import Arc, EpisodeScript, PosterSpec, SeriesBible, ShotAudio, ShotPrompt, ShotScript

ExternalId = NewType("ExternalId", str)
"""The engine's own name for a job, enough to poll it after a restart."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True)


class EpisodeRequest(_Request):
    """Write one later episode of a series."""

    title: str
    logline: str
    genre: str
    arc: Arc
    bible: SeriesBible
    pilot_shots: tuple[ShotScript, ...]
    episode_number: int


class LineRequest(_Request):
    """Speak one line."""

    text: str
    speaker: str
    voice_style: str | None = None
    voice_id: str | None = None


class TakeRequest(_Request):
    """Film one shot for one variant."""

    series_title: str
    episode_number: int
    shot_number: int
    shot_count: int
    prompt: ShotPrompt
    audio: ShotAudio
    bible: SeriesBible
    poster: PosterSpec
    variant_number: int
    style_suffix: str
    """What sets this variant apart, in words for the engine; empty for an episode with one variant."""
    seconds: float
    """Length of the clip to generate."""
    width: int
    height: int
    rate: int
    """Frames per second."""
    seed: int
    """0 to 2**31-1: the old system sent epoch milliseconds into an int4 column."""


class ScoreRequest(_Request):
    """Compose music of a length."""

    prompt: str
    seconds: float


@dataclass(frozen=True)
class Quote:
    """What a request would cost, reckoned from that very request."""

    cost_usd: Decimal
    basis: str


@dataclass(frozen=True)
class Progress:
    """Not done yet. `fraction` is None where the engine does not say."""

    fraction: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Written:
    """A finished episode script."""

    script: EpisodeScript


@dataclass(frozen=True)
class Recorded:
    """A finished line: audio in any format FFmpeg reads, with word times where the engine gives them."""

    file: Path
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Filmed:
    """A finished take: video in any format FFmpeg reads, not conformed yet."""

    file: Path


@dataclass(frozen=True)
class Composed:
    """Finished music."""

    file: Path


RequestT_contra = TypeVar("RequestT_contra", bound=BaseModel, contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Engine(Protocol[RequestT_contra, ResultT_co]):
    """The four verbs are all that an engine knows.

    A file in a result belongs to the caller, who removes it. An engine that cannot do a request raises
    `engines.errors.EngineError` from `submit` or `poll`.
    """

    @property
    def name(self) -> str:
        """The engine's name in the settings, such as `animatic`."""

    @property
    def model(self) -> str:
        """Model and version: a change of it is a different outcome, so it is part of the fingerprint."""

    @property
    def resumable(self) -> bool:
        """Whether a job outlives the process that submitted it."""

    def quote(self, request: RequestT_contra) -> Quote:
        """What the request would cost."""

    async def submit(self, request: RequestT_contra) -> ExternalId:
        """Hand the request over; return as soon as the engine has accepted it."""

    async def poll(self, job: ExternalId) -> Progress | ResultT_co:
        """Look once. May wait up to about a second."""

    async def cancel(self, job: ExternalId) -> None:
        """Stop a job; a job that is over is no error."""


Screenwriter = Engine[EpisodeRequest, Written]
Voice = Engine[LineRequest, Recorded]
Camera = Engine[TakeRequest, Filmed]
Composer = Engine[ScoreRequest, Composed]
