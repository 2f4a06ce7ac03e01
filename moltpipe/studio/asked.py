"""What a script asks for that would otherwise be a fault: black, standing still, silence.

Here: the stretches of an episode in which each of the three may be found, and the arithmetic of stretches. Not here:
finding them in a file (`media.screening`), refusing a cut for them (`media.gate`).

The gate stops production where it refuses, so what cannot be told from the script is allowed: music has rests, a clip's
own sound may pause, a loop may be as calm as the take's end that it repeats, and a slow drift into a sky, a fog or a
dark room changes nothing that can be measured for up to six seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moltpipe.studio.finish import Finish
from moltpipe.studio.narration import Reading
from moltpipe.studio.records import ClipSound, Production, Shot, Take, Voiceover
from moltpipe.studio.screenplay import AudioType, ExtendStrategy, Transition
from moltpipe.studio.timing import Slot, Timeline

SLOWEST = 0.5
"""Part of its own speed from which on a slowed take may seem to stand: a still second of it then lasts two."""
TOO_SHORT_TO_MOVE = 3
"""Frames. Of a take that has fewer, the last one is held, whatever the strategy."""
UNCOVERED_S = 0.5
"""A clip's own sound that ends so much before its shot leaves a hole, which a bed fills."""
_STILLNESS = re.compile(r"\b(static|still|locked|fixed|tripod|frozen|motionless|none)\b|\bno (motion|movement)\b")
_STILL_SCENES = re.compile(r"\bfreeze[- ]frame|\btitle card|\bstill (image|photo\w*|frame|picture)")
_DARKNESS = re.compile(
    r"\bblack (screen|frame|void)|\b(screen|frame) (is|goes|turns|stays) (\w+ )?black|\bblackout\b|\bpitch[- ]black"
    r"|\b(cut|fade|fades|fading|cuts) (to|from|into) black|\b(total|complete|utter|absolute) darkness|\bblackness\b"
)


@dataclass(frozen=True, order=True)
class Stretch:
    """A part of an episode, in seconds from its start."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end_s - self.start_s


@dataclass(frozen=True)
class Asked:
    """Where black, a standing picture and silence are as they should be."""

    black: tuple[Stretch, ...] = ()
    frozen: tuple[Stretch, ...] = ()
    silent: tuple[Stretch, ...] = ()


def asked_of(production: Production, variant_number: int, timing: Timeline, finish: Finish) -> Asked:
    """What the script of an episode asks for in one variant, as it is timed and finished.

    - black: around a fade through black, and in shots whose script wants it dark;
    - frozen: a take that is held, looped, drifted into or slowed down, beyond its own length; shots whose script wants
      them still;
    - silent: shots of type `silent`; where no bed of ambience is laid, everything but speech.
    """
    shots = {shot.id: shot for shot in production.shots}
    black: list[Stretch] = []
    frozen: list[Stretch] = []
    silent: list[Stretch] = []
    for slot in timing.slots:
        shot, place = shots[slot.shot_id], _place(slot, timing)
        take = production.takes.get((shot.id, variant_number))
        if slot.transition is Transition.FADE_THROUGH_BLACK and slot.seam_frames:
            black.append(_seam(slot, timing))
        if _DARKNESS.search(f"{shot.prompt.scene} {shot.prompt.details or ''}".lower()):
            black.append(place)
            frozen.append(place)
        elif asks_for_stillness(shot):
            frozen.append(place)
        elif take is not None:
            frozen += _held(shot, take, slot, timing)
        if shot.audio.type is AudioType.SILENT:
            silent.append(place)
        elif not lays_a_bed(shot, take.sound if take else None, timing.profile.seconds(slot.frames), finish):
            voice = production.voiceovers.get(shot.id)
            silent += outside(_speech(voice, slot.voice_starts_at) if voice else (), place)
    return Asked(black=tuple(black), frozen=tuple(frozen), silent=tuple(silent))


def asked_of_reading(production: Production, timing: Reading, finish: Finish) -> Asked:
    """Where an episode that is only heard may be silent: nowhere under room tone, else where nobody speaks."""
    if finish.ambience:
        return Asked()
    spoken = [part for one in timing.passages for part in _speech(production.voiceovers[one.shot_id], one.starts_at_s)]
    return Asked(silent=tuple(outside(spoken, Stretch(0.0, timing.seconds))))


def transitions(timing: Timeline) -> list[Stretch]:
    """Where one shot becomes another: pictures of neither, of which no still should be taken."""
    return [_seam(slot, timing) for slot in timing.slots if slot.seam_frames]


def _seam(slot: Slot, timing: Timeline) -> Stretch:
    first, after = slot.start_frame - slot.seam_frames, slot.start_frame + slot.seam_frames
    return Stretch(timing.profile.seconds(first), timing.profile.seconds(after))


def asks_for_stillness(shot: Shot) -> bool:
    """Whether the script wants a picture in which nothing moves, or a camera that does not."""
    prompt = shot.prompt
    terms = f"{prompt.camera} {prompt.motion or ''}".lower().replace("_", " ")
    return bool(
        _STILLNESS.search(terms) or _STILL_SCENES.search(f"{terms} {prompt.scene} {prompt.details or ''}".lower())
    )


def beyond(
    found: Iterable[Stretch], asked: Iterable[Stretch], *, shortest_s: float, tolerance_s: float
) -> list[Stretch]:
    """The parts of what was found that nobody asked for and that last at least `shortest_s`.

    What was asked for is wider by `tolerance_s` at both ends.
    """
    allowed = [Stretch(one.start_s - tolerance_s, one.end_s + tolerance_s) for one in asked]
    return [part for one in found for part in outside(allowed, one) if part.seconds >= shortest_s]


def outside(stretches: Iterable[Stretch], whole: Stretch) -> list[Stretch]:
    """What is left of `whole` without the stretches, which may overlap and come in any order."""
    left: list[Stretch] = []
    at_s = whole.start_s
    for one in sorted(stretches):
        if one.end_s <= at_s:
            continue
        if one.start_s >= whole.end_s:
            break
        if one.start_s > at_s:
            left.append(Stretch(at_s, one.start_s))
        at_s = one.end_s
    if at_s < whole.end_s:
        left.append(Stretch(at_s, whole.end_s))
    return left


def _place(slot: Slot, timing: Timeline) -> Stretch:
    return Stretch(timing.profile.seconds(slot.start_frame), timing.profile.seconds(slot.end_frame))


def _held(shot: Shot, take: Take, slot: Slot, timing: Timeline) -> Iterator[Stretch]:
    """Where a take that is shorter than its shot stands still by its strategy, or may."""
    frames = timing.profile.frames(take.duration_seconds)
    if frames >= slot.frames:
        return
    held_from = frames
    if frames >= TOO_SHORT_TO_MOVE and shot.strategy is ExtendStrategy.SPEED_RAMP:
        held_from = _slow_from(frames, slot.frames)
    if held_from < slot.frames:
        yield Stretch(timing.profile.seconds(slot.start_frame + held_from), timing.profile.seconds(slot.end_frame))


def _slow_from(take_frames: int, frames: int) -> int:
    """First frame of a speed ramp that is slower than `SLOWEST`.

    The speed falls evenly (`media.extend`): with r the mean, from min(1, 1.5 r) to what keeps that mean.
    """
    mean = (take_frames - 1) / (frames - 1)
    first = min(1.0, 1.5 * mean)
    last = 2 * mean - first
    if first <= SLOWEST:
        return 0
    if last >= SLOWEST:
        return frames
    # A float a hair below a whole frame must not name the frame before.
    return int(round((first - SLOWEST) / (first - last) * (frames - 1), 6))


def lays_a_bed(shot: Shot, sound: ClipSound | None, seconds: float, finish: Finish) -> bool:
    """Whether a bed of ambience is laid under a shot of a length, the one sound that is known to have no pause.

    A clip's own sound takes its place where it is as long as the shot.
    """
    if not finish.ambience or shot.audio.type is AudioType.SILENT:
        return False
    return sound is None or not finish.clip_sound or sound.duration_seconds < seconds - UNCOVERED_S


def _speech(voice: Voiceover, starts_at_s: float) -> Sequence[Stretch]:
    """When somebody speaks: word by word, or from beginning to end where the words have no times."""
    if voice.words:
        return [Stretch(starts_at_s + word.start, starts_at_s + word.end) for word in voice.words]
    return [Stretch(starts_at_s, starts_at_s + voice.duration_seconds)]
