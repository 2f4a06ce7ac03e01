"""A camera whose films nobody may publish."""

from __future__ import annotations

from moltpipe.engines.animatic import Animatic
from moltpipe.engines.local import Bench
from moltpipe.engines.protocols import Filmed, TakeRequest
from moltpipe.media.reel import encode_frames
from moltpipe.studio.profiles import Profile


class LensCap(Animatic):
    """A camera that somebody forgot to uncover."""

    def make(self, request: TakeRequest, bench: Bench) -> Filmed:
        profile = Profile(f"{request.height}p{request.rate}", request.width, request.height, request.rate)
        file = bench.stem.with_suffix(".mp4")
        black = bytes(request.width * request.height * 3)
        encode_frames((black for _ in range(profile.frames(request.seconds))), profile, file)
        return Filmed(file=file)
