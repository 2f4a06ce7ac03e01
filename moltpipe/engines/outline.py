"""The screenwriter called `outline`: episodes two to five from the pilot's own material, free and the same each time.

Here: how an episode is built. Its words stand in `phrasebook`. Not here: writing by a language model, which is another
engine behind the same protocol.

The whole series is written at every call and one episode of it handed out: only so can no line be said twice in
a series when the episodes are asked for one by one, in any order, on different machines.

It is honest about what it is: it invents no facts. Places, characters and events are the agent's, sentences that
join them are from the phrase book, and what nobody may change is quoted, not touched.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from moltpipe.engines import phrasebook
from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.local import Bench, LocalEngine
from moltpipe.engines.phrasebook import Beat, Role
from moltpipe.engines.protocols import EpisodeRequest, Written
from moltpipe.studio.screenplay import (
    EPISODES_PER_SERIES,
    AudioType,
    CharacterAnchor,
    Dialogue,
    EpisodeScript,
    ExtendStrategy,
    Genre,
    LocationAnchor,
    ShotAudio,
    ShotPrompt,
    ShotScript,
    Transition,
    spoken_line,
)

NAME = "outline"

_SPOKEN_CHARS = 150
"""Longer pieces of an arc are cut at a clause: a narrator needs about ten seconds for so much."""
_SCENE_CHARS, _DETAIL_CHARS = 500, 500
_LENGTHS_S = (5.0, 5.5, 6.0, 6.5, 7.0)
"""Six shots of the shortest are 30 seconds, eight of the longest 56."""
_GEN_LENGTHS_S = (4.0, 5.0, 6.0)
_EXTENSIONS = tuple(one for one in ExtendStrategy if one is not ExtendStrategy.NONE)


class Outline(LocalEngine[EpisodeRequest, Written]):
    """Writes one of the four later episodes."""

    name = NAME
    model = "outline-1"

    def make(self, request: EpisodeRequest, bench: Bench) -> Written:
        """Write.

        Raises:
            EngineError: the pilot was asked for, which is the agent's own, or an episode that there is not.
        """
        number = request.episode_number
        if not 2 <= number <= EPISODES_PER_SERIES:  # noqa: PLR2004 - the first episode after the pilot
            raise EngineError(NAME, ErrorClass.INVALID_INPUT, f"episode {number}: expected 2 to {EPISODES_PER_SERIES}")
        writer = _Writer(request)
        for episode_number in range(2, number):
            bench.go_on()
            writer.episode(episode_number)
        return Written(script=writer.episode(number))


# The agent's words ---------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """The sentences of a text, each whole, with a capital and a stop, and short enough to be said."""
    pieces = re.split(r"(?<=[.!?…])\s+|\s*\n+\s*", text.strip())
    return [_finished(piece) for piece in pieces if re.search(r"\w", piece)]


def _finished(piece: str) -> str:
    said = _shortened(piece.strip(" ,:-–—"), _SPOKEN_CHARS)  # noqa: RUF001 - dashes as agents write them
    said = said[:1].upper() + said[1:]
    return said if said.endswith((".", "!", "?", "…", '"', "”")) else f"{said}."


def _shortened(text: str, most: int) -> str:
    """The text up to `most` characters, cut behind a clause if there is one in its second half, else behind a word."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    head = text[: most - 1]
    clause = max(head.rfind(mark) for mark in (", ", ": ", " – ", " — ", " - "))  # noqa: RUF001 - as agents write
    if clause > most // 2:
        return head[:clause].rstrip(" ,:")
    word = head.rfind(" ")
    return (head[:word] if word > most // 2 else head).rstrip(" ,:;") + "…"


def place_name(anchor: LocationAnchor, number: int) -> str:
    """What a place is called in a sentence: `LOC_TIDE_ARCHIVE` is the Tide Archive."""
    words = anchor.id.removeprefix("LOC_").replace("_", " ").split()
    if not any(len(word) > 2 and word.isalpha() for word in words):  # noqa: PLR2004 - LOC_1, LOC_A: a number, no name
        return f"the {phrasebook.ORDINALS[min(number, len(phrasebook.ORDINALS) - 1)]} place"
    return "the " + " ".join(word.capitalize() for word in words)


@dataclass(frozen=True)
class _Place:
    name: str
    look: str
    rules: str | None


@dataclass
class _Deck:
    """Cards in a shuffled order, dealt without repetition until all are out, then shuffled again."""

    cards: tuple[str, ...]
    dice: random.Random
    left: list[str] = field(default_factory=list)

    def deal(self) -> str:
        if not self.left:
            self.left = list(self.cards)
            self.dice.shuffle(self.left)
        return self.left.pop()


class _Writer:
    """Writes a series from episode two on; `episode` must be called in order, for nothing is said twice."""

    def __init__(self, request: EpisodeRequest) -> None:
        self._request = request
        material = request.model_dump(mode="json", exclude={"episode_number"})
        digest = hashlib.sha256(json.dumps(material, sort_keys=True).encode()).digest()
        self._dice = random.Random(digest)  # noqa: S311 - it chooses words, it guards nothing
        self._places = [
            _Place(place_name(one, number), _shortened(one.description, 160), one.visual_rules)
            for number, one in enumerate(request.bible.location_anchors)
        ]
        self._cast = list(request.bible.character_anchors)
        self._dice.shuffle(self._cast)
        self._used = {_folded(text) for text in self._pilot_words()}
        self._decks: dict[str, _Deck] = {}
        self._beats = {
            Beat.ONE: sentences(request.arc.beat_1),
            Beat.TWO: sentences(request.arc.beat_2),
            Beat.THREE: sentences(request.arc.beat_3),
            Beat.LOGLINE: sentences(request.logline),
        }
        self._told: list[str] = []
        self._told_now: set[str] = set()
        self._turn = 0

    def _pilot_words(self) -> Iterator[str]:
        for shot in self._request.pilot_shots:
            yield shot.prompt.scene
            if (line := spoken_line(shot.audio)) is not None:
                yield line.text

    def episode(self, number: int) -> EpisodeScript:
        plan = phrasebook.PLANS[number]
        self._told_now = set()
        roles = self._dice.choice(plan.shapes)
        cameras: list[str] = []
        shots = []
        last_told = max(
            position for position, role in enumerate(roles) if phrasebook.CRAFT[role].sound is AudioType.NARRATION
        )
        for position, role in enumerate(roles):
            # Each episode begins at another place and with another character, and goes round from there.
            place = self._places[(number + position // 2) % len(self._places)] if self._places else None
            lead, other = self._pair()
            beats = plan.beats if position < last_told else plan.beats[::-1]
            shots.append(
                self._shot(
                    plan, role, beats=beats, position=position, place=place, lead=lead, other=other, cameras=cameras
                )
            )
        return EpisodeScript(episode_number=number, title=self._title(number), shots=tuple(shots))

    def _pair(self) -> tuple[CharacterAnchor | None, CharacterAnchor | None]:
        if not self._cast:
            return None, None
        lead = self._cast[self._turn % len(self._cast)]
        other = self._cast[(self._turn + 1) % len(self._cast)] if len(self._cast) > 1 else None
        self._turn += 1
        return lead, other

    def _shot(
        self,
        plan: phrasebook.Plan,
        role: Role,
        *,
        beats: Sequence[Beat],
        position: int,
        place: _Place | None,
        lead: CharacterAnchor | None,
        other: CharacterAnchor | None,
        cameras: list[str],
    ) -> ShotScript:
        craft = phrasebook.CRAFT[role]
        camera = self._dice.choice([one for one in craft.cameras if one not in cameras] or list(craft.cameras))
        cameras.append(camera)
        words = self._words(place, lead, other)
        duration = self._dice.choice(_LENGTHS_S)
        gen = max(one for one in _GEN_LENGTHS_S if one <= duration)
        if self._dice.random() < 0.5:  # noqa: PLR2004 - a coin: half of the shots are generated shorter and extended
            gen = 4.0
        return ShotScript(
            prompt=ShotPrompt(
                camera=camera,
                scene=_shortened(self._fresh(f"scene {role}", craft.scenes, words), _SCENE_CHARS),
                details=_shortened(self._details(plan, place, lead, position), _DETAIL_CHARS),
                motion=self._dice.choice(craft.motions),
            ),
            audio=self._audio(plan, role, beats, words, lead),
            gen_clip_seconds=gen,
            duration_seconds=duration,
            edit_extend_strategy=ExtendStrategy.NONE if gen == duration else self._dice.choice(_EXTENSIONS),
            transition=craft.transition if position else Transition.CUT,
        )

    def _audio(
        self,
        plan: phrasebook.Plan,
        role: Role,
        beats: Sequence[Beat],
        words: dict[str, str],
        lead: CharacterAnchor | None,
    ) -> ShotAudio:
        kind = phrasebook.CRAFT[role].sound
        if kind is AudioType.DIALOGUE and lead is not None:
            genre = phrasebook.GENRE_LINES[Genre(self._request.genre)]
            lines = (*plan.lines, *genre) if "other" in words else (*plan.lines_alone, *genre)
            line = self._fresh(f"line {plan.name} {'other' in words}", lines, words)
            return ShotAudio(type=AudioType.DIALOGUE, dialogue=Dialogue(speaker=lead.id, line=line))
        if kind is AudioType.AMBIENT:
            return ShotAudio(type=kind, description=self._fresh("ambient", phrasebook.AMBIENCES, words))
        told = self._untold(beats)
        if told is None:
            return ShotAudio(
                type=AudioType.NARRATION, description=self._fresh(f"aside {plan.name}", plan.asides, words)
            )
        beat, sentence = told
        lead_ins = phrasebook.NARRATIONS[beat]
        narrated = self._fresh(f"narration {beat}", lead_ins, {**words, "beat": sentence})
        return ShotAudio(type=AudioType.NARRATION, description=narrated)

    def _untold(self, beats: Sequence[Beat]) -> tuple[Beat, str] | None:
        """A sentence that is new to the episode: beat by beat, and of each beat what the series told least."""
        choice = [
            (order, self._told.count(sentence), beat, sentence)
            for order, beat in enumerate(beats)
            for sentence in self._beats[beat]
            if sentence not in self._told_now
        ]
        if not choice:
            return None
        _, _, beat, sentence = min(choice, key=lambda one: one[:2])
        self._told.append(sentence)
        self._told_now.add(sentence)
        return beat, sentence

    def _details(self, plan: phrasebook.Plan, place: _Place | None, lead: CharacterAnchor | None, position: int) -> str:
        parts = [self._deal(f"light {plan.name}", plan.lights)]
        if place is not None and place.rules:
            parts.append(_finished(place.rules))
        if lead is not None:
            parts.append(f"{lead.name}: {_finished(lead.appearance)}")
        kept = self._request.bible.do_not_change
        if kept:
            parts.append(f"Unchanged: {_finished(kept[position % len(kept)])}")
        return " ".join(parts)

    def _words(
        self, place: _Place | None, lead: CharacterAnchor | None, other: CharacterAnchor | None
    ) -> dict[str, str]:
        words = {
            "place": place.name if place else "the place where it began",
            "look": _finished(place.look) if place else self._pilot_look(),
            "name": lead.name if lead else "the one who stayed",
        }
        words["Name"] = words["name"][:1].upper() + words["name"][1:]
        words["Place"] = words["place"][:1].upper() + words["place"][1:]
        if other is not None:
            words["other"] = other.name
        return words

    def _pilot_look(self) -> str:
        shots = self._request.pilot_shots
        return _finished(self._dice.choice(shots).prompt.scene) if shots else "Nothing here has changed."

    def _title(self, number: int) -> str:
        words = self._words(self._dice.choice(self._places) if self._places else None, *self._pair())
        return self._fresh(f"title {number}", phrasebook.TITLES[number], words)

    def _fresh(self, deck: str, cards: Sequence[str], words: dict[str, str]) -> str:
        """A card that was not dealt yet, filled in, that says nothing that was said in this series before."""
        usable = tuple(card for card in cards if "{other}" not in card or "other" in words)
        said = ""
        for _ in range(2 * len(usable)):
            said = self._deal(f"{deck} {len(usable)}", usable).format_map(words).strip()
            if _folded(said) not in self._used:
                break
        while _folded(said) in self._used:
            said = f"Again: {said}"
        self._used.add(_folded(said))
        return said

    def _deal(self, deck: str, cards: tuple[str, ...]) -> str:
        return self._decks.setdefault(deck, _Deck(cards, self._dice)).deal()


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
