"""The words that a shot becomes for an engine that films from text.

Here: one prompt out of a shot, what its script says of the places and people in it, and the variant's style. Not
here: what a provider's request looks like (its module), music (its prompt comes ready).

An engine that makes sound of its own accord makes speech and music too: where its sound is wanted, it is told what is
heard in the shot and that the rest is not, for voices and music have their own places in the house.

The incident behind it: the old system sent the first shot of an episode and nothing of the cast, so a character
looked different in every episode. An id such as `CHAR_MARA` says nothing to a model: each is replaced by a name, and
the name is explained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from moltpipe.engines.protocols import TakeRequest
from moltpipe.studio.screenplay import CharacterAnchor, LocationAnchor, SeriesBible, ShotPrompt, heard_around

NEGATIVE_PROMPT = "low quality, blurred, deformed, distorted, flickering, subtitles, captions, watermark, logo"
"""What no take shall show, for engines that take such a list. Not "text": a script may want a sign to be read."""

_SHOT_LESS = frozenset(
    {"wide_establishing", "macro", "static", "handheld", "aerial", "low_angle", "high_angle", "dutch_angle"}
)
"""Camera terms that need the word "shot" behind them to be English."""
_ANCHOR_ID = re.compile(r"(?<!\w)(?P<article>(?:the|an?)\s+)?(?P<id>(?:LOC|CHAR)_[A-Z0-9_]*[A-Z0-9])", re.IGNORECASE)
_STOPS = (".", "!", "?", "…", '"', "”")


def film_prompt(request: TakeRequest, *, limit: int = 2000) -> str:
    """The prompt of a take, on one line, at most `limit` characters, the same for the same request.

    The shot's own words come first, then its sound, where it shall have one, then who and what is in it, what nobody
    may change, the variant's style and at last the style of the series, which alone may have 2000 characters: what is
    cut off, at a word, is style.
    """
    bible = request.bible
    parts = [
        *_shot(request.prompt),
        *_sound(request),
        *_people(request.prompt, bible),
        *_places(request.prompt, bible),
        f"Keep unchanged: {'; '.join(bible.do_not_change)}" if bible.do_not_change else "",
        f"Look: {request.style_suffix}" if request.style_suffix.strip() else "",
        f"Style: {bible.global_style_bible}",
    ]
    named = (_on_one_line(_without_ids(part, bible)) for part in parts)
    return _cut(" ".join(_sentence(part) for part in named if part), limit)


def _shot(prompt: ShotPrompt) -> Iterator[str]:
    yield _term(prompt.camera) + (" shot" if prompt.camera in _SHOT_LESS else "")
    yield prompt.scene
    yield prompt.details or ""
    if prompt.motion:
        yield f"Movement: {_term(prompt.motion)}"


def _sound(request: TakeRequest) -> Iterator[str]:
    heard = heard_around(request.audio) if request.with_sound else None
    if heard is not None:
        yield f"Sound: {_bare(heard)}"
        yield "Nobody speaks and there is no music"


def _people(prompt: ShotPrompt, bible: SeriesBible) -> Iterator[str]:
    for one in bible.character_anchors:
        if _named(prompt, one.id) or _named(prompt, one.name) or _named(prompt, one.name.upper()):
            yield f"{one.name}: {one.appearance}"


def _places(prompt: ShotPrompt, bible: SeriesBible) -> Iterator[str]:
    for one in bible.location_anchors:
        name = _place_name(one.id)
        if not (_named(prompt, one.id) or (name and _named(prompt, name, any_case=True))):
            continue
        look = "; ".join(filter(None, (_bare(one.description), one.visual_rules)))
        if name:
            yield f"The {name}: {look}"
        elif one.visual_rules:
            yield one.visual_rules


def _named(prompt: ShotPrompt, name: str, *, any_case: bool = False) -> bool:
    """Whether the shot's picture names somebody or something, as whole words."""
    said = " ".join(filter(None, (prompt.scene, prompt.details, prompt.motion, prompt.camera)))
    pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
    return re.search(pattern, _on_one_line(said), re.IGNORECASE if any_case else re.NOFLAG) is not None


def _without_ids(text: str, bible: SeriesBible) -> str:
    return _ANCHOR_ID.sub(_naming(bible), text)


def _naming(bible: SeriesBible) -> Callable[[re.Match[str]], str]:
    people = {one.id: one for one in bible.character_anchors}
    places = {one.id: one for one in bible.location_anchors}

    def name(found: re.Match[str]) -> str:
        anchor = found["id"].upper()
        if anchor in people:
            return _person_called(people[anchor], found["article"])
        return _place_called(anchor, places.get(anchor), found["article"])

    return name


def _person_called(anchor: CharacterAnchor, article: str | None) -> str:
    return f"{article or ''}{anchor.name}"


def _place_called(anchor: str, known: LocationAnchor | None, article: str | None) -> str:
    """`LOC_TIDE_ARCHIVE` is the tide archive; `LOC_1` has no name, so its description stands for it."""
    name = _place_name(anchor)
    if name or known is None:
        words = name or anchor.partition("_")[2].replace("_", " ").lower()
        return f"{article or 'the '}{words}"
    return _bare(known.description)


def _place_name(anchor: str) -> str:
    """The words of an id; empty where they are no name, as in `LOC_1` or `LOC_A`."""
    words = anchor.partition("_")[2].replace("_", " ").lower().split()
    return " ".join(words) if any(len(word) > 2 and word.isalpha() for word in words) else ""  # noqa: PLR2004 - as said


def _term(text: str) -> str:
    """A term of the script's vocabulary in plain words; anything else as it stands."""
    words = text.replace("_", " ")
    return words.replace("close up", "close-up") if text.islower() else words


def _bare(text: str) -> str:
    return text.rstrip(" .;,")


def _sentence(text: str) -> str:
    return text[:1].upper() + (text[1:] if text.endswith(_STOPS) else f"{text[1:].rstrip(' ,;:')}.")


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, limit: int) -> str:
    """The text up to `limit` characters, cut behind a whole word if there is one."""
    if len(text) <= limit:
        return text
    head = text[: limit + 1].rpartition(" ")[0] or text[:limit]
    return head.rstrip(" ,;:")
