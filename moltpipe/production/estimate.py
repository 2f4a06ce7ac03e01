"""What a series from a script would cost, reckoned from the very requests that production would send.

Here: those requests, made without a ledger, and their quotes added up. Not here: what one request costs (its
engine), keeping to the caps while producing (`ledger.spending`).

The later episodes are not written yet, so the outline drafts them, free (an audio pack has them all); nobody has spoken
yet, so a line's length is assumed from its text. What was sold as an estimate before was a constant per video that
nobody had reckoned.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import NAMESPACE_OID, UUID, uuid5

from pydantic import BaseModel

from moltpipe.engines import registry
from moltpipe.engines.local import Bench
from moltpipe.engines.outline import Outline
from moltpipe.engines.prices import summed
from moltpipe.engines.protocols import Camera, Engine, EpisodeRequest, Quote
from moltpipe.production.filming import request_to
from moltpipe.production.line import Crew, crew
from moltpipe.production.scoring import score_request
from moltpipe.production.screenwriting import episode_request, submitted_script
from moltpipe.production.voicing import line_request
from moltpipe.settings import Settings, SettingsError
from moltpipe.studio.finish import HOUSE_FINISH, Finish
from moltpipe.studio.narration import AUDIO, AudioPack, bible_of, poster_spec_of, reading
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Episode, Production, Series, Shot, Stored, Voiceover
from moltpipe.studio.screenplay import (
    EPISODES_PER_SERIES,
    EpisodeScript,
    PilotScript,
    PosterSpec,
    SeriesBible,
    spoken_line,
)
from moltpipe.studio.timing import spoken_seconds

RequestT = TypeVar("RequestT", bound=BaseModel)
ResultT = TypeVar("ResultT")

NOTHING = Decimal(0)


@dataclass(frozen=True)
class Charge:
    """One request, quoted."""

    stage: str
    engine: str
    model: str
    episode_number: int
    quote: Quote
    essence: str | None
    """What tells a request to a hosted engine from every other; None for an engine of this machine."""


@dataclass(frozen=True)
class Bill:
    """All requests of one stage to one engine and model."""

    stage: str
    engine: str
    model: str
    calls: int
    bases: tuple[str, ...]
    """The reckoning in words, one for each price."""
    known_usd: Decimal
    """What the calls cost whose price is known."""
    unpriced: int
    """Calls whose price nobody knows."""


@dataclass(frozen=True)
class EpisodeEstimate:
    """One episode's share."""

    number: int
    title: str
    """For a later episode that of the draft."""
    seconds: float
    """Length of one cut."""
    known_usd: Decimal
    unpriced: int


@dataclass(frozen=True)
class Estimate:
    """What a series would cost, in US dollars."""

    title: str
    charges: tuple[Charge, ...]
    episodes: tuple[EpisodeEstimate, ...]

    @property
    def known_usd(self) -> Decimal:
        """All that has a price."""
        return sum((one.known_usd for one in self.episodes), NOTHING)

    @property
    def unpriced(self) -> int:
        """Calls whose price nobody knows: while there are any, the sum is only the least that it may be."""
        return sum(one.unpriced for one in self.episodes)

    @property
    def bills(self) -> tuple[Bill, ...]:
        """The charges by stage, engine and model, in the order of the work."""
        groups: dict[tuple[str, str, str], list[Quote]] = defaultdict(list)
        for stage in ("script", "voice", "picture", "music"):
            for one in self.charges:
                if one.stage == stage:
                    groups[stage, one.engine, one.model].append(one.quote)
        return tuple(
            Bill(
                stage=stage,
                engine=engine,
                model=model,
                calls=len(quotes),
                bases=summed(quote.basis for quote in quotes),
                known_usd=_known(quotes),
                unpriced=_unpriced(quotes),
            )
            for (stage, engine, model), quotes in groups.items()
        )


@dataclass(frozen=True)
class Cap:
    """One budget of the settings, held against the estimate."""

    name: str
    """As in the settings, such as `budget_run_usd`."""
    limit_usd: Decimal | None
    """None means that nothing is capped."""
    needed_usd: Decimal
    unpriced: int

    @property
    def fits(self) -> bool | None:
        """Whether it is enough; None where a price is missing: while a cap is set, such a call is not made at all."""
        if self.limit_usd is None:
            return True
        if self.needed_usd > self.limit_usd:
            return False
        return None if self.unpriced else True


def crew_without_keys(settings: Settings, workdir: Path) -> Crew:
    """The engines that the settings and a script's shots name, for quoting alone."""

    def other_camera(name: str) -> Camera:
        lacking = settings.lacking(name, with_key=False)
        if lacking is not None:
            raise SettingsError([f"{lacking}, as a shot's script asks for {name}"])
        return registry.camera(settings, workdir, name)

    return replace(crew(settings, workdir), other_camera=other_camera)


def estimate(
    script: PilotScript | AudioPack,
    document: dict[str, Any],
    engines: Crew,
    profile: Profile,
    *,
    finish: Finish = HOUSE_FINISH,
) -> Estimate:
    """Quote all that a series from this script or audio pack needs. `document` is what was sent.

    Raises:
        EngineError: an engine cannot do one of the requests.
        SettingsError: a shot asks for a camera that has no address.
    """
    series = _series(script, document)
    charges: list[Charge] = []
    episodes: list[EpisodeEstimate] = []
    paid: set[str] = set()
    for number in range(1, EPISODES_PER_SERIES + 1):
        production = Production(series, _episode(series, number, script.title), shots=())
        written: list[Charge] = []
        if number == 1 or isinstance(script, AudioPack):
            drafted = submitted_script(production)
        else:
            request = episode_request(production)
            written.append(_charge("script", engines.screenwriter, request, number))
            drafted = _drafted(request)
        production = _voiced(Production(series, _episode(series, number, drafted.title), shots=_shots(series, drafted)))
        written += (one for one in _made(production, engines, profile, finish) if _is_paid(one, paid))
        charges += written
        quotes = [one.quote for one in written]
        seconds = _seconds(production, engines, profile)
        episodes.append(EpisodeEstimate(number, drafted.title, seconds, _known(quotes), _unpriced(quotes)))
    return Estimate(title=script.title, charges=tuple(charges), episodes=tuple(episodes))


def caps(found: Estimate, *, run: Decimal | None, series: Decimal | None, day: Decimal | None) -> tuple[Cap, ...]:
    """The budgets held against the estimate. A run makes one episode; a day may have to bear the whole series."""
    dearest = max(found.episodes, key=lambda one: (one.known_usd, one.unpriced))
    unpriced = max(one.unpriced for one in found.episodes)
    return (
        Cap("budget_run_usd", run, dearest.known_usd, unpriced),
        Cap("budget_series_usd", series, found.known_usd, found.unpriced),
        Cap("budget_day_usd", day, found.known_usd, found.unpriced),
    )


def _made(production: Production, engines: Crew, profile: Profile, finish: Finish) -> Iterator[Charge]:
    """The requests of an episode whose shots are written, in the order of the work."""
    number = production.episode.number
    for shot in production.shots:
        line = spoken_line(shot.audio)
        if line is not None:
            yield _charge("voice", engines.voice, line_request(production.series, line), number)
    filmed = production.series.medium != AUDIO
    for variant_number in range(1, production.episode.variants_wanted + 1 if filmed else 1):
        for shot in production.shots:
            camera = engines.camera_for(shot, voiced=shot.id in production.voiceovers)
            request = request_to(camera, production, shot, variant_number, profile, finish=finish)
            yield _charge("picture", camera, request, number)
    if engines.composer is not None:
        yield _charge("music", engines.composer, score_request(production, profile), number)


def _seconds(production: Production, engines: Crew, profile: Profile) -> float:
    """Length of one cut. Music lengthens a narration: it is heard before the first word and after the last."""
    if production.series.medium == AUDIO:
        voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
        return reading(production.shots, voices, scored=engines.composer is not None).seconds
    return score_request(production, profile).seconds


def _charge(stage: str, engine: Engine[RequestT, ResultT], request: RequestT, episode_number: int) -> Charge:
    hosted = engine.hosting is not None
    essence = f"{stage} {engine.name} {engine.model} {request.model_dump_json()}" if hosted else None
    return Charge(stage, engine.name, engine.model, episode_number, engine.quote(request), essence)


def _is_paid(charge: Charge, paid: set[str]) -> bool:
    """Whether a request is made at all: a hosted engine is not asked twice for the very same in one series."""
    if charge.essence is None:
        return True
    is_new = charge.essence not in paid
    paid.add(charge.essence)
    return is_new


def _known(quotes: Iterable[Quote]) -> Decimal:
    return sum((quote.cost_usd for quote in quotes if quote.cost_usd is not None), NOTHING)


def _unpriced(quotes: Iterable[Quote]) -> int:
    return sum(quote.cost_usd is None for quote in quotes)


# A series that is in no ledger ---------------------------------------------------------------------------------------


def _series(script: PilotScript | AudioPack, document: dict[str, Any]) -> Series:
    ident = uuid5(NAMESPACE_OID, script.model_dump_json())
    if isinstance(script, AudioPack):
        medium, bible = AUDIO, SeriesBible.model_validate(bible_of(document))
    else:
        medium, bible = "video", script.series_bible
    return Series(
        id=ident,
        script_id=ident,
        slug="",
        title=script.title,
        logline=script.logline,
        genre=script.genre.value,
        medium=medium,
        bible=bible,
        poster_spec=script.poster_spec or PosterSpec.model_validate(poster_spec_of(document)),
        poster_key=None,
        script_data=document,
        agent_name="",
    )


def _episode(series: Series, number: int, title: str) -> Episode:
    return Episode(
        id=uuid5(series.id, f"episode {number}"),
        series_id=series.id,
        number=number,
        title=title,
        partition_key="",
        medium=series.medium,
    )


def _shots(series: Series, script: EpisodeScript) -> tuple[Shot, ...]:
    return tuple(
        Shot(
            id=uuid5(series.id, f"episode {script.episode_number} shot {number}"),
            number=number,
            prompt=shot.prompt,
            audio=shot.audio,
            gen_clip_seconds=shot.gen_clip_seconds,
            duration_seconds=shot.duration_seconds,
            strategy=shot.edit_extend_strategy,
            kind=shot.kind,
            engine=shot.engine,
            transition=shot.transition,
        )
        for number, shot in enumerate(script.shots, start=1)
    )


def _voiced(production: Production) -> Production:
    """The episode with a voiceover for every line, as long as its text lets expect."""
    voiceovers: dict[UUID, Voiceover] = {}
    for shot in production.shots:
        line = spoken_line(shot.audio)
        if line is not None:
            voiceovers[shot.id] = Voiceover(
                id=shot.id,
                shot_id=shot.id,
                take_number=1,
                media=Stored(key=f"voiceovers/{shot.id}/1.wav", sha256="", bytes=0),
                duration_seconds=spoken_seconds(line.text),
                words=(),
            )
    return Production(production.series, production.episode, production.shots, voiceovers)


def _drafted(request: EpisodeRequest) -> EpisodeScript:
    """The episode as the outline writes it, whoever will write it in the end: it needs no file and no time."""
    return Outline(Path()).make(request, Bench(stem=Path(), stop=threading.Event())).script
