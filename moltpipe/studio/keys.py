"""Names that go out of the house: slugs, Dagster partition keys, S3 keys.

Here: how each is written, in one place, and what is refused. Not here: who stores under them (`store`),
which row holds them (`ledger`).

Dagster takes any text as a dynamic partition key and fails much later, so nothing becomes one without
passing `partition_key`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath
from uuid import UUID

from moltpipe.studio.moments import in_utc
from moltpipe.studio.records import Period

MAX_KEY = 63
_KEY = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID_DIGITS = 8
_HASH_DIGITS = 12
_MAX_NUMBER = 99
_MAX_SLUG = MAX_KEY - len("-") - _ID_DIGITS - len("-e00")

# Letters that Unicode does not take apart into a base letter and a mark.
_LETTERS = str.maketrans(
    {"æ": "ae", "ø": "o", "œ": "oe", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "\u0131": "i", "&": " and "}
)

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
    ".vtt": "text/vtt; charset=utf-8",
    ".srt": "application/x-subrip; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".bin": "application/octet-stream",
}
VARIANT_SUFFIXES = (".mp4", ".vtt", ".srt", ".jpg")


class BadKeyError(ValueError):
    """A text cannot be (part of) a key."""

    def __init__(self, text: str, expected: str) -> None:
        super().__init__(f"{text!r} cannot be a key: expected {expected}")
        self.text = text
        self.expected = expected


def partition_key(text: str) -> str:
    """The text itself, once it is known to be a partition key.

    Raises:
        BadKeyError: it does not match `^[a-z0-9][a-z0-9_-]{0,62}$`.
    """
    if _KEY.fullmatch(text) is None:
        raise BadKeyError(text, f"1 to {MAX_KEY} of a-z, 0-9, _ and -, the first a letter or digit")
    return text


def slug(title: str) -> str:
    """A title in lower-case ASCII, words joined by `-`, short enough for `episode_key`.

    The same title gives the same slug everywhere. A title of which nothing is left, such as one in
    Japanese, becomes `untitled-` and eight digits of its hash.
    """
    folded = unicodedata.normalize("NFKD", title.casefold().translate(_LETTERS))
    letters = "".join(one for one in folded if not unicodedata.combining(one) and one not in "'\u2019")
    words = re.findall(r"[a-z0-9]+", letters)
    if not words:
        digest = hashlib.sha256(title.encode("utf-8", "surrogatepass")).hexdigest()
        return f"untitled-{digest[:_ID_DIGITS]}"
    return _shortened("-".join(words))


def episode_key(series_slug: str, series_id: UUID, number: int) -> str:
    """Partition key of an episode: `{slug}-{id8}-e{nn}`. A slug that is too long is cut.

    Raises:
        BadKeyError: the slug is none, or the number is not 1 to 99.
    """
    if not 1 <= number <= _MAX_NUMBER:
        raise BadKeyError(str(number), f"an episode number from 1 to {_MAX_NUMBER}")
    return partition_key(f"{_shortened(series_slug)}-{series_id.hex[:_ID_DIGITS]}-e{number:02d}")


def period_key(period: Period) -> str:
    """Partition key of a voting period: its start in UTC, to the minute, and eight digits of its id.

    Raises:
        ValueError: `starts_at` has no time zone.
    """
    starts = in_utc(period.starts_at)
    return partition_key(f"{starts:%Y%m%d-%H%M}z-{period.id.hex[:_ID_DIGITS]}")


def variant_key(episode_id: UUID, variant_number: int, sha256: str, suffix: str = ".mp4") -> str:
    """S3 key of a published cut, and of what lies beside it under the same stem.

    `sha256` is the video's for all of them.

    Raises:
        BadKeyError: no sha256 in hex, or a suffix that no variant has.
    """
    if suffix not in VARIANT_SUFFIXES:
        raise BadKeyError(suffix, f"one of {', '.join(VARIANT_SUFFIXES)}")
    return f"episodes/{episode_id}/variant-{variant_number}-{_digits(sha256)}{suffix}"


def take_key(shot_id: UUID, variant_number: int, take_number: int, sha256: str) -> str:
    """S3 key of a conformed take.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"takes/{shot_id}/{variant_number}-{take_number}-{_digits(sha256)}.mp4"


def take_sound_key(shot_id: UUID, variant_number: int, take_number: int, sha256: str) -> str:
    """S3 key of the sound that a take's clip came with.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"takes/{shot_id}/{variant_number}-{take_number}-{_digits(sha256)}.flac"


def conformed_key(source_sha256: str, recipe: str) -> str:
    """S3 key of house film made from a source: by the source's content and the recipe, a sha256 of all that decides.

    Raises:
        BadKeyError: one of the two is no sha256 in hex.
    """
    return f"conformed/{_digits(source_sha256)}-{_digits(recipe)}.mp4"


def voiceover_key(shot_id: UUID, take_number: int, sha256: str) -> str:
    """S3 key of a voiceover.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"voiceovers/{shot_id}/{take_number}-{_digits(sha256)}.wav"


def poster_key(series_id: UUID, sha256: str) -> str:
    """S3 key of a series' poster.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"series/{series_id}/poster-{_digits(sha256)}.png"


def score_key(episode_id: UUID, take_number: int, sha256: str) -> str:
    """S3 key of an episode's music.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"music/{episode_id}/{take_number}-{_digits(sha256)}.wav"


def arrival_key(call_id: UUID, sha256: str) -> str:
    """S3 key of what a hosted engine delivered, as it came: providers delete their copy, some after one hour.

    Raises:
        BadKeyError: no sha256 in hex.
    """
    return f"arrivals/{call_id}-{_digits(sha256)}.bin"


def content_type(key: str) -> str:
    """What a browser is told about the object under a key, from the key's suffix.

    Raises:
        BadKeyError: the house stores no such kind of file.
    """
    suffix = PurePosixPath(key).suffix
    try:
        return CONTENT_TYPES[suffix]
    except KeyError:
        raise BadKeyError(key, f"a file name ending in one of {', '.join(CONTENT_TYPES)}") from None


def _shortened(text: str) -> str:
    return text[:_MAX_SLUG].rstrip("-_")


def _digits(sha256: str) -> str:
    if _SHA256.fullmatch(sha256) is None:
        raise BadKeyError(sha256, "a sha256 in 64 lower-case hex digits")
    return sha256[:_HASH_DIGITS]
