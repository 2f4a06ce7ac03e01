"""The four protocols behind which every engine stands, and what goes in and comes out.

A request is a frozen pydantic model: its canonical JSON is what a provider job is fingerprinted by, so
nothing that does not change the outcome belongs in it. All lengths in seconds, all sizes in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import NewType, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from moltpipe.studio.records import Word
from moltpipe.studio.screenplay import Arc, EpisodeScript, PosterSpec, SeriesBible, ShotAudio, ShotPrompt, ShotScript

ExternalId = NewType("ExternalId", str)
"""The engine's own name for a job, enough to poll it after a restart."""
_LONGER = 1.2
"""By how much each pause between two looks at a job is longer than the one before."""
_SPREAD, _STEP = 0.15, 0.05
"""How near to the usual length of a job, as a part of it, it is looked at more often, and how often."""
_SHORTEST_S = 0.2


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


class VoiceTrack(_Request):
    """The voiceover of a shot, for an engine that makes somebody say it."""

    key: str
    """Where it lies in the store: an engine asks its order for a link."""
    seconds: float


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
    voice: VoiceTrack | None = None
    with_sound: bool = Field(default=False, exclude_if=lambda asked: not asked)
    """Whether the clip shall come with sound. Not in the JSON when False, so that requests made before there was a
    choice keep their fingerprints."""


class ScoreRequest(_Request):
    """Compose music of a length."""

    prompt: str
    seconds: float


@dataclass(frozen=True)
class Quote:
    """What a request would cost, reckoned from that very request."""

    cost_usd: Decimal | None
    """None where no price is known, which is not the same as nothing."""
    basis: str
    """The reckoning in words: quantity, price, and the date of the price."""


@dataclass(frozen=True)
class Hosting:
    """What an engine that runs elsewhere allows, and how its jobs behave."""

    account: str
    """Whom the limits hold for: host and a digest of address and key, so that two engines may share one."""
    max_concurrency: int
    """Jobs in flight at once, over every process."""
    start_delay: timedelta
    """The least time between two starts, over every process."""
    deadline: timedelta
    """How long after its start nobody waits for a job any more."""
    base_url: str = ""
    """Where the provider lies: a result may come over plain http from this machine only if it lies there too."""
    holds_request: bool = False
    """Whether the answer to the request is the result itself, so that the request lasts as long as the job."""
    settles: timedelta = timedelta(seconds=10)
    """How long after the request a listing surely shows a job that was accepted."""
    first_look: timedelta = timedelta(seconds=1)
    """The pause after the first look at a job; each later one is a fifth longer."""
    longest_pause: timedelta = timedelta(seconds=10)

    def pauses_s(self, usual_s: float | None = None, age_s: float = 0.0) -> Iterator[float]:
        """The pauses between looks at a job, in seconds, without end.

        They grow by a fifth, so that a job is seen at most a fifth of its length and a second after its end. By half,
        as it was, a job of five seconds was seen after eight, and kept its place at the provider until then. Around
        the length of other jobs like it they are a twentieth of that: most jobs of a stage take equally long.

        Args:
            usual_s: how long such a job usually takes, where that is known.
            age_s: how long ago this one was submitted.
        """
        pause_s, longest_s = self.first_look.total_seconds(), self.longest_pause.total_seconds()
        while True:
            rest_s = pause_s
            if usual_s is not None:
                due_s, over_s = usual_s * (1 - _SPREAD), usual_s * (1 + _SPREAD)
                if age_s < due_s:
                    rest_s = min(rest_s, due_s - age_s)
                elif age_s < over_s:
                    rest_s = min(rest_s, max(_SHORTEST_S, usual_s * _STEP))
            yield rest_s
            age_s += rest_s
            if rest_s == pause_s:
                pause_s = min(pause_s * _LONGER, longest_s)


@dataclass(frozen=True)
class Order:
    """What a call tells its engine beside the request: nothing of it changes the outcome."""

    call_id: UUID
    """Goes along wherever a provider takes a reference of the client's, so that a lost job can be found again."""
    left_at: datetime
    """When the request leaves, or may have left."""
    webhook_base: str | None = None
    """Public address of `moltpipe webhooks`; None means that polling is all there is."""
    link: Callable[[str], str] | None = None
    """A link, good for some hours, to an object of the store. A secret: sent, never kept."""
    others: frozenset[str] = frozenset()
    """Ids of jobs of the same engine that belong to other calls of this series, or of the last two days."""
    departed: Callable[[], None] = lambda: None
    """Called by an engine that holds its request, once the request has been sent."""


class Whereabouts(Enum):
    """What looking for a lost job found, when it did not find the job."""

    NOT_THERE = "not there"
    """The provider lists its jobs, and this is not among them."""
    UNKNOWN = "unknown"
    """The provider cannot say."""


@dataclass(frozen=True)
class Progress:
    """Not done yet. `fraction` is None where the engine does not say."""

    fraction: float | None = None
    note: str = ""
    at_work: bool = True
    """False while the job stands in the provider's queue."""


@dataclass(frozen=True, repr=False)
class Download:
    """Where a hosted engine has laid its result, until it expires.

    The address may be signed, so it is a secret: `repr` does not show it, and no row, log or error may.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    """Headers that the provider asks for at its own host; never sent on to another one."""

    def __repr__(self) -> str:
        return "Download(…)"


class _Result(BaseModel):
    """What an engine made. Its JSON is kept on the call's row; `file` is not part of it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    billed_usd: Decimal | None = None
    """What the provider says that it charged; None means the quote holds."""


class Written(_Result):
    """A finished episode script."""

    script: EpisodeScript


class _Media(_Result):
    file: Path | Download = Field(exclude=True)
    """A local file, which belongs to the caller, or where to fetch one; in any format FFmpeg reads."""

    @property
    def local(self) -> Path:
        """The file, of a result that is on this machine.

        Raises:
            ValueError: it still lies at the provider.
        """
        if isinstance(self.file, Download):
            raise ValueError("the result still lies at the provider: fetch it first")  # noqa: TRY004 - a state, no type
        return self.file


class Recorded(_Media):
    """A finished line, with word times where the engine gives them."""

    words: tuple[Word, ...] = ()


class Filmed(_Media):
    """A finished take, not conformed yet."""

    credit: str | None = None
    """Whom to name for footage that somebody else shot."""


class Composed(_Media):
    """Finished music."""


RequestT_contra = TypeVar("RequestT_contra", bound=BaseModel, contravariant=True)
ResultT_co = TypeVar("ResultT_co", covariant=True)


class Engine(Protocol[RequestT_contra, ResultT_co]):
    """The verbs are all that an engine knows: claims, limits, retries, money and ingest live in the layer above.

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
    def hosting(self) -> Hosting | None:
        """None for an engine of this machine, whose jobs end with the process and cost nothing."""

    def quote(self, request: RequestT_contra) -> Quote:
        """What the request would cost."""

    async def submit(self, request: RequestT_contra, order: Order) -> ExternalId:
        """Hand the request over; return as soon as the engine has accepted it."""

    async def poll(self, job: ExternalId) -> Progress | ResultT_co:
        """Look once. May wait up to about a second."""

    async def cancel(self, job: ExternalId) -> None:
        """Stop a job; a job that is over, or that cannot be stopped, is no error."""

    async def find(self, request: RequestT_contra, order: Order) -> ExternalId | Whereabouts:
        """Look for a job that may have been accepted although no answer arrived."""


Screenwriter = Engine[EpisodeRequest, Written]
Voice = Engine[LineRequest, Recorded]
Camera = Engine[TakeRequest, Filmed]
Composer = Engine[ScoreRequest, Composed]
