"""Lettering: the two typefaces of the house, and text that fits.

Here: fonts, wrapping, and what becomes of characters that the fonts do not have. Not here: where text stands.

Oswald for titles and slates, Inter for what is read; both under the SIL Open Font License, from the wheels
fontpkg-oswald and fontpkg-inter, so that no machine needs fonts of its own. They cover Latin, Cyrillic and (Inter)
Greek. Other scripts are spelt by their letters' Unicode names where these say a sound, else shown as a middle dot.

Layout is FreeType's basic one: Raqm fails on some of what agents send (a lone noncharacter ends in RuntimeError), and
is not in every build of Pillow.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import fontpkg  # type: ignore[import-untyped]  # ships no types
from PIL import ImageFont

Face = ImageFont.FreeTypeFont
TITLE, TEXT = "Oswald", "Inter"
_UNSUPPORTED = "\uffff"
_SOUND = re.compile(
    r"^(?:HIRAGANA|KATAKANA|HANGUL|GREEK|CYRILLIC|HEBREW|ARABIC|DEVANAGARI|ARMENIAN|GEORGIAN|THAI) "
    r"(?:(SMALL|CAPITAL) )?(?:LETTER|SYLLABLE)(?: (?:SMALL|CAPITAL))? (?P<sound>[A-Z]+)"
)


@functools.cache
def font(family: str, size: int, weight: int) -> Face:
    """A font in pixels and CSS weight (Oswald 200 to 700, Inter 100 to 900)."""
    face = ImageFont.truetype(str(fontpkg.path(family)), max(6, size), layout_engine=ImageFont.Layout.BASIC)
    # Inter has an optical size before its weight: the names say which axis is which.
    values: list[float] = []
    for axis in face.get_variation_axes():
        wanted = weight if axis["name"] == b"Weight" else size
        values.append(min(axis["maximum"] or wanted, max(axis["minimum"] or wanted, wanted)))
    face.set_variation_by_axes(values)
    return face


@functools.cache
def _has(family: str, character: str) -> bool:
    face = font(family, 32, 400)
    return bytes(face.getmask(character)) != bytes(face.getmask(_UNSUPPORTED))


def family_for(text: str, wanted: str) -> str:
    """The wanted family, or Inter where it has letters of the text that the wanted one lacks, such as Greek ones."""
    letters = {one for one in unicodedata.normalize("NFC", text) if one.isalpha()}
    lacking = {one for one in letters if not _has(wanted, one)}
    return TEXT if any(_has(TEXT, one) for one in lacking) else wanted


def legible(text: str, family: str) -> str:
    """The text on one line, in characters that the family has."""
    shown = []
    for one in unicodedata.normalize("NFC", " ".join(text.split())):
        if one == " " or _has(family, one):
            shown.append(one)
        elif unicodedata.category(one)[0] in "CMZ" or unicodedata.category(one) in ("So", "Sk"):
            continue  # emoji, marks and controls: nothing is better than a box
        else:
            shown.append(_spelt(one, family))
    return " ".join("".join(shown).split())


def _spelt(character: str, family: str) -> str:
    plain = "".join(one for one in unicodedata.normalize("NFKD", character) if not unicodedata.combining(one))
    if plain != character and plain and all(_has(family, one) for one in plain):
        return plain
    named = _SOUND.match(unicodedata.name(character, ""))
    return named["sound"].lower() if named else "\u00b7"


def wrapped(text: str, face: Face, width: float, lines: int) -> list[str]:
    """The text in at most so many lines of a width in pixels; what does not fit ends in an ellipsis."""
    words = [piece for word in text.split() for piece in _pieces(word, face, width)]
    rows: list[str] = []
    row = ""
    for word in words:
        longer = f"{row} {word}" if row else word
        if not row or face.getlength(longer) <= width:
            row = longer
        elif len(rows) + 1 == lines:
            return [*rows, _ellipsized(longer, face, width)]
        else:
            rows.append(row)
            row = word
    return [*rows, row] if row else rows


def _pieces(word: str, face: Face, width: float) -> list[str]:
    """A word, cut where it is wider than a line: scripts without spaces, and addresses."""
    pieces: list[str] = []
    piece = ""
    for one in word:
        if piece and face.getlength(piece + one) > width:
            pieces.append(piece)
            piece = one
        else:
            piece += one
    return [*pieces, piece] if piece else pieces


def _ellipsized(row: str, face: Face, width: float) -> str:
    while row and face.getlength(f"{row}…") > width:
        row = row[:-1]
    return f"{row.rstrip(' ,.;:')}…"


def fitted(text: str, family: str, weight: int, *, width: float, sizes: range, lines: int) -> tuple[Face, list[str]]:
    """The largest of the sizes (falling) in which the whole text fits, and its lines."""
    for size in sizes:
        face = font(family, size, weight)
        rows = wrapped(text, face, width, lines)
        if "".join(rows).replace(" ", "") == text.replace(" ", "") and all(
            " " not in word and any(word in row.split() for row in rows) for word in text.split()
        ):
            return face, rows
    face = font(family, sizes[-1], weight)
    return face, wrapped(text, face, width, lines)
