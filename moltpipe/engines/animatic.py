"""The camera called `animatic`: a moving storyboard card for every shot, free, on this machine.

Here: from a request to a clip. Not here: the drawing (`storyboard`), the encoder (`media.reel`).
"""

from __future__ import annotations

from collections.abc import Iterator

from moltpipe.engines.local import Bench, LocalEngine
from moltpipe.engines.protocols import Filmed, TakeRequest
from moltpipe.engines.storyboard.card import Card
from moltpipe.media.reel import encode_frames
from moltpipe.studio.profiles import Profile

NAME = "animatic"


class Animatic(LocalEngine[TakeRequest, Filmed]):
    """Draws a shot frame by frame into a clip that already has the house encoding."""

    name = NAME
    model = "storyboard-1"

    def make(self, request: TakeRequest, bench: Bench) -> Filmed:
        """Draw and encode; a cancelled job ends before its next frame."""
        card = Card(request)
        file = bench.stem.with_suffix(".mp4")
        profile = Profile(f"{request.height}p{request.rate}", request.width, request.height, request.rate)

        def frames() -> Iterator[bytes]:
            for frame in card.frames():
                bench.go_on()
                yield frame

        encode_frames(frames(), profile, file)
        return Filmed(file=file)
