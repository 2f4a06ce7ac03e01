"""A small DVIDS: searching a library, and the renditions of a video.

Searching is free, so nothing is ever accepted or billed here: what a test counts is `seen`. As at the real one the
media's addresses carry no signature, a key that is missing or wrong is refused with 403, and a parameter that does
not exist with 400. The words of its refusals are not documented; these are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from moltpipe_tests.fakes.media import clip
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

KEY = "key-5ecret5tock"
SIZES = ((320, 180), (640, 360), (1280, 720), (1920, 1080))
_SEARCH_PARAMETERS = frozenset(
    {
        *("api_key", "q", "type", "branch", "category", "country", "from_duration", "to_duration", "hd"),
        *("aspect_ratio", "max_results", "page", "sort", "sortdir"),
    }
)
_ASSET_PARAMETERS = frozenset({"api_key", "id"})
_MOST_RESULTS = 50


@dataclass(frozen=True)
class Footage:
    """One video of the library."""

    number: int
    keywords: str
    seconds: int = 8
    aspect_ratio: str = "16:9"
    sizes: tuple[tuple[int, int], ...] = SIZES
    """Pixels of its MP4s; none means that there is only a playlist."""
    credit: str | list[dict[str, str]] = "SSgt Ada Reyes"
    unit_name: str = "48th Fighter Wing"

    @property
    def id(self) -> str:
        return f"video:{self.number}"


_SUBJECTS = (
    "lighthouse black rock night beam white sea",
    "lighthouse stars coast tower",
    "sea dusk waves blue water",
    "ship harbour town rain quay",
    "rain window wet letters glass",
    "dry letter wet sand beach",
    "library archive hall shelves lamps books",
    "clock station second hand platform midnight",
    "train platform machines steam coffee",
    "desert rover dry river track wheel",
    "robot arm mast stones panels",
    "green leaf frost drop sunset",
    "night sky stars planet black point light",
    "lamp amber light candle dark",
    "radio relays receiver needle brass antenna",
    "paper printer sheet board roll",
    "buoy endless frost planet",
    "pigeon bird wings moth hills",
    "cat stairs iron door",
    "old tower roof rafters beam machine",
    "forest path snow mountain",
    "city street crowd walks market",
    "helicopter rescue storm waves",
    "soldiers march field morning fog",
    "space heliopause solar edge dust",
    "engine core room glass face",
    "notice noticeboard cork paper wall",
    "log book ink desk green",
    "ridge valley dust stones horizon",
    "lens lightning darkness thunder haze",
)
LIBRARY = tuple(
    Footage(1000 + 10 * index + copy, keywords, seconds=8 + copy)
    for index, keywords in enumerate(_SUBJECTS)
    for copy in range(4)
)
"""Four videos of every subject, so that each variant of a pilot can have one of its own."""


class FakeStock(Provider):
    """Speaks DVIDS's search and asset interface."""

    prefix = "stock"

    def __init__(self, library: tuple[Footage, ...] = LIBRARY, *, key: str | None = None) -> None:
        """`key` is the only one that is let in; None lets in any."""
        super().__init__()
        self.library = {one.id: one for one in library}
        self.key = key
        self.taken_down: set[str] = set()
        """Ids of videos that `/asset` does not know any more, although a search still shows them."""

    def handle(self, seen: Seen) -> Answer:
        if seen.path.startswith("/media/"):
            return self._medium(seen.path)
        if seen.method != "GET":
            return _refused(400, "only GET is supported")
        given = seen.query.get("api_key", "")
        if not given or (self.key is not None and given != self.key):
            # The real one may repeat what it was given: then no message of ours may.
            return _refused(403, f"api_key '{given}' is not valid")
        routes: dict[str, Callable[[], Answer]] = {
            "/search": lambda: self.at_the_door(lambda: self._search(seen.query)),
            "/asset": lambda: self._asset(seen.query),
        }
        route = routes.get(seen.path)
        return (
            route() if route else Answer(404, content=b"<html>not found</html>", headers={"content-type": "text/html"})
        )

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        answer = _refused({401: 403, 402: 403, 422: 400}.get(status, status), what)
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        return Answer(answer.status, answer.document, headers=headers)

    def _search(self, query: Any) -> Answer:  # noqa: ANN401 - a mapping of text
        wrong = _wrong(query, _SEARCH_PARAMETERS, ("from_duration", "to_duration", "hd", "max_results", "page"))
        if wrong:
            return wrong
        at_once = int(query.get("max_results", _MOST_RESULTS))
        if not 1 <= at_once <= _MOST_RESULTS:
            return _refused(400, "max_results must be between 1 and 50")
        found = [one for one in self.library.values() if _matches(one, query)]
        start = (int(query.get("page", 1)) - 1) * at_once
        return Answer(
            document={
                "page_info": {"total_results": min(len(found), 1000), "results_per_page": at_once},
                "results": [_result(one) for one in found[start : start + at_once]],
            }
        )

    def _asset(self, query: Any) -> Answer:  # noqa: ANN401 - as above
        if self.taken(Fault.POLL_FAILS) is not None:
            return _refused(500, "internal error")
        wrong = _wrong(query, _ASSET_PARAMETERS, ())
        if wrong:
            return wrong
        footage = self.library.get(query.get("id", ""))
        if footage is None or footage.id in self.taken_down or self.taken(Fault.JOB_FAILS) is not None:
            return _refused(400, "no asset was found for the id")
        return Answer(document={"results": self._document(footage)})

    def _document(self, footage: Footage) -> dict[str, Any]:
        files = [
            {
                "src": f"{self.base}/media/{footage.number}/{width}x{height}.mp4",
                "type": "video/mp4",
                "width": width,
                "height": height,
                "size": width * height * footage.seconds // 8,
                "bitrate": width * height,
            }
            for width, height in footage.sizes
        ]
        credit = footage.credit
        if isinstance(credit, str):
            rank, _, name = credit.partition(" ")
            credit = [{"rank": rank, "name": name}]
        return {
            **_result(footage),
            "credit": credit,
            "files": files,
            "hls_url": f"{self.base}/media/{footage.number}/master.m3u8",
        }

    def _medium(self, path: str) -> Answer:
        _, _, number, name = path.split("/")
        footage = self.library.get(f"video:{number}")
        size = tuple(int(side) for side in name.removesuffix(".mp4").split("x")) if name.endswith(".mp4") else ()
        if footage is None or size not in footage.sizes:
            return Answer(404, content=b"", headers={"content-type": "text/html"})
        return self.media(clip(footage.seconds, *size, seed=footage.number), "video/mp4")


def _wrong(query: Any, known: frozenset[str], numbers: tuple[str, ...]) -> Answer | None:  # noqa: ANN401 - as above
    unknown = sorted(set(query) - known)
    if unknown:
        return _refused(400, f"unknown parameter: {', '.join(unknown)}")
    bad = [name for name in numbers if not query.get(name, "1").isdigit()]
    return _refused(400, f"not a number: {', '.join(bad)}") if bad else None


def _matches(footage: Footage, query: Any) -> bool:  # noqa: ANN401 - as above
    """All words must be there, as where a search engine joins words with AND."""
    return (
        query.get("type", "video") == "video"
        and set(query.get("q", "").split()) <= set(footage.keywords.split())
        and int(query.get("from_duration", 0)) <= footage.seconds <= int(query.get("to_duration", 10**6))
        and query.get("aspect_ratio", footage.aspect_ratio) == footage.aspect_ratio
        and (query.get("hd") != "1" or any(height >= 720 for _, height in footage.sizes))
    )


def _result(footage: Footage) -> dict[str, Any]:
    credit = footage.credit if isinstance(footage.credit, str) else footage.credit[0]["name"]
    return {
        "id": footage.id,
        "type": "video",
        "title": footage.keywords.title(),
        "keywords": ", ".join(footage.keywords.split()),
        "category": "B-Roll",
        "branch": "Air Force",
        "unit_name": footage.unit_name,
        "credit": credit,
        "duration": footage.seconds,
        "aspect_ratio": footage.aspect_ratio,
        "hd": any(height >= 720 for _, height in footage.sizes),
        "url": f"https://www.dvidshub.net/video/{footage.number}",
    }


def _refused(status: int, what: str) -> Answer:
    return Answer(status, {"errors": [what]})
