"""A series from the end of its vote to its last variant, on a real stack, with hosted engines that take five seconds.

Here: the vote, the fakes that note when they were first asked, the wait, and what the same work costs alone. Not here:
the shortest time that it could take (`bench.critical_path`).

Screenwriter, voice and camera are hosted by fakes over HTTP, music is at its default, which is none. The settings are
the defaults but for the limits of the providers' accounts, which are those of a studio that pays for more than the
smallest plan (`PLACES`), without a pause between two starts, and for the runs at once: one for each episode, since runs
wait for their provider most of the time. Films are small and so is the profile: at the default one, two cores are busy
conforming and cutting for four fifths of the time, and the figure would tell how fast FFmpeg is.
"""

from __future__ import annotations

import resource
import struct
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from moltpipe import samples
from moltpipe.ledger.database import Database
from moltpipe.ledger.periods import create_period, make_room, open_due_periods
from moltpipe.ledger.production import load_production
from moltpipe.ledger.scripts import file_script
from moltpipe.ledger.series import all_episodes
from moltpipe.ledger.votes import cast_vote
from moltpipe.media.conform import conform
from moltpipe.media.examine import examine
from moltpipe.media.extend import extend
from moltpipe.media.gate import deliver
from moltpipe.media.stills import thumbnail
from moltpipe.studio.admission import judge
from moltpipe.studio.asked import Asked, Stretch
from moltpipe.studio.profiles import parse_profile
from moltpipe.studio.records import Production
from moltpipe.studio.screenplay import EPISODES_PER_SERIES, PILOT_VARIANTS, ExtendStrategy
from moltpipe_tests.bench.at_rest import named
from moltpipe_tests.bench.conforming import CORES
from moltpipe_tests.bench.critical_path import CAMERA, CORE, RUNS, VOICE, WRITER, Costs, Wanted, critical_path_s
from moltpipe_tests.bench.material import Plan, Spoken
from moltpipe_tests.bench.registry import Measurement, case, finding
from moltpipe_tests.bench.stacks import a_stack, await_rest, ledger_of, processor_s, until
from moltpipe_tests.bench.stitching import cut
from moltpipe_tests.fakes.__main__ import environment
from moltpipe_tests.fakes.chat import FakeChat
from moltpipe_tests.fakes.elevenlabs import FakeElevenlabs
from moltpipe_tests.fakes.media import clip, music, speech, speech_seconds
from moltpipe_tests.fakes.replicate import FakeReplicate
from moltpipe_tests.fakes.server import Answer, Seen, serving

LATENCY_S = 5.0
PLACES: Mapping[str, int] = {
    RUNS: 6,
    WRITER: 4,
    VOICE: 5,
    CAMERA: 8,
    CORE: CORES,
}
SENSOR_INTERVAL_S = 5.0
"""Dagster's daemon looks at sensors every five seconds, whatever shorter interval they ask for
(`dagster/_daemon/sensor.py`, `MIN_INTERVAL_LOOP_TIME`)."""
VOTE = timedelta(seconds=3)
_PROFILE = parse_profile("144p12")
_SIZE = (320, 180)
_LOOK_S = 0.5
_SHOTS, _SHOT_S = 7, 6
_LINE = "It rained for seven days, and nobody asked why."


class Camera(FakeReplicate):
    """Hands out one picture for every length: to draw another for each take would be work of the fake alone.

    Each film has its own name in a box at its end, so that none is taken for another that was conformed already.
    """

    def handle(self, seen: Seen) -> Answer:
        """Answer one request."""
        if not seen.path.startswith("/media/"):
            return super().handle(seen)
        job = self.predictions[seen.path.split("/")[2]]
        film = clip(job.given["duration"], *_SIZE, sound=job.given["generate_audio"])
        name = job.id.encode()
        return self.media(film + struct.pack(">I4s", 8 + len(name), b"free") + name, "video/mp4")


@case("series", f"a vote ends and a whole series is made by hosted engines that take {LATENCY_S:g} s", material=False)
def series(folder: Path) -> dict[str, float]:
    return look(folder, latency_s=LATENCY_S)


def look(folder: Path, *, latency_s: float) -> dict[str, float]:
    """Seconds from the vote's end to the first request and to the last variant, what there was to do, and what one take
    and one cut cost alone."""
    alone = _alone(folder / "alone")
    chat, voice = FakeChat(latency_s=latency_s), FakeElevenlabs(latency_s=latency_s, maximum=PLACES[VOICE])
    camera = Camera(latency_s=latency_s)
    with serving(chat, voice, camera):
        variables = {
            **environment([chat, voice, camera]),
            "MOLTPIPE_SCREENWRITER": "chat",
            "MOLTPIPE_VOICE": "elevenlabs",
            "MOLTPIPE_CAMERA": "replicate",
            "MOLTPIPE_PROFILE": _PROFILE.name,
            "MOLTPIPE_MAX_CONCURRENT_RUNS": str(PLACES[RUNS]),
            "MOLTPIPE_CHAT_MAX_CONCURRENCY": str(PLACES[WRITER]),
            "MOLTPIPE_ELEVENLABS_MAX_CONCURRENCY": str(PLACES[VOICE]),
            "MOLTPIPE_REPLICATE_MAX_CONCURRENCY": str(PLACES[CAMERA]),
            "MOLTPIPE_REPLICATE_START_DELAY_MS": "0",
        }
        with a_stack(folder, variables) as running, ledger_of(running) as ledger:
            rest = await_rest(running)
            before = processor_s(running)
            ends_at = _vote(ledger)
            until(lambda: _is_made(ledger), "a whole series is made", every_s=_LOOK_S)
            over = datetime.now(UTC)
            spent_s = processor_s(running) - before
            made = _productions(ledger)
    first = min(moment for provider in (chat, voice, camera) for moment in provider.starts)
    first_call_s = first - time.monotonic() + time.time() - ends_at.timestamp()
    return {
        "first_call_s": first_call_s,
        "series_s": (over - ends_at).total_seconds(),
        "processor_s": spent_s,
        **alone,
        **_wanted(made),
        **named(rest),
    }


def _vote(ledger: Database) -> datetime:
    """A script that wins, in a vote that is over in a moment; when that is."""
    now = datetime.now(UTC)
    agent, document = samples.pilots()[0]
    admission = judge(document)
    if admission.script is None:
        raise RuntimeError(f"the sample script was refused: {admission.refusals}")
    with ledger.begin() as db:
        filed = file_script(db, admission.script, document, agent_name=agent, studio_slug=None, now=now)
        make_room(db, now, now + VOTE)
        period = create_period(db, "agent_voting", now, now + VOTE)
        open_due_periods(db, now)
        cast_vote(db, filed.script_id, "orbit", 1, now)
    return period.ends_at


def _is_made(ledger: Database) -> bool | None:
    """Whether all variants of a series are out; a look must not keep a core busy."""
    with ledger.begin() as db:
        found: int = db.execute(sa.text("SELECT count(*) FROM clip_variants")).scalar_one()
    return True if found == PILOT_VARIANTS + EPISODES_PER_SERIES - 1 else None


def _productions(ledger: Database) -> list[Production]:
    with ledger.begin() as db:
        return [load_production(db, one.partition_key) for one in all_episodes(db)]


def _wanted(made: list[Production]) -> dict[str, float]:
    """What there was to do, as details of a case."""
    found: dict[str, float] = {}
    for one in made:
        for shot in one.shots:
            found[f"spoken {one.episode.number}.{shot.number}"] = float(shot.id in one.voiceovers)
    return found


def _alone(room: Path) -> dict[str, float]:
    """Processor seconds of one take and of one variant, with nothing of Dagster, ledger or store around them."""
    room.mkdir(parents=True)
    profile = _PROFILE
    arrived, line, under = room / "arrived.mp4", room / "line.mp3", room / "music.wav"
    arrived.write_bytes(clip(_SHOT_S, *_SIZE))
    line.write_bytes(speech(_LINE))
    under.write_bytes(music(30))
    taken = room / "take.mp4"

    def take() -> None:
        examine(arrived)
        conform(arrived, profile, taken, frames=_SHOT_S * profile.rate)

    def variant() -> None:
        shots = tuple(room / f"shot-{number}.mp4" for number in range(_SHOTS))
        for shot in shots:
            extend(
                taken,
                ExtendStrategy.HOLD_LAST_FRAME,
                frames=_SHOT_S * profile.rate + profile.rate // 2,
                profile=profile,
                target=shot,
            )
        frames = _SHOTS * (_SHOT_S * profile.rate + profile.rate // 2)
        each_s = profile.seconds(_SHOT_S * profile.rate + profile.rate // 2)
        spoken = tuple(
            Spoken(line, _LINE, number * each_s + 0.25, speech_seconds(_LINE)) for number in range(0, _SHOTS, 2)
        )
        plan = Plan(shots, spoken, (), under, profile, frames)
        made = cut(plan, room)
        anywhere = (Stretch(0.0, plan.seconds),)
        deliver(
            made.film,
            frames=frames,
            profile=profile,
            loudness_lufs=made.loudness.aim_lufs,
            asked=Asked(black=anywhere, frozen=anywhere, silent=anywhere),
            captions=made.shown,
        )
        thumbnail(made.film, room / "thumbnail.jpg")

    take()  # what is loaded and found out once per process is not counted
    return {"take_processor_s": _processor_s(take), "cut_processor_s": _processor_s(variant)}


def _processor_s(work: Callable[[], None]) -> float:
    def spent_s() -> float:
        both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in both)

    before = spent_s()
    work()
    return spent_s() - before


def shortest_s(took: Mapping[str, Measurement]) -> float:
    """The critical path of the series that was made, with what was measured in the same run."""
    bare, made = took["empty stack"].details, took["series"].details
    costs = Costs(
        start_s=bare["start_s"],
        start_processor_s=bare["start_processor_s"],
        call_s=LATENCY_S,
        take_processor_s=made["take_processor_s"],
        cut_processor_s=made["cut_processor_s"],
    )
    return critical_path_s([_episode(number, made) for number in range(1, EPISODES_PER_SERIES + 1)], costs, PLACES)


def _episode(number: int, made: Mapping[str, float]) -> Wanted:
    spoken = tuple(bool(said) for name, said in made.items() if name.startswith(f"spoken {number}."))
    return Wanted(written=number > 1, spoken=spoken, variants=PILOT_VARIANTS if number == 1 else 1)


@finding(
    "first engine call / bare start",
    f"from the period's end to the first request, less a sensor's interval of {SENSOR_INTERVAL_S:g} s",
    against="the bare start of an empty run",
    needs=("series", "empty stack"),
    at_most=3,
)
def first_call_against_bare_start(took: Mapping[str, Measurement]) -> float:
    waited_s = took["series"].details["first_call_s"] - SENSOR_INTERVAL_S
    return waited_s / took["empty stack"].details["bare_start_s"]


@finding("first engine call", "from the period's end to the first request", needs=("series",), unit="s")
def first_call(took: Mapping[str, Measurement]) -> float:
    return took["series"].details["first_call_s"]


@finding(
    "whole series / critical path",
    "from the period's end to the last variant",
    against="the critical path of the same series",
    needs=("series", "empty stack"),
    at_most=1.3,
)
def against_critical_path(took: Mapping[str, Measurement]) -> float:
    return took["series"].details["series_s"] / shortest_s(took)


@finding("whole series", f"five episodes, engines that take {LATENCY_S:g} s", needs=("series",), unit="s")
def whole_series(took: Mapping[str, Measurement]) -> float:
    return took["series"].details["series_s"]


@finding("critical path", "of that series", needs=("series", "empty stack"), unit="s")
def critical_path(took: Mapping[str, Measurement]) -> float:
    return shortest_s(took)
