"""The camera called `stock`: footage that the United States' armed forces have shot, found at DVIDS by a shot's words.

Here: the words of a search, how it is relaxed until it finds something, which video and which rendition of it
is taken, and whom to name. Not here: fetching the rendition and cutting it to length (the layer that calls).

Searching is free and accepts nothing, so a search may be sent again at any time and no job is ever lost. A job's id
is the video's with the size of the picture that was wanted, `video:123@640x360`: after a restart the id is all that
is left to choose a rendition by.

Source: https://api.dvidshub.net/docs/search_api and /docs/asset_api: the key is a parameter of every request; 400
means wrong parameters, 403 a wrong key, 503 that the service is not available. A search shows at most 50 results to a
page and gives no media; `/asset` lists them as `files` with `src`, `type`, `width`, `height` and `size`. A playlist
(`hls_url`) is no file that can be fetched and is not used. No limit is published: the pause between two starts
(`MOLTPIPE_STOCK_START_DELAY_MS`) stands between the searches of one start as well.

Not all that DVIDS hands out is its own: footage of NATO and what is marked as a courtesy belongs to others, and is
passed over.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote as percent_encoded

from moltpipe.engines.errors import EngineError, ErrorClass
from moltpipe.engines.hosted import hosting
from moltpipe.engines.protocols import (
    Download,
    ExternalId,
    Filmed,
    Order,
    Progress,
    Quote,
    TakeRequest,
    Whereabouts,
)
from moltpipe.engines.wire import REQUEST_TIMEOUT_S, Reply, Wire
from moltpipe.settings import StockAccount
from moltpipe.studio.screenplay import PILOT_VARIANTS

NAME = "stock"

ENDORSEMENT_NOTICE = (
    "The appearance of U.S. Department of Defense (DoD) visual information does not imply or constitute DoD "
    "endorsement."
)
"""What must be shown wherever such footage is."""

MAX_WORDS = 5
HANDY_S = 180
"""Longer videos are taken only when there is nothing else: they are fetched whole for a few seconds of them."""
LONGEST_S = 600
"""Never fetched beyond this."""
_PAGE = 50
_MAX_PAGES = 3
_HD_HEIGHT = 720
_SHORTLIST = 3
"""Places of its lane of the results that a variant's seed chooses among."""
_MAX_CHECKS = 6
"""Videos looked at more closely in one start."""
_USUAL_SIZE = (1280, 720)
_GONE = (400, 404, 410)
_LONGEST_CREDIT = 300

_STOP_WORDS = frozenset(
    """
    about above across after again all alone along already always and another any are around away back before behind
    being below beneath beside between beyond both but can comes could does done down each else empty ever every far
    faster few first for forever forth frame from full gets gives goes going gone has have having her here him his how
    into its itself just last least left less like long longer looking looks lies lying makes many more most moves
    moving much near never next not nothing now off once one only onto other others out outside over own part passes
    passing rests right same seen seems several she shot shows since single sits sitting slowly small some someone
    something stands standing still stops such takes than that the their them then there these they thing things this
    those through till time today together tomorrow too towards toward turning turns two under until upon upwards very
    was watches watching were what when where which while who whole whom whose will with within without would yet you
    your loc char three four five six seven eight nine ten hundreds camera scene view anyone becomes changed different
    end everything followed holds leads lets middle nobody none past picture place places returns saw says see side way
    """.split()  # noqa: SIM905 - two hundred words in quotes could not be read
)


@dataclass(frozen=True)
class Search:
    """One search: the words, and whether it asks for the wanted length and shape."""

    words: tuple[str, ...]
    is_exact: bool


_PAGE_LASTS_S = 600.0


class Stock:
    """Finds a video for every shot. Free: nothing is ever billed."""

    name = NAME
    model = "dvids-1"

    def __init__(self, account: StockAccount, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        key = account.key
        self._wire = Wire(
            NAME,
            account.base_url,
            params={"api_key": key},
            secrets=(key, percent_encoded(key, safe="")),
            timeout_s=timeout_s,
        )
        self._pause_s = account.start_delay_ms / 1000
        self._next_search_at = 0.0
        self._pages: dict[tuple[tuple[str, str | int], ...], tuple[float, list[Mapping[str, Any]]]] = {}
        self.hosting = hosting(
            account, self._wire.base_url, key, settles=timedelta(0), first_look=timedelta(milliseconds=100)
        )

    def quote(self, request: TakeRequest) -> Quote:  # noqa: ARG002 - every request costs the same: nothing
        """Nothing."""
        return Quote(cost_usd=Decimal(0), basis="public domain")

    async def submit(self, request: TakeRequest, order: Order) -> ExternalId:
        """Choose a video that no other call of the series has, as long as there is one.

        Raises:
            EngineError: `invalid_input` when nothing was found, naming the words that were tried; `auth`,
                `throttled` or `retry_safe` when DVIDS could not be asked.
        """
        used = frozenset(_video(job) for job in order.others)
        tried: list[str] = []
        taken: list[str] = []
        checked: set[str] = set()
        for search in (*searches(search_words(request)), *searches(place_words(request))):
            fresh, others = arranged(await self._found(search, request, used), request, used)
            tried.append(" ".join(search.words))
            taken += [video for video in others if video not in taken]
            for video in fresh:
                if video not in checked and await self._is_usable(video):
                    return _job(video, request)
                checked.add(video)
        for video in taken[:_MAX_CHECKS]:
            if await self._is_usable(video):
                return _job(video, request)
        raise self._wire.error(ErrorClass.INVALID_INPUT, _nothing_found(request, tried))

    async def poll(self, job: ExternalId) -> Progress | Filmed:
        """The video's rendition and its makers.

        Raises:
            EngineError: `expired` when the video is there no more, or no rendition of it can be fetched.
        """
        reply = await self._wire.get("/asset", params={"id": _video(job)})
        if reply.status in _GONE:
            raise self._gone(f"{_video(job)} is not at DVIDS any more (HTTP {reply.status}: {reply.detail()})")
        asset = self._object_in(reply)
        file = rendition(_files(asset), *_wanted_size(job))
        if file is None:
            raise self._gone(f"{_video(job)} has no MP4 any more")
        return Filmed(file=Download(file), credit=credit_of(asset), billed_usd=Decimal(0))

    async def cancel(self, job: ExternalId) -> None:
        """Nothing runs."""

    async def find(self, request: TakeRequest, order: Order) -> ExternalId | Whereabouts:  # noqa: ARG002 - the protocol's
        """A search accepts nothing, so there is nothing that may have been accepted."""
        return Whereabouts.NOT_THERE

    async def _found(self, search: Search, request: TakeRequest, used: frozenset[str]) -> list[Mapping[str, Any]]:
        """The results of a search: up to three pages, until one has a video that nobody used."""
        found: list[Mapping[str, Any]] = []
        for page in range(1, _MAX_PAGES + 1):
            results = await self._page({**parameters(search, request), "page": page})
            found += results
            if len(results) < _PAGE or arranged(found, request, used)[0]:
                break
        return found

    async def _page(self, asked: Mapping[str, str | int]) -> list[Mapping[str, Any]]:
        """One page of results, asked for at most once in ten minutes: the variants of a shot search for the same."""
        key = tuple(sorted(asked.items()))
        at, results = self._pages.get(key, (-_PAGE_LASTS_S, []))
        if time.monotonic() - at < _PAGE_LASTS_S:
            return results
        await asyncio.sleep(max(0.0, self._next_search_at - time.monotonic()))
        try:
            results = self._results_in(await self._wire.get("/search", params=asked))
        finally:
            # From the answer, as every distance is kept: a request may have been long on its way.
            self._next_search_at = time.monotonic() + self._pause_s
        self._pages[key] = (time.monotonic(), results)
        return results

    async def _is_usable(self, video: str) -> bool:
        """Whether the video is there, nobody else's, and has a file that can be fetched."""
        reply = await self._wire.get("/asset", params={"id": video})
        if reply.status in _GONE:
            return False
        asset = self._object_in(reply)
        return is_free(asset) and rendition(_files(asset), 0, 0) is not None

    def _results_in(self, reply: Reply) -> list[Mapping[str, Any]]:
        results = self._answer(reply).get("results")
        if not isinstance(results, list):
            raise self._wire.error(ErrorClass.RETRY_SAFE, f"HTTP {reply.status} without a list of results")
        return [one for one in results if isinstance(one, dict)]

    def _object_in(self, reply: Reply) -> Mapping[str, Any]:
        results = self._answer(reply).get("results")
        if not isinstance(results, dict):
            raise self._wire.error(ErrorClass.RETRY_SAFE, f"HTTP {reply.status} without a result")
        return results

    def _answer(self, reply: Reply) -> dict[str, Any]:
        if not reply.ok:
            raise self._wire.refusal(reply)
        return reply.document()

    def _gone(self, message: str) -> EngineError:
        return self._wire.error(ErrorClass.EXPIRED, message, cost_usd=Decimal(0))


# What is asked for ---------------------------------------------------------------------------------------------------


def search_words(request: TakeRequest) -> tuple[str, ...]:
    """The words of a shot that footage may be filed under, the scene's before the details', at most five.

    Words that carry no picture and the names of characters are left out, unless nothing else is there.
    """
    said = f"{request.prompt.scene} {request.prompt.details or ''}"
    cast = " ".join(f"{one.name} {one.id}" for one in request.bible.character_anchors)
    named = frozenset(_words(cast))
    words = [word for word in dict.fromkeys(_words(said)) if word not in _STOP_WORDS]
    return tuple([word for word in words if word not in named] or words)[:MAX_WORDS]


def place_words(request: TakeRequest) -> tuple[str, ...]:
    """The words that the series bible has for the places of a shot, for when the shot's own words find nothing."""
    said = f"{request.prompt.scene} {request.prompt.details or ''}"
    places = (one for one in request.bible.location_anchors if re.search(rf"\b{re.escape(one.id)}\b", said))
    words = dict.fromkeys(word for place in places for word in _words(place.description))
    return tuple(word for word in words if word not in _STOP_WORDS)[:MAX_WORDS]


def searches(words: Sequence[str]) -> Iterator[Search]:
    """All searches for these words, from the narrowest to the widest.

    Fewer words first, as many again without asking for length and shape, and at last every word by itself.
    """
    for is_exact in (True, False):
        left = len(words)
        while left > 1:
            yield Search(tuple(words[:left]), is_exact)
            left = (left + 1) // 2
        for word in words[:1] if is_exact else words:
            yield Search((word,), is_exact)


def parameters(search: Search, request: TakeRequest) -> dict[str, str | int]:
    """The parameters of a search, without key and page."""
    asked: dict[str, str | int] = {
        "q": " ".join(search.words),
        "type": "video",
        "to_duration": HANDY_S if search.is_exact else LONGEST_S,
        "max_results": _PAGE,
        "sort": "score",
        "sortdir": "desc",
    }
    if search.is_exact:
        asked |= {"from_duration": math.ceil(request.seconds), "aspect_ratio": "16:9"}
        if request.height >= _HD_HEIGHT:
            asked["hd"] = 1
    return asked


def _words(text: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"[^\W\d_]{3,}", text)]


def _nothing_found(request: TakeRequest, tried: Sequence[str]) -> str:
    shot = f"shot {request.shot_number} of episode {request.episode_number}"
    if not tried:
        return f"{shot}: the scene has no words to search for"
    return f"{shot}: no footage for {', '.join(repr(words) for words in dict.fromkeys(tried))}"


# What is taken -------------------------------------------------------------------------------------------------------


def arranged(
    found: Iterable[Mapping[str, Any]], request: TakeRequest, used: frozenset[str]
) -> tuple[list[str], list[str]]:
    """The videos that fit, best first: those that no other call has (a few of them), and those that one has.

    Every variant has a lane of its own through the results, each fourth place, and its seed chooses among the first
    places of it, so that variants made side by side differ although none knows of the other yet.
    """
    videos = list(dict.fromkeys(str(one["id"]) for one in found if _fits(one)))
    lane = videos[(request.variant_number - 1) % PILOT_VARIANTS :: PILOT_VARIANTS]
    open_in_lane = [video for video in lane if video not in used]
    shortlist = open_in_lane[:_SHORTLIST]
    if shortlist:
        turn = request.seed % len(shortlist)
        shortlist = shortlist[turn:] + shortlist[:turn]
    fresh = dict.fromkeys([*shortlist, *(video for video in videos if video not in used)])
    known = videos[request.seed % len(videos) :] + videos[: request.seed % len(videos)] if videos else []
    return list(fresh)[:_MAX_CHECKS], [video for video in known if video in used]


def is_free(asset: Mapping[str, Any]) -> bool:
    """Whether a video is DVIDS's own to give away, as far as it says so itself."""
    lent = "courtesy" in _makers(asset).casefold()
    return not lent and re.search(r"\bnato", str(asset.get("unit_name") or ""), re.IGNORECASE) is None


def rendition(files: Iterable[Mapping[str, Any]], width: int, height: int) -> str | None:
    """The address of the smallest MP4 that covers `width` x `height` pixels, else of the largest there is.

    Of two of the same size the one with more bytes. None where there is no MP4, only a playlist.
    """
    usable = [one for one in files if _is_mp4(one)]
    if not usable:
        return None
    covering = [one for one in usable if _pixels(one, "width") >= width and _pixels(one, "height") >= height]
    if covering:
        chosen = min(covering, key=lambda one: (_area(one), -_pixels(one, "size")))
    else:
        chosen = max(usable, key=lambda one: (_area(one), _pixels(one, "size")))
    return str(chosen["src"])


def credit_of(asset: Mapping[str, Any]) -> str:
    """Whom to name, such as `SSgt Ada Reyes, 48th Fighter Wing (DVIDS video:123)`."""
    makers = ", ".join(filter(None, (_makers(asset), str(asset.get("unit_name") or "").strip())))
    source = f"DVIDS {asset.get('id', '')}".strip()
    named = f"{makers} ({source})" if makers else source
    return " ".join(named.split())[:_LONGEST_CREDIT]


def _fits(result: Mapping[str, Any]) -> bool:
    duration = result.get("duration")
    if not str(result.get("id", "")).startswith("video:") or not isinstance(duration, int | float):
        return False
    return 0 < duration <= LONGEST_S and is_free(result)


def _makers(asset: Mapping[str, Any]) -> str:
    """The credit, which some answers give as text and others as a list of ranks and names."""
    credit = asset.get("credit")
    if isinstance(credit, str):
        return credit.strip()
    people = [one for one in credit if isinstance(one, dict)] if isinstance(credit, list) else []
    named = (" ".join(str(one.get(part) or "") for part in ("rank", "name")).strip() for one in people)
    return ", ".join(filter(None, named))


def _files(asset: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    files = asset.get("files")
    return [one for one in files if isinstance(one, dict)] if isinstance(files, list) else []


def _is_mp4(file: Mapping[str, Any]) -> bool:
    source = str(file.get("src") or "")
    return file.get("type") == "video/mp4" and source.startswith(("http://", "https://")) and ".m3u8" not in source


def _pixels(file: Mapping[str, Any], side: str) -> int:
    size = file.get(side)
    return int(size) if isinstance(size, int | float) or (isinstance(size, str) and size.isdigit()) else 0


def _area(file: Mapping[str, Any]) -> int:
    return _pixels(file, "width") * _pixels(file, "height")


def _job(video: str, request: TakeRequest) -> ExternalId:
    return ExternalId(f"{video}@{request.width}x{request.height}")


def _video(job: str) -> str:
    return job.partition("@")[0]


def _wanted_size(job: ExternalId) -> tuple[int, int]:
    width, _, height = job.partition("@")[2].partition("x")
    return (int(width), int(height)) if width.isdigit() and height.isdigit() else _USUAL_SIZE
