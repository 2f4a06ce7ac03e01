"""Captions as part of the picture, for players and platforms that show no text track: only by setting.

Here: drawing the captions of one clip into it, and how they look. Not here: which captions a clip has
(`media.captions.within`), whether a deployment wants this (`studio.finish`).

They are burned into clips and not into the finished cut, so that only what has captions is encoded again, and several
clips at a time: the whole cut took 9.7 s for a minute of 720p where the stitch takes a tenth of one.

libass draws them with Inter (SIL Open Font License), which the wheel fontpkg-inter carries: Latin, Cyrillic and Greek
come out the same on every machine. Letters that Inter lacks (Arabic, Chinese, Japanese, Korean, ...) are taken from the
machine's fonts where it has them. Where it has none they would come out as empty boxes: such captions are refused.
Signs that no font has, such as an emoji, are left out.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ffmpeg
import fontpkg  # type: ignore[import-untyped]  # ships no types
import pysubs2

from moltpipe.media.captions import LINE_CHARACTERS, Caption
from moltpipe.media.errors import MediaError
from moltpipe.media.landing import landing
from moltpipe.media.probe import probe
from moltpipe.media.reel import graph_arguments
from moltpipe.media.runner import deadline_s, run, url
from moltpipe.studio.profiles import Profile

FONT = "Inter"
_LETTERS = 0.056
"""Letters' size (their em) as a part of the picture's shorter side: 20 pixels at 360 lines, 60 at 1080."""
_EM = 0.826
"""Inter's em as a part of its ascent and descent, by which ASS counts the size of a font."""
_ADVANCE = 0.58
"""Mean advance of Inter's letters as a part of its em, rather more than less."""
_OUTLINE, _SHADOW = 0.085, 0.04
"""Parts of the em. An outline and no box: it hides less of the picture, and is read on white as well as on black."""
_SIDE = 0.06
"""Free space at either side as a part of the width."""
_FOOT, _FOOT_TALL = 0.07, 0.16
"""Free space at the bottom as a part of the height; in tall pictures the buttons of platforms lie there."""
_LACKING = re.compile(r"failed to find any fallback with glyph 0x([0-9A-Fa-f]+)")
"""What libass says about a letter that it found in no font."""


def burn(clip: Path, shown: Sequence[Caption], target: Path, *, profile: Profile) -> None:
    """Draw captions into a clip of house film, which stays house film of the same frames.

    Times count from the clip's start. Lines that are too long for the picture, as in a tall one, are broken anew. A
    clip without captions is kept as it is.

    Raises:
        MediaError: the clip cannot be read, FFmpeg failed, or no font of this machine has the letters.
    """
    if not shown:
        _keep(clip, target)
        return
    found = probe(clip).video
    if found is None:
        raise MediaError(f"{clip.name} has no picture to burn captions into")
    with landing(target) as part:
        lacking = _draw(clip, shown, part, frames=found.frames, profile=profile)
        letters = sorted(one for one in lacking if unicodedata.category(one)[0] in "LN")
        if letters:
            raise MediaError(
                f"no font of this machine has {' '.join(letters)}: install one (fonts-noto-cjk, ...), "
                "or leave captions out of the picture"
            )
        if lacking:
            kept = [replace(one, text="".join(sign for sign in one.text if sign not in lacking)) for one in shown]
            _draw(clip, kept, part, frames=found.frames, profile=profile)


def _draw(clip: Path, shown: Sequence[Caption], target: Path, *, frames: int, profile: Profile) -> set[str]:
    """Encode the clip with its captions; return the signs that no font has."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "captions.ass"
        script.write_text(_script(shown, profile), encoding="utf-8")
        fonts = Path(fontpkg.path(FONT)).parent
        picture = ffmpeg.input(url(clip)).video.filter("ass", filename=str(script), fontsdir=str(fonts))
        args = graph_arguments(picture, profile, url(target), frames=frames)
        said = run(["-y", *args], timeout_s=deadline_s(profile.seconds(frames))).stderr
    return {chr(int(found, 16)) for found in _LACKING.findall(said)}


def _keep(clip: Path, target: Path) -> None:
    with landing(target) as part:
        try:
            os.link(clip, part)
        except OSError:
            shutil.copyfile(clip, part)


def _script(shown: Sequence[Caption], profile: Profile) -> str:
    """The captions as an ASS script in the picture's own pixels."""
    em = _LETTERS * min(profile.width, profile.height)
    side = round(_SIDE * profile.width)
    narrow = LINE_CHARACTERS * _ADVANCE * em > profile.width - 2 * side
    script = pysubs2.SSAFile()
    script.info |= {
        "PlayResX": str(profile.width),
        "PlayResY": str(profile.height),
        "WrapStyle": "0",
        "ScaledBorderAndShadow": "yes",
        "YCbCr Matrix": "TV.709",
    }
    script.styles["Default"] = pysubs2.SSAStyle(
        fontname=FONT,
        fontsize=round(em / _EM, 2),
        primarycolor=pysubs2.Color(255, 255, 255),
        outlinecolor=pysubs2.Color(0, 0, 0, 20),
        backcolor=pysubs2.Color(0, 0, 0, 110),
        outline=round(_OUTLINE * em, 2),
        shadow=round(_SHADOW * em, 2),
        alignment=pysubs2.Alignment.BOTTOM_CENTER,
        marginl=side,
        marginr=side,
        marginv=round((_FOOT_TALL if profile.height > profile.width else _FOOT) * profile.height),
    )
    for one in shown:
        event = pysubs2.SSAEvent(start=one.start_ms, end=one.end_ms)
        event.text = _literal(one.text).replace("\n", " " if narrow else "\\N")
        script.append(event)
    return script.to_string("ass")


def _literal(text: str) -> str:
    """Text in which nothing is a code of ASS: a brace would begin one, and so would a backslash before a letter."""
    return text.replace("\\", "\\\u2060").replace("{", "\\{").replace("}", "\\}")
