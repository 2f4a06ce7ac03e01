"""The cue sheet of an episode: which sound is heard when, and the files behind it.

Here: what goes onto the timeline of sound, fetched or made. Not here: mixing it (`media.sound`), when a shot begins
(`studio.timing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict
from uuid import UUID

from moltpipe.media.ambience import bed
from moltpipe.media.sound import EDGE_FADE_S, Cue, CueKind
from moltpipe.production.line import Line
from moltpipe.studio.asked import lays_a_bed
from moltpipe.studio.records import ClipSound, Production
from moltpipe.studio.screenplay import Transition, heard_around
from moltpipe.studio.timing import Slot, Timeline


def clip_sounds(production: Production, variant_number: int) -> dict[int, ClipSound]:
    """The sounds that the clips of a variant came with, by shot number."""
    return {
        shot.number: take.sound
        for shot in production.shots
        if (take := production.takes.get((shot.id, variant_number))) is not None and take.sound is not None
    }


def common_cues(
    line: Line,
    production: Production,
    voices_start_at: Mapping[UUID, float],
    folder: Path,
    *,
    music_fade_in_s: float = EDGE_FADE_S,
) -> list[Cue]:
    """The cues that all variants of an episode share: what is spoken, and the music from its start to its end.

    Args:
        line: where the sounds lie.
        production: what is spoken, and the score.
        voices_start_at: by shot id, in seconds from the start of the episode.
        folder: where the sounds are put.
        music_fade_in_s: over how long the music comes.
    """
    cues = [
        Cue(
            file=line.store.get(production.voiceovers[shot.id].media, folder / f"voice-{shot.number}.wav"),
            starts_at_s=voices_start_at[shot.id],
            kind=CueKind.VOICE,
        )
        for shot in production.shots
        if shot.id in production.voiceovers
    ]
    if production.score is not None:
        composed = line.store.get(production.score.media, folder / "score.wav")
        cues.append(Cue(composed, 0.0, CueKind.MUSIC, looped=True, fade_in_s=music_fade_in_s))
    return cues


def shot_cues(
    line: Line, production: Production, timing: Timeline, sounds: dict[int, ClipSound], folder: Path
) -> list[Cue]:
    """What is heard in each shot besides speech and music: its clip's own sound, and a bed where there is none."""
    shots = {shot.id: shot for shot in production.shots}
    cues: list[Cue] = []
    for slot, following in zip(timing.slots, [*timing.slots[1:], None], strict=True):
        starts_at_s, seconds = timing.profile.seconds(slot.start_frame), timing.profile.seconds(slot.frames)
        sound = sounds.get(slot.number) if line.finish.clip_sound else None
        if sound is not None:
            file = line.store.get(sound.media, folder / f"clip-{slot.number}.flac")
            heard_s = min(seconds, sound.duration_seconds)
            cues.append(Cue(file, starts_at_s, CueKind.CLIP, seconds=heard_s, **_fades(slot, following, timing)))
        shot = shots[slot.shot_id]
        if lays_a_bed(shot, sound, seconds, line.finish):
            lead_s, tail_s = _overlap_s(slot, timing), _overlap_s(following, timing)
            file = folder / f"bed-{slot.number}.wav"
            bed(heard_around(shot.audio), seconds=lead_s + seconds + tail_s, seed=bed_seed(slot.shot_id), target=file)
            fades = _fades(slot, following, timing, lead_s=lead_s, tail_s=tail_s)
            cues.append(Cue(file, starts_at_s - lead_s, CueKind.AMBIENCE, **fades))
    return cues


class _Fades(TypedDict, total=False):
    """Of a cue, where they are not what the mix takes of itself."""

    fade_in_s: float
    fade_out_s: float


def _fades(slot: Slot, following: Slot | None, timing: Timeline, *, lead_s: float = 0.0, tail_s: float = 0.0) -> _Fades:
    """A shot's sound comes and goes with its picture; without a transition, at the length that the mix knows."""
    fades: _Fades = {}
    if slot.seam_frames:
        fades["fade_in_s"] = lead_s + timing.profile.seconds(slot.seam_frames)
    if following is not None and following.seam_frames:
        fades["fade_out_s"] = tail_s + timing.profile.seconds(following.seam_frames)
    return fades


def _overlap_s(slot: Slot | None, timing: Timeline) -> float:
    """How long before its cut a bed is heard: where pictures are blended the room must not fall silent in between."""
    if slot is None or slot.transition is not Transition.CROSSFADE:
        return 0.0
    return timing.profile.seconds(slot.seam_frames)


def bed_seed(of: UUID) -> int:
    """The seed of the bed under a shot, or under a whole narration: the same at every cut."""
    return int.from_bytes(hashlib.sha256(of.bytes).digest()[:4], "big")
