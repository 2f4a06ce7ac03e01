"""Adopting a MOLT database: what each of its rows becomes here, and which of them break a rule.

Here: the decisions, pure, over rows that were read whole. Not here: reading the old database and writing into ours
(`ledger.molt`), mending what was brought over (`ledger.repairs`).

The old system had no CHECKs, few foreign keys, and operators who wrote to it by hand. So nothing is refused whole: a
row that breaks a rule is named, with what was done with it. What happened stays as it happened: a script that was
selected and got no series is selected without a series here too, and a period that was processed before its end says
so, for the checks to find. What is still to happen keeps to our rules: a script that our door would turn down must not
win a vote, so it becomes a draft.

The alternative was to give every orphan its series on the way in. It would spend money on an old mistake without
anybody's word, and leave no trace of it.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast
from uuid import UUID, uuid5

from pydantic import JsonValue, ValidationError

from moltpipe.studio.admission import read
from moltpipe.studio.documents import CleanCopy, InvalidJson, Refusal, Unmanageable, parse_json, shown
from moltpipe.studio.keys import slug
from moltpipe.studio.molt import (
    TABLES,
    Molt,
    OldPeriod,
    OldRow,
    OldScript,
    OldSeries,
    OldStudio,
    OldVote,
    digest,
    fields_that_differ,
)
from moltpipe.studio.moments import spelled
from moltpipe.studio.narration import AUDIO, AudioPack, bible_of, poster_spec_of
from moltpipe.studio.records import Candidate, Period
from moltpipe.studio.screenplay import LEGACY_POSTER_KEY, Genre, PosterSpec, SeriesBible
from moltpipe.studio.voting import Fate, Tally, VotingRules, WinnerScope, declare, tally

OLD_RULES = VotingRules(winner_scope=WinnerScope.PERIOD)
"""How the old system's code chose: one winner over all genres. It asked for no votes at all, which ours cannot say."""

AS_IT_IS = "adopted as it is"
AS_DRAFT = "adopted as draft"
LEFT_OUT = "left out"
KEPT = "kept here as it was adopted"

SELECTED_HAS_SERIES = "ck_scripts_selected_has_series"
PROCESSED_WHEN_OVER = "ck_voting_periods_processed_when_over"
PROCESSED_WITH_OUTCOME = "ck_voting_periods_processed_with_outcome"

_WAITING = ("submitted", "voting")
_DECIDED = ("selected", "rejected")
# "produced" meant that a series row exists, not that there are videos.
_STATUSES = {one: one for one in ("draft", *_WAITING, *_DECIDED)} | {"produced": "selected"}
_GENRES = {re.sub("[^a-z]", "", genre.value): genre.value for genre in Genre}
_NO_GENRE = "unknown"


@dataclass(frozen=True)
class NewStudio:
    """A row of our `studios`."""

    id: UUID
    slug: str
    name: str
    genre: str
    agent_name: str


@dataclass(frozen=True)
class NewPeriod:
    """A row of our `voting_periods`."""

    id: UUID
    period_type: str
    starts_at: datetime
    ends_at: datetime
    is_active: bool
    is_processed: bool
    processed_at: datetime | None
    outcome: dict[str, Any] | None

    @property
    def is_premature(self) -> bool:
        """It was processed, and not known to have been over by then."""
        return self.is_processed and (self.processed_at is None or self.processed_at < self.ends_at)


@dataclass(frozen=True)
class NewScript:
    """A row of our `scripts`."""

    id: UUID
    studio_id: UUID
    title: str
    logline: str
    genre: str
    medium: str
    script_data: dict[str, Any]
    pilot_status: str
    voting_period_id: UUID | None
    series_id: UUID | None
    submitted_at: datetime | None

    @property
    def is_orphan(self) -> bool:
        """It was selected, and there is no series."""
        return self.pilot_status == "selected" and self.series_id is None


@dataclass(frozen=True)
class NewSeries:
    """A row of our `limited_series`."""

    id: UUID
    script_id: UUID
    studio_id: UUID
    slug: str
    title: str
    logline: str
    genre: str
    medium: str
    series_bible: dict[str, Any]
    poster_spec: dict[str, Any]
    created_at: datetime


@dataclass(frozen=True)
class NewVote:
    """A row of our `script_votes`."""

    script_id: UUID
    agent_name: str
    value: int
    cast_at: datetime


@dataclass(frozen=True)
class Remark:
    """A row of the old database that breaks a rule, and what was done with it."""

    table: str
    id: str
    field: str
    value: JsonValue
    rule: str
    done: str

    def as_json(self) -> dict[str, Any]:
        """The shape of `moltpipe adopt --json`."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Memory:
    """What adoptions brought over, so that what changed in the old database since can be told."""

    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By table and id, the digest of the old row."""
    votes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By script and agent."""


@dataclass(frozen=True)
class Here:
    """What our ledger has already."""

    slugs: frozenset[str] = frozenset()
    """Of studios."""
    studios: frozenset[UUID] = frozenset()
    periods: tuple[Period, ...] = ()
    scripts: Mapping[UUID, str] = field(default_factory=dict)
    """Status by id."""
    series: Mapping[UUID, UUID] = field(default_factory=dict)
    """Script by series."""
    memory: Memory = field(default_factory=Memory)
    """Of adoptions from any database."""
    memory_of_it: Memory = field(default_factory=Memory)
    """Of those from the one that is read now."""


@dataclass(frozen=True)
class Plan:
    """What an adoption writes, and what it has to say."""

    studios: tuple[NewStudio, ...]
    periods: tuple[NewPeriod, ...]
    scripts: tuple[NewScript, ...]
    series: tuple[NewSeries, ...]
    votes: tuple[NewVote, ...]
    memory: Memory
    remarks: tuple[Remark, ...]
    """Rows that break a rule, of those that were not here before."""
    changed: tuple[Remark, ...]
    """Rows that are not any more what they were when they were adopted."""
    already_here: Mapping[str, int]
    not_for_us: int
    """Texts, links and drafts that were deleted: no pilots, and no mistake."""

    @property
    def adopted(self) -> dict[str, int]:
        """How many rows are written, by table."""
        return {
            "studios": len(self.studios),
            "voting_periods": len(self.periods),
            "scripts": len(self.scripts),
            "limited_series": len(self.series),
            "script_votes": len(self.votes),
        }

    @property
    def breaks(self) -> tuple[str, ...]:
        """Constraints that a row of this plan does not keep to, so that they can hold for new rows only."""
        broken = {
            SELECTED_HAS_SERIES: any(one.is_orphan for one in self.scripts),
            PROCESSED_WHEN_OVER: any(one.is_premature for one in self.periods),
            PROCESSED_WITH_OUTCOME: any(one.is_processed and one.outcome is None for one in self.periods),
        }
        return tuple(name for name, is_broken in broken.items() if is_broken)


@dataclass(frozen=True)
class Judgement:
    """What our door says to an old script."""

    document: dict[str, Any]
    """As our table can hold it. What cannot be read is kept as the text that it is."""
    medium: str
    refusals: tuple[Refusal, ...]


def judge_document(text: str | None) -> Judgement:
    """Judge a script or an audio pack as the old column holds it."""
    if not text:
        return Judgement({}, "video", (Refusal(path="", rule="is missing"),))
    admission = read(text)
    medium = AUDIO if isinstance(admission.script, AudioPack) else "video"
    if admission.script is not None:
        return Judgement(admission.document, medium, ())
    readable = _object(text)
    return Judgement({"unreadable": text} if readable is None else readable, medium, admission.refusals)


def plan_adoption(old: Molt, here: Here, now: datetime, judgements: Mapping[UUID, Judgement] | None = None) -> Plan:
    """What is to be written for every row of the old database that is not here yet.

    Rows that are here stay as they are. The order of the rows makes no difference. `now` is when it is done.
    `judgements` are those that were made before, by script: each takes a millisecond or more, and whoever plans may be
    keeping others from their work.
    """
    return _Adoption(old, here, now, judgements or {}).plan()


def genre_of(text: object) -> str | None:
    """The genre that a text means, such as `Sci-Fi` or `scifi`; None when it means none of the ten."""
    return _GENRES.get(re.sub("[^a-z]", "", text.casefold())) if isinstance(text, str) else None


class _Adoption:
    """Goes through the tables in the order in which their rows refer to each other, and takes notes on the way."""

    def __init__(self, old: Molt, here: Here, now: datetime, judgements: Mapping[UUID, Judgement]) -> None:
        self._old = old
        self._here = here
        self._now = now
        self._remarks: list[Remark] = []
        self._agents = {one.id: one.name.strip() for one in old.agents}
        self._pilots = sorted((one for one in old.scripts if _is_for_us(one)), key=lambda one: (one.created_at, one.id))
        self._judgements = dict(judgements)
        self._old_scripts = {one.id: one for one in self._pilots}
        self._of_studio = _grouped(self._pilots, "studio_id")
        self._of_period = _grouped(self._pilots, "voting_period_id")
        self._of_series = _grouped(self._pilots, "series_id")
        self._not_for_us = {one.id for one in old.scripts} - set(self._old_scripts)
        self._old_series = {one.id: one for one in sorted(old.series, key=lambda one: (one.created_at, one.id))}
        self._periods_here = {one.id for one in here.periods}
        self._studios: dict[UUID, NewStudio] = {}
        self._periods: dict[UUID, OldPeriod] = {}
        """Those that are here or will be."""
        self._owners: dict[UUID, UUID] = dict(here.series)
        """The script of every series that is here or will be."""
        self._scripts: dict[UUID, NewScript] = {}
        self._votes: dict[UUID, list[NewVote]] = defaultdict(list)
        self._given: dict[str, dict[str, int]] = defaultdict(dict)

    def plan(self) -> Plan:
        for studio in sorted(self._old.studios, key=lambda one: (one.name, one.id)):
            self._studios[studio.id] = self._studio(studio)
        self._choose_periods()
        self._choose_series()
        for script in self._pilots:
            self._take_script(script)
        series = [self._series(one) for one in self._old_series.values() if self._is_new(one)]
        for vote in sorted(self._old.votes, key=lambda one: one.id):
            self._take_vote(vote)
        self._compare_counters()
        periods = [self._period(one) for one in self._periods.values() if one.id not in self._periods_here]
        studios = [one for one in self._studios.values() if one.id not in self._here.studios]
        return Plan(
            studios=tuple(studios),
            periods=tuple(periods),
            scripts=tuple(self._scripts.values()),
            series=tuple(series),
            votes=tuple(vote for given in self._votes.values() for vote in given),
            memory=self._memory((studios, periods, tuple(self._scripts.values()), series)),
            remarks=tuple(sorted(self._remarks, key=_reading_order)),
            changed=tuple(sorted(self._changed(), key=_reading_order)),
            already_here=self._already_here(),
            not_for_us=self._old.posts + len(self._old.scripts) - len(self._pilots),
        )

    def _note(self, row: OldRow, name: str, rule: str, done: str, *, value: object = ...) -> None:
        told = getattr(row, name) if value is ... else value
        self._remarks.append(_remark(row, name, told, rule, done))

    def _judge(self, old: OldScript) -> Judgement:
        if old.id not in self._judgements:
            self._judgements[old.id] = judge_document(old.script_data)
        return self._judgements[old.id]

    # --- Studios ----------------------------------------------------------------------------------------

    def _studio(self, old: OldStudio) -> NewStudio:
        is_new = old.id not in self._here.studios
        own = self._of_studio[old.id]
        agent = self._agents.get(old.agent_id) if old.agent_id else None
        if agent is None:
            authors = [self._agents[one.author_id] for one in own if one.author_id in self._agents]
            agent = authors[-1] if authors else f"unknown-{old.id.hex[:8]}"
            if is_new:
                self._note(old, "agent_id", "a studio belongs to an agent", f"adopted under the name of {agent}")
        category = next((one.slug for one in self._old.categories if one.id == old.category_id), None)
        genre = genre_of(category)
        if genre is None:
            written = [genre_of(self._judge(one).document.get("genre")) for one in own] if is_new else []
            genre = next((one for one in reversed(written) if one), _NO_GENRE)
            if is_new:
                rule = "a studio makes one of the ten genres"
                self._note(old, "category_id", rule, f"adopted with the genre {genre}", value=category)
        return NewStudio(old.id, self._free_slug(old.name) if is_new else "", old.name, genre, agent)

    def _free_slug(self, name: str) -> str:
        base = slug(name)
        taken = self._here.slugs | {one.slug for one in self._studios.values()}
        numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
        return next(one for one in (base, *numbered) if one not in taken)

    # --- Periods ----------------------------------------------------------------------------------------

    def _choose_periods(self) -> None:
        """Those that our table can hold: no two agent voting periods overlap, and a constraint says so.

        What scripts stood in goes before what nobody stood in.
        """
        taken = [(one.starts_at, one.ends_at, one.id) for one in self._here.periods if one.period_type != "clip_voting"]
        for old in sorted(self._old.periods, key=lambda one: (not self._of_period[one.id], one.starts_at, one.id)):
            other = next((one[2] for one in taken if one[0] < old.ends_at and old.starts_at < one[1]), None)
            if old.id in self._periods_here:
                self._periods[old.id] = old
            elif old.period_type != "agent_voting":
                self._note(old, "period_type", "expected agent_voting: clips are voted on episode by episode", LEFT_OUT)
            elif old.ends_at <= old.starts_at:
                self._note(old, "ends_at", f"a period ends after it starts, {spelled(old.starts_at)}", LEFT_OUT)
            elif other is not None:
                self._note(old, "starts_at", f"no two agent voting periods overlap: period {other} is there", LEFT_OUT)
            else:
                self._periods[old.id] = old
                taken.append((old.starts_at, old.ends_at, old.id))

    def _period(self, old: OldPeriod) -> NewPeriod:
        standing = (self._scripts.get(one.id) for one in self._of_period[old.id])
        stood = [one for one in standing if one is not None and one.voting_period_id == old.id]
        if old.is_active and old.is_processed:
            self._note(old, "is_active", "a period that is processed is not open", "adopted as not open")
        made = NewPeriod(
            id=old.id,
            period_type=old.period_type,
            starts_at=old.starts_at,
            ends_at=old.ends_at,
            is_active=old.is_active and not old.is_processed,
            is_processed=old.is_processed,
            processed_at=self._processed_at(old) if old.is_processed else None,
            outcome=self._outcome(old, stood) if old.is_processed else None,
        )
        winners = [one for one in stood if one.pilot_status == "selected"]
        if len(winners) > 1:
            rule = "one script wins a period of the old system"
            self._note(old, "winners", rule, AS_IT_IS, value=", ".join(sorted(str(one.id) for one in winners)))
        if made.is_premature:
            rule = f"a period is processed when it is over, at {spelled(old.ends_at)} or later"
            self._note(old, "processed_at", rule, AS_IT_IS, value=made.processed_at)
        if made.is_processed and made.outcome is None:
            self._note(old, "outcome", "a period that is processed has an outcome", AS_IT_IS, value=None)
        return made

    def _processed_at(self, old: OldPeriod) -> datetime | None:
        """When the period was processed, as far as its scripts and series witness it: nobody wrote it down."""
        decided = [one for one in self._of_period[old.id] if _STATUSES.get(one.pilot_status or "") in _DECIDED]
        series = [self._old_series[one.series_id] for one in decided if one.series_id in self._old_series]
        witnesses = (
            [one.updated_at for one in decided if one.updated_at],
            [one.created_at for one in series],
            [one.produced_at for one in decided if one.produced_at],
        )
        return next((max(times) for times in witnesses if times), None)

    def _outcome(self, old: OldPeriod, stood: Sequence[NewScript]) -> dict[str, Any] | None:
        """The outcome as the rows tell it; None where they do not tell a whole one."""
        fates = {one.id: one.pilot_status for one in stood}
        came_before = any(one.id in self._here.scripts for one in self._of_period[old.id])
        if came_before or any(one.is_orphan for one in stood) or not set(fates.values()) <= set(_DECIDED):
            return None
        counted = tally((self._candidate(one) for one in stood), OLD_RULES)
        ranking = tuple(dataclasses.replace(one, fate=Fate(fates[one.candidate.script_id])) for one in counted.ranking)
        series_ids = {one.id: one.series_id for one in stood if one.series_id is not None}
        period = Period(old.id, old.period_type, old.starts_at, old.ends_at, is_active=False, is_processed=True)
        outcome = declare(period, Tally(ranking), OLD_RULES, series_ids)
        return outcome.model_copy(update={"reconstructed_at": self._now}).to_json()

    def _candidate(self, script: NewScript) -> Candidate:
        values = Counter(vote.value for vote in self._votes[script.id])
        return Candidate(
            script_id=script.id,
            title=script.title,
            genre=script.genre,
            agent_name=self._studios[script.studio_id].agent_name,
            upvotes=values[1],
            downvotes=values[-1],
            # Whoever was decided about was submitted.
            submitted_at=cast("datetime", script.submitted_at),
        )

    # --- Series -----------------------------------------------------------------------------------------

    def _choose_series(self) -> None:
        """Find the script of every series. The old tables have it the other way round, and not always."""
        with_series_here = set(self._here.series.values())
        for old in self._old_series.values():
            if old.id in self._here.series:
                continue
            linked = [one for one in self._of_series[old.id] if one.studio_id in self._studios]
            if old.medium == AUDIO or (not linked and old.audio_pack):
                self._make_script_of(old)
            elif not linked:
                rule = "a limited series has the script that it was made of"
                self._note(old, "script_id", rule, LEFT_OUT, value=None)
            elif linked[0].id in with_series_here:
                self._note(old, "script_id", "a script has one series, and has it here", LEFT_OUT, value=linked[0].id)
            else:
                self._owners[old.id] = linked[0].id

    def _make_script_of(self, old: OldSeries) -> None:
        """Give an audio series the script that the old system did without: its pack came in by another door."""
        studio = self._studios.get(old.studio_id) if old.studio_id else None
        if studio is None:
            self._note(old, "studio_id", "a series belongs to a studio that is there", LEFT_OUT)
            return
        judgement = judge_document(old.audio_pack)
        made = NewScript(
            id=uuid5(old.id, "script"),
            studio_id=studio.id,
            title=old.title,
            logline=old.logline,
            genre=genre_of(old.genre) or studio.genre,
            medium=AUDIO,
            script_data=judgement.document,
            pilot_status="selected",
            voting_period_id=None,
            series_id=old.id,
            submitted_at=old.created_at,
        )
        self._owners[old.id] = made.id
        if made.id not in self._here.scripts:
            self._scripts[made.id] = made
        rule = "a limited series has the script that it was made of"
        self._note(old, "script_id", rule, f"adopted with a script {made.id}, made from its audio pack", value=None)
        for refusal in judgement.refusals:
            place = f"audio_pack.{refusal.path}" if refusal.path else "audio_pack"
            self._note(old, place, refusal.rule, AS_IT_IS, value=refusal.value)

    def _is_new(self, old: OldSeries) -> bool:
        return old.id in self._owners and old.id not in self._here.series

    def _series(self, old: OldSeries) -> NewSeries:
        script_id = self._owners[old.id]
        script = self._scripts.get(script_id)
        document = script.script_data if script else {}
        studio = self._studio_of_series(old, script_id)
        medium = AUDIO if old.medium == AUDIO or (script is not None and script.medium == AUDIO) else "video"
        if old.medium != medium:
            self._note(old, "medium", "expected video or audio", f"adopted as {medium}")
        genre = genre_of(old.genre)
        if genre is None:
            genre = studio.genre
            self._note(old, "genre", "expected one of the ten genres", f"adopted with the genre {genre}")
        videos = self._old.episodes_with_media.get(old.id, 0)
        if videos:
            rule = (
                "media of the old system stay there: `moltpipe repair` has its episodes made anew, which may cost money"
            )
            self._note(old, "episodes", rule, "adopted without episodes", value=f"{videos} with video or sound")
        return NewSeries(
            id=old.id,
            script_id=script_id,
            studio_id=studio.id,
            slug=slug(old.title),
            title=old.title,
            logline=old.logline,
            genre=genre,
            medium=medium,
            series_bible=self._bible(old, document, medium),
            poster_spec=self._poster(old, document, medium),
            created_at=old.created_at,
        )

    def _studio_of_series(self, old: OldSeries, script_id: UUID) -> NewStudio:
        named = self._studios.get(old.studio_id) if old.studio_id else None
        if named is not None:
            return named
        # A series without a studio of its own has a script, whose studio is there: `_choose_series` saw to it.
        studio = self._studios[cast("UUID", self._old_scripts[script_id].studio_id)]
        self._note(old, "studio_id", "a series belongs to a studio that is there", f"adopted under {studio.name}")
        return studio

    def _bible(self, old: OldSeries, document: dict[str, Any], medium: str) -> dict[str, Any]:
        told = _object(old.series_bible)
        bible: Any = document.get("series_bible") if told is None else told
        if medium == AUDIO:
            bible = bible_of({"logline": old.logline, "series_bible": bible or {}})
        return self._readable(old, "series_bible", bible, SeriesBible, from_script=told is None)

    def _poster(self, old: OldSeries, document: dict[str, Any], medium: str) -> dict[str, Any]:
        told = _object(old.poster_spec)
        spec: Any = document.get("poster_spec", document.get(LEGACY_POSTER_KEY)) if told is None else told
        if medium == AUDIO:
            spec = poster_spec_of({"logline": old.logline, "poster_spec": spec or None})
        return self._readable(old, "poster_spec", spec, PosterSpec, from_script=told is None)

    def _readable(
        self, old: OldSeries, name: str, spec: object, shape: type[SeriesBible | PosterSpec], *, from_script: bool
    ) -> dict[str, Any]:
        try:
            shape.model_validate(spec)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            self._note(old, name, f"cannot be worked by: {f'{place}: ' if place else ''}{first['msg']}", AS_IT_IS)
        else:
            if from_script and getattr(old, name) is not None:
                self._note(old, name, "expected a JSON object", "adopted with that of its script")
        return spec if isinstance(spec, dict) else {}

    # --- Scripts ----------------------------------------------------------------------------------------

    def _take_script(self, old: OldScript) -> None:
        if old.id in self._here.scripts:
            return
        studio = self._studios.get(old.studio_id) if old.studio_id else None
        if studio is None:
            self._note(old, "studio_id", "a script belongs to a studio that is there", LEFT_OUT)
            return
        judgement = self._judge(old)
        document = judgement.document
        status = self._status(old, judgement, self._own_series(old))
        made = NewScript(
            id=old.id,
            studio_id=studio.id,
            title=old.title,
            logline=old.logline or _text(document.get("logline")),
            genre=self._genre(old, document, studio),
            medium=judgement.medium,
            script_data=document,
            pilot_status=status,
            voting_period_id=self._period_of(old, status),
            series_id=self._own_series(old),
            submitted_at=self._submitted_at(old, status),
        )
        if made.is_orphan:
            self._note_orphan(old)
        self._scripts[made.id] = made

    def _own_series(self, old: OldScript) -> UUID | None:
        """The series that the script has here. One that is only heard is nobody's video."""
        if old.series_id not in self._owners:
            return None
        series = self._old_series.get(old.series_id)
        return None if series is not None and series.medium == AUDIO else old.series_id

    def _status(self, old: OldScript, judgement: Judgement, series_id: UUID | None) -> str:
        said = old.pilot_status or ""
        status = _STATUSES.get(said)
        if series_id is not None and status != "selected":
            self._note(old, "pilot_status", "a script that became a series is selected", "adopted as selected")
            return "selected"
        if status is None:
            self._note(old, "pilot_status", f"expected one of {', '.join(_STATUSES)}", AS_DRAFT)
            return "draft"
        demoted = AS_DRAFT if status in _WAITING else AS_IT_IS
        if status == "draft":
            return status
        objections = [
            *self._objections(old),
            *((f"script_data.{one.path}".rstrip("."), one.value, one.rule) for one in judgement.refusals),
        ]
        for place, value, rule in objections:
            self._note(old, place, rule, demoted, value=value)
        if objections and status in _WAITING:
            return "draft"
        return self._standing(old, status)

    def _objections(self, old: OldScript) -> list[tuple[str, object, str]]:
        found: list[tuple[str, object, str]] = []
        if old.is_deleted:
            found.append(("is_deleted", True, "a script that was deleted stands for no vote"))
        if old.script_type != "pilot":
            found.append(("script_type", old.script_type, "only a pilot stands for a vote"))
        return found

    def _standing(self, old: OldScript, status: str) -> str:
        """`voting` needs its period; without one the script waits for the next."""
        if status != "voting":
            return status
        period = self._periods.get(old.voting_period_id) if old.voting_period_id else None
        if period is None:
            self._note(old, "voting_period_id", "a script is voted on in a period that is here", "adopted as submitted")
            return "submitted"
        if period.is_processed:
            self._note(old, "pilot_status", "nobody is left voting when a period is processed", AS_IT_IS)
        return status

    def _period_of(self, old: OldScript, status: str) -> UUID | None:
        if old.voting_period_id is None or status == "draft":
            return None
        if status == "submitted":
            if old.pilot_status == "submitted":
                rule = "a script that waits for its vote stands in no period"
                self._note(old, "voting_period_id", rule, "adopted without a period")
            return None
        if old.voting_period_id not in self._periods:
            rule = "a script stood in a period that is here"
            self._note(old, "voting_period_id", rule, "adopted without a period")
            return None
        return old.voting_period_id

    def _submitted_at(self, old: OldScript, status: str) -> datetime | None:
        if status == "draft" or old.submitted_at is not None:
            return old.submitted_at
        done = f"adopted as submitted when it was made, {spelled(old.created_at)}"
        self._note(old, "submitted_at", "a script that is no draft was submitted", done)
        return old.created_at

    def _genre(self, old: OldScript, document: dict[str, Any], studio: NewStudio) -> str:
        written = genre_of(document.get("genre"))
        if written not in (None, studio.genre) and studio.genre != _NO_GENRE and old.pilot_status != "draft":
            rule = f"a script has the genre of its studio, {studio.genre}"
            self._note(old, "script_data.genre", rule, AS_IT_IS, value=document["genre"])
        return written or studio.genre

    def _note_orphan(self, old: OldScript) -> None:
        rule = "a script that was selected has its limited series"
        series = self._old_series.get(old.series_id) if old.series_id else None
        if series is not None and series.medium == AUDIO:
            rule += "; this one was linked to one that is only heard"
        elif old.series_id is not None:
            rule += "; this one names one that is not here"
        self._note(old, "series_id", rule, f"{AS_IT_IS}, without a series")

    # --- Votes ------------------------------------------------------------------------------------------

    def _take_vote(self, old: OldVote) -> None:
        script_id, agent_id = str(old.script_id), str(old.agent_id)
        if agent_id in self._here.memory.votes.get(script_id, {}):
            return
        script = self._scripts.get(old.script_id)
        status = script.pilot_status if script else self._here.scripts.get(old.script_id)
        agent = self._agents.get(old.agent_id)
        if status is None or agent is None or abs(old.value) != 1:
            self._refuse_vote(old, has_script=status is not None, has_agent=agent is not None)
        elif script is None and status in _DECIDED:
            self._note(old, "script_id", f"the script was decided about here: it is {status}", LEFT_OUT)
        elif agent == self._agent_of(old.script_id) and status not in _DECIDED:
            self._note(old, "agent_id", f"nobody votes on their own script, as {agent} did", LEFT_OUT)
        else:
            if agent == self._agent_of(old.script_id):
                self._note(old, "agent_id", f"nobody votes on their own script, as {agent} did", AS_IT_IS)
            cast_at = old.created_at or self._cast_at(old.script_id)
            self._votes[old.script_id].append(NewVote(old.script_id, agent, old.value, cast_at))
            self._given[script_id][agent_id] = old.value

    def _refuse_vote(self, old: OldVote, *, has_script: bool, has_agent: bool) -> None:
        if not has_script:
            if old.script_id not in self._not_for_us:
                self._note(old, "script_id", "a vote is on a script that is here", LEFT_OUT)
        elif not has_agent:
            self._note(old, "agent_id", "a vote is of an agent that is there", LEFT_OUT)
        else:
            self._note(old, "value", "a vote is 1 or -1", LEFT_OUT)

    def _agent_of(self, script_id: UUID) -> str | None:
        """Who filed a script."""
        script = self._old_scripts.get(script_id)
        studio = self._studios.get(script.studio_id) if script and script.studio_id else None
        return studio.agent_name if studio else None

    def _cast_at(self, script_id: UUID) -> datetime:
        """When a vote of which nobody wrote down the time can have been cast at the earliest."""
        script = self._old_scripts[script_id]
        return script.submitted_at or script.created_at

    def _compare_counters(self) -> None:
        """Whether the old system's counters say what its votes say. Who won there won by the counters."""
        counted: dict[UUID, Counter[int]] = defaultdict(Counter)
        for vote in self._old.votes:
            counted[vote.script_id][vote.value] += 1
        for script_id in self._scripts:
            old = self._old_scripts.get(script_id)
            votes = counted[script_id]
            if old is not None and (old.upvotes, old.downvotes) != (votes[1], votes[-1]):
                rule = f"its votes count {votes[1]} up and {votes[-1]} down"
                said = f"{old.upvotes} up, {old.downvotes} down"
                self._note(old, "upvotes", rule, "adopted with the votes, counted anew", value=said)

    # --- What was here before ---------------------------------------------------------------------------

    def _rows(self) -> dict[str, Mapping[UUID, OldStudio | OldPeriod | OldScript | OldSeries]]:
        """The old rows that have an id of their own, by table."""
        return {
            "studios": {one.id: one for one in self._old.studios},
            "voting_periods": {one.id: one for one in self._old.periods},
            "scripts": self._old_scripts,
            "limited_series": self._old_series,
        }

    def _memory(self, written: Iterable[Iterable[NewStudio | NewPeriod | NewScript | NewSeries]]) -> Memory:
        rows = {
            table: {str(one.id): digest(old[one.id]) for one in made if one.id in old}
            for (table, old), made in zip(self._rows().items(), written, strict=True)
        }
        return Memory(rows, {script_id: dict(votes) for script_id, votes in self._given.items()})

    def _already_here(self) -> dict[str, int]:
        here: dict[str, Iterable[UUID]] = {
            "studios": self._here.studios,
            "voting_periods": self._periods_here,
            "scripts": self._here.scripts,
            "limited_series": self._here.series,
        }
        known = self._here.memory.votes
        counts = {table: len(set(rows) & set(here[table])) for table, rows in self._rows().items()}
        votes = sum(str(one.agent_id) in known.get(str(one.script_id), {}) for one in self._old.votes)
        return counts | {"script_votes": votes}

    def _changed(self) -> list[Remark]:
        """What was written in the old database after it was brought over. What is here stays."""
        changed = []
        for table, rows in self._rows().items():
            before = self._here.memory.rows.get(table, {})
            changed += [
                _remark(row, name, getattr(row, name), "it was another when it was adopted", KEPT)
                for row_id, row in rows.items()
                for name in fields_that_differ(before.get(str(row_id), digest(row)), row)
            ]
            gone = set(self._here.memory_of_it.rows.get(table, {})) - {str(row_id) for row_id in rows}
            changed += [Remark(table, row_id, "id", None, "it is gone from the old database", KEPT) for row_id in gone]
        return changed + self._changed_votes()

    def _changed_votes(self) -> list[Remark]:
        changed = []
        there = {(str(one.script_id), str(one.agent_id)): one for one in self._old.votes}
        for (script_id, agent_id), vote in there.items():
            before = self._here.memory.votes.get(script_id, {}).get(agent_id)
            if before is not None and before != vote.value:
                changed.append(_remark(vote, "value", vote.value, f"it was {before} when it was adopted", KEPT))
        table = TABLES[OldVote]
        for script_id, votes in self._here.memory_of_it.votes.items():
            gone = (agent_id for agent_id in votes if (script_id, agent_id) not in there)
            rule = "it is gone from the old database"
            changed += [Remark(table, f"{script_id}/{one}", "id", None, rule, KEPT) for one in gone]
        return changed


def _is_for_us(script: OldScript) -> bool:
    """Whether a row of `scripts` is a pilot, or was treated as one: the old queries never looked at its type."""
    if script.series_id is not None or script.pilot_status not in (None, "draft"):
        return True
    return script.script_type == "pilot" and not script.is_deleted


def _grouped(pilots: Iterable[OldScript], column: str) -> Mapping[UUID, list[OldScript]]:
    """By what a column refers to, in their order."""
    groups: dict[UUID, list[OldScript]] = defaultdict(list)
    for one in pilots:
        groups[getattr(one, column)].append(one)
    return groups


def _object(text: str | None) -> dict[str, Any] | None:
    """A JSON object as our table can hold it; None when the text is none."""
    try:
        document = parse_json(text or "")
        return CleanCopy().of(document) if isinstance(document, dict) else None
    except (InvalidJson, Unmanageable):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _remark(row: OldRow, name: str, value: object, rule: str, done: str) -> Remark:
    told = spelled(value) if isinstance(value, datetime) else shown(value)
    return Remark(TABLES[type(row)], str(row.id), name, told, rule, done)


def _reading_order(remark: Remark) -> tuple[int, str, str, str]:
    return list(TABLES.values()).index(remark.table), remark.id, remark.field, remark.rule
