"""The music of an episode, where the house has a composer."""

from __future__ import annotations

import tempfile
from pathlib import Path

from moltpipe.engines.protocols import ScoreRequest
from moltpipe.ledger import calls as ledger_calls
from moltpipe.ledger.media import record_score
from moltpipe.media.music import as_wav
from moltpipe.media.offload import offload
from moltpipe.production.answers import using
from moltpipe.production.calls import Subject, call
from moltpipe.production.work import Work
from moltpipe.studio.keys import score_key
from moltpipe.studio.narration import AUDIO, reading
from moltpipe.studio.profiles import Profile
from moltpipe.studio.records import Production, Score
from moltpipe.studio.timing import timeline

_TEMPERS = {
    "action": "driving percussion and low brass",
    "adventure": "wide strings and horns",
    "comedy": "light pizzicato and woodwinds",
    "drama": "slow piano and strings",
    "thriller": "pulsing low synthesizers, tense",
    "horror": "dissonant strings and drones",
    "sci_fi": "analogue synthesizers and slow pads",
    "fantasy": "harp, choir and flute",
    "romance": "warm piano and soft strings",
    "crime": "muted trumpet, double bass and brushes",
}


async def score_episode(work: Work, *, regenerate: bool) -> Score | None:
    """Have music composed for the episode, once, or anew. None where the house has no composer.

    Raises:
        EngineError: the composer failed.
    """
    production, composer = work.production, work.line.crew.composer
    if composer is None or (production.score is not None and not regenerate):
        return production.score
    take_number = production.next_number(production.score, production.episode.id)
    answer = await call(
        work,
        composer,
        "compose",
        score_request(production, work.line.profile),
        subject=Subject(of=production.episode.id, take_number=take_number),
    )

    def record() -> Score:
        with tempfile.TemporaryDirectory(dir=work.line.workdir) as folder:
            wav = Path(folder) / "score.wav"
            with using(answer) as arrived:
                seconds = as_wav(arrived, wav)
            stored = work.line.store.put(wav, lambda sha256: score_key(production.episode.id, take_number, sha256))
        with work.line.database.begin() as db:
            score = record_score(db, work.claim, stored, seconds, provider_job_id=answer.call_id)
            ledger_calls.mark_ingested(db, answer.call_id)
            return score

    return await offload(record)


def score_request(production: Production, profile: Profile) -> ScoreRequest:
    """The request for an episode's music: as long as the episode, in the temper of its genre."""
    series = production.series
    mood = series.poster_spec.mood
    kind = "underscore for a story read aloud" if series.medium == AUDIO else "film score"
    words = [
        f"Instrumental {kind}, {_TEMPERS.get(series.genre, 'orchestral')}",
        mood,
        # What sets one episode's music apart: five times the same request would be paid for five times.
        f"for an episode called {production.episode.title!r}, number {production.episode.number}",
        "no vocals",
    ]
    return ScoreRequest(prompt=", ".join(word for word in words if word), seconds=_seconds(production, profile))


def _seconds(production: Production, profile: Profile) -> float:
    voices = {shot_id: one.duration_seconds for shot_id, one in production.voiceovers.items()}
    if production.series.medium == AUDIO:
        return reading(production.shots, voices, scored=True).seconds
    return timeline(production.shots, voices, profile).seconds
