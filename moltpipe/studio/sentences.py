"""Where a sentence ends: which full stops belong to an abbreviation.

Here: the abbreviations of English prose, and initials. Not here: cutting a narration into passages
(`studio.narration`), or speech into captions (`media.captions`).

A caption that ended with "Dr." put the name into the next one, in the middle of the sentence.
"""

from __future__ import annotations

import re

_OPENING = "\"'\u201c\u2018\u00ab(["
_CAPITAL = "A-Z\u00c0-\u00de\u0391-\u03a9\u0410-\u042f"
_LEADS_ON = (
    "Mr Mrs Ms Messrs Dr Drs Prof St Mt Ft Capt Cpt Col Gen Lt Maj Sgt Cpl Pvt Adm Cmdr Rev Hon Fr Gov Sen Rep Pres "
    "Supt Insp vs cf viz ca approx e.g i.e Ph.D"
)
"""Followed by what they belong to, whatever that begins with."""
_BEFORE_A_NUMBER = "No Nos Nr Fig Vol Ch Pt Art Sec Sect Op p pp Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec"
"""Without a number behind them some are words of their own, such as `No.`."""
_BEFORE_A_SMALL_LETTER = "etc al Jr Sr Esq Inc Ltd Co Corp Bros Dept Ave Blvd Rd a.m p.m"
"""They may end a sentence as well: before a capital letter they are taken to."""


def _abbreviations(words: str) -> re.Pattern[str]:
    either = "|".join(re.escape(word) for word in words.split())
    return re.compile(rf"{_BEGINS}(?:{either})\.$")


_BEGINS = rf"(?:^|[\s{re.escape(_OPENING)}\u2013\u2014-])"
_WAYS = (
    (_abbreviations(_LEADS_ON), re.compile(r"\S")),
    (_abbreviations(_BEFORE_A_NUMBER), re.compile(r"\d")),
    (_abbreviations(_BEFORE_A_SMALL_LETTER), re.compile(rf"(?![{_CAPITAL}])[^\W\d_]")),
    # Initials, such as those of `J. R. Orlo` and the `U.S. Navy`.
    (re.compile(rf"{_BEGINS}(?:(?!I)[{_CAPITAL}]\.|(?:[{_CAPITAL}]\.){{2,}})$"), re.compile(r"\S")),
    # "So did I." ends a sentence, "I. M." does not.
    (re.compile(rf"{_BEGINS}I\.$"), re.compile(rf"[{_CAPITAL}]\.")),
)
"""The last word of what stands before, and the beginning of what stands behind."""


def is_abbreviated(before: str, after: str) -> bool:
    """Whether the full stop at the end of `before` only abbreviates its last word, and the sentence goes on.

    `after` is what follows it. Of abbreviations that may as well end a sentence, it decides. Where neither can be told,
    as of "the U.S. He", the sentence goes on: two sentences in one caption are the lesser fault.
    """
    ahead = after.lstrip(" " + _OPENING)
    return any(word.search(before) is not None and then.match(ahead) is not None for word, then in _WAYS)
