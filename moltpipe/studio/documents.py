"""JSON documents from outside: read without guessing, and copied into what can be kept.

Here: parsing, what neither JSON nor Postgres can hold, and how a place and a value in a document are
spelled for people. Not here: what a script must be (`studio.admission`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

MAX_BYTES = 256 * 1024
"""A full-length pilot with every field at its limit takes about a quarter of this."""
MAX_DEPTH = 16
MAX_VALUES = 20_000
MAX_WHOLE_NUMBER = 2**53
"""Beyond this JSON programs no longer agree on a number."""

Place = tuple[str | int, ...]
"""The way to a value: keys and places in lists, from the outside in."""

_LONGEST_SHOWN = 80
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNHOLDABLE = re.compile("[\x00\ud800-\udfff]")
_BOM = "\ufeff"
_TOO_LARGE = f"a script may have at most {MAX_BYTES // 1024} KiB of text and {MAX_VALUES} values"
_TOO_DEEP = f"objects and lists may lie at most {MAX_DEPTH} deep"


class _Remark(BaseModel):
    model_config = ConfigDict(frozen=True)

    path: str
    """Where, such as `shots[2].audio.dialogue.line`; empty for the document itself."""
    value: JsonValue = None
    """What stands there, shortened; None when nothing does."""
    rule: str
    """What is expected."""


class Refusal(_Remark):
    """Something that keeps a script from being filed."""


class ScriptNote(_Remark):
    """Something that the author may want to know; the script is filed all the same."""


class InvalidJson(Exception):
    """The text is not one JSON document that can be read without guessing."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.rule)
        self.refusal = refusal


@dataclass(frozen=True)
class Finding:
    """What was found at a place, before it is spelled for people."""

    place: Place
    value: object
    rule: str

    def as_refusal(self) -> Refusal:
        """The finding as a reason to turn the document down."""
        return Refusal(path=spelled_place(self.place), value=shown(self.value), rule=self.rule)

    def as_note(self) -> ScriptNote:
        """The finding as a word to the author."""
        return ScriptNote(path=spelled_place(self.place), value=shown(self.value), rule=self.rule)


class Unmanageable(Exception):
    """The document is too large or too deep to look at any further."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.rule)
        self.finding = finding


class CleanCopy:
    """A copy of a document that JSON and Postgres can hold, and what had to be left out of it.

    What cannot be held is replaced, so that the rest can be judged in the same go.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._values = 0
        self._characters = 0

    def of(self, document: dict[Any, Any]) -> dict[str, Any]:
        """Copy a whole document.

        Raises:
            Unmanageable: it is too large or too deep.
        """
        return self._object(document, ())

    def _any(self, value: object, place: Place) -> JsonValue:
        self._grow(values=1)
        if len(place) > MAX_DEPTH:
            raise Unmanageable(Finding(place, None, _TOO_DEEP))
        if isinstance(value, dict):
            return self._object(value, place)
        if isinstance(value, list):
            return [self._any(one, (*place, index)) for index, one in enumerate(value)]
        return self._leaf(value, place)

    def _object(self, fields: dict[Any, Any], place: Place) -> dict[str, JsonValue]:
        copied: dict[str, JsonValue] = {}
        for key, value in fields.items():
            if not isinstance(key, str) or _UNHOLDABLE.search(key):
                self.findings.append(Finding((*place, str(key)), None, "a key must be text, without NUL characters"))
                continue
            self._grow(characters=len(key))
            copied[key] = self._any(value, (*place, key))
        return copied

    def _leaf(self, value: object, place: Place) -> JsonValue:
        rule: str | None = None
        kept: JsonValue = None
        match value:
            case None | bool():
                kept = value
            case str():
                self._grow(characters=len(value))
                kept = _UNHOLDABLE.sub("?", value)
                if kept != value:
                    rule = "text may hold no NUL characters and no halves of surrogate pairs"
            case int() | float():
                if _is_holdable(value):
                    kept = value
                else:
                    rule = "a number must be finite, and a whole number at most 2 to the 53rd"
            case _:
                rule = "must be text, a number, true, false, null, a list or an object"
        if rule is not None:
            self.findings.append(Finding(place, value, rule))
        return kept

    def _grow(self, *, values: int = 0, characters: int = 0) -> None:
        self._values += values
        self._characters += characters
        if self._values > MAX_VALUES or self._characters > MAX_BYTES:
            raise Unmanageable(Finding((), None, _TOO_LARGE))


def _is_holdable(number: float) -> bool:
    return abs(number) <= MAX_WHOLE_NUMBER if isinstance(number, int) else math.isfinite(number)


def parse_json(text: str | bytes) -> object:
    """Parse one JSON document, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    NaN and Infinity pass, so that `judge` can name the field.

    Raises:
        InvalidJson: it is not JSON (with line and column), repeats a key, or is too large or too deep.
    """
    if len(text) > MAX_BYTES:
        raise InvalidJson(Refusal(path="", rule=_TOO_LARGE))
    repeated: list[tuple[dict[str, Any], str]] = []

    def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated.append((fields, next(key for key in keys if keys.count(key) > 1)))
        return fields

    try:
        document: object = json.loads(_decoded(text), object_pairs_hook=object_of)
    except json.JSONDecodeError as error:
        rule = f"the text must be JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidJson(Refusal(path="", rule=rule)) from error
    except RecursionError:
        raise InvalidJson(Refusal(path="", rule=_TOO_DEEP)) from None
    except ValueError as error:  # Python refuses to read whole numbers of more than 4300 digits
        raise InvalidJson(Refusal(path="", rule="a number in the text has too many digits")) from error
    for holder, key in repeated:
        place = _place_of(holder, document)
        if place is not None:
            rule = "a key may stand only once in an object: which of the two is meant?"
            raise InvalidJson(Finding((*place, key), holder[key], rule).as_refusal())
    return document


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text.removeprefix(_BOM)
    try:
        return text.decode(json.detect_encoding(text)).removeprefix(_BOM)
    except UnicodeDecodeError as error:
        rule = f"the text must be UTF-8: byte {error.start + 1} cannot be read"
        raise InvalidJson(Refusal(path="", rule=rule)) from error


def _place_of(holder: dict[str, Any], document: object) -> Place | None:
    """Where in the document this very object stands; None when a later repetition has pushed it out."""
    found: list[tuple[Place, object]] = [((), document)]
    while found:
        place, value = found.pop()
        if value is holder:
            return place
        if isinstance(value, dict):
            found += [((*place, key), one) for key, one in value.items()]
        elif isinstance(value, list):
            found += [((*place, index), one) for index, one in enumerate(value)]
    return None


def spelled_place(place: Place) -> str:
    """A place as people write it: `shots[2].audio.dialogue.line`, or `["odd key"].x`; empty for the whole."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step) and len(step) <= _LONGEST_SHOWN:
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(shown(step))}]"
    return text


def shown(value: object) -> JsonValue:
    """A value that JSON can hold and a person can read at a glance."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return _shortened(f"object with {', '.join(map(str, value)) or 'nothing in it'}")
    if isinstance(value, list):
        return f"list of {len(value)}"
    if isinstance(value, int):
        return value if abs(value) <= MAX_WHOLE_NUMBER else f"whole number of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _shortened(str(value))


def _shortened(text: str) -> str:
    text = _UNHOLDABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text[: _LONGEST_SHOWN + 1])
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
