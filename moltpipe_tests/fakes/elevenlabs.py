"""A small ElevenLabs: text to speech with a time for every character, and the history of what was spoken.

A line is billed when it is taken on and stands in the history once it is spoken. More lines at once than the account
allows are refused, as are fields that do not exist: the real one lets those pass, and a slip would never show.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from moltpipe_tests.fakes.media import speech, speech_seconds
from moltpipe_tests.fakes.server import Answer, Fault, Provider, Seen

MOST_CHARACTERS = 10_000
MOST_ITEMS = 1000
_VOICE_ID_LENGTH = 20
_FIELDS = frozenset(
    {
        *("text", "model_id", "language_code", "voice_settings", "seed", "previous_text", "next_text"),
        *("previous_request_ids", "next_request_ids", "apply_text_normalization"),
    }
)
_WORDS = {
    Fault.ERROR_500.value: (500, "internal_error"),
    Fault.UNAVAILABLE.value: (503, "service_unavailable"),
    Fault.UNAUTHORIZED.value: (401, "invalid_api_key"),
    Fault.NO_CREDIT.value: (401, "quota_exceeded"),
    Fault.INVALID.value: (400, "invalid_parameters"),
}


class FakeElevenlabs(Provider):
    """Speaks. `history` False is a key that may not read the history; `ids` False leaves the ids out of the headers."""

    prefix = "elevenlabs"

    def __init__(self, *, latency_s: float = 0.2, maximum: int = 5, history: bool = True, ids: bool = True) -> None:
        super().__init__()
        self.latency_s = latency_s
        self.maximum = maximum
        self.history_offered = history
        self.ids_told = ids
        self.throttled_as = "too_many_concurrent_requests"
        self.aligned = True
        """False answers with null for the alignment, which the API's description allows."""
        self.page_limit = MOST_ITEMS
        """No page is longer, whatever is asked for."""
        self.items: list[dict[str, Any]] = []
        """What was spoken, the oldest first."""
        self._speaking = 0
        self._numbers = count(1)

    def handle(self, seen: Seen) -> Answer:
        if not seen.headers.get("xi-api-key"):
            return refused(401, "needs_authorization")
        match seen.method, *seen.path.strip("/").split("/"):
            case "POST", "v1", "text-to-speech", voice, "with-timestamps":
                return self._speak(seen, voice)
            case "GET", "v1", "history", *rest:
                return self._look_back(seen, rest)
        return Answer(404, {"detail": "Not Found"})

    def refusal(self, status: int, what: str, retry_after: float | None = None) -> Answer:
        headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
        if what == Fault.THROTTLED.value:
            headers |= self._concurrency(self.maximum)
            return refused(429, self.throttled_as, headers)
        return refused(*_WORDS.get(what, (status, what)), headers)

    def remember(self, text: str, voice: str, *, model: str = "eleven_multilingual_v2", ago_s: float = 0) -> str:
        """Put a line into the history that nobody paid for here; its history id."""
        with self.lock:
            number = next(self._numbers)
            item = {
                "history_item_id": f"Hist{number:016d}",
                "request_id": f"Requ{number:016d}",
                "voice_id": voice,
                "model_id": model,
                "text": text,
                "date_unix": math.floor(time.time() - ago_s),
                "state": "created",
                "source": "TTS",
                "content_type": "audio/mpeg",
                "alignments": {"alignment": alignment(text), "normalized_alignment": alignment(text.upper())},
            }
            self.items.append(item)
            return str(item["history_item_id"])

    def _speak(self, seen: Seen, voice: str) -> Answer:
        body = seen.json()
        wrong = _wrong(body, voice, seen.query)
        if wrong is not None:
            return wrong
        with self.lock:
            self._speaking += 1
            speaking = self._speaking
        try:
            if speaking > self.maximum:
                return refused(429, "too_many_concurrent_requests", self._concurrency(speaking))
            if self.taken(Fault.FILTERED) is not None:
                return refused(403, "content_against_policy")
            return self.at_the_door(lambda: self._spoken(body, voice, speaking))
        finally:
            with self.lock:
                self._speaking -= 1

    def _spoken(self, body: Mapping[str, Any], voice: str, speaking: int) -> Answer:
        job = f"job-{time.monotonic_ns()}"
        self.accept({"voice_id": voice, **body}, job)
        time.sleep(self.latency_s)
        history_id = self.remember(body["text"], voice, model=body["model_id"])
        self.over(job)
        sound = self.media(speech(body["text"]), "audio/mpeg")
        heard = (sound.content or b"")[: sound.cut]
        headers = self._concurrency(speaking)
        if self.ids_told:
            headers |= {"request-id": history_id.replace("Hist", "Requ"), "history-item-id": history_id}
        document = {
            "audio_base64": base64.b64encode(heard).decode(),
            "alignment": alignment(body["text"]) if self.aligned else None,
            "normalized_alignment": alignment(body["text"].upper()) if self.aligned else None,
        }
        return Answer(200, document, headers=headers)

    def _concurrency(self, current: int) -> dict[str, str]:
        return {"current-concurrent-requests": str(current), "maximum-concurrent-requests": str(self.maximum)}

    def _look_back(self, seen: Seen, rest: list[str]) -> Answer:
        if not self.history_offered:
            return refused(401, "missing_permissions")
        if self.taken(Fault.POLL_FAILS) is not None:
            return refused(500, "internal_error")
        with self.lock:
            items = list(reversed(self.items))
        if not rest:
            return self._page(seen.query, items)
        item = next((one for one in items if one["history_item_id"] == rest[0]), None)
        if item is None:
            return refused(404, "history_item_not_found")
        return self.media(speech(item["text"]), "audio/mpeg") if rest[1:] == ["audio"] else Answer(200, item)

    def _page(self, query: Mapping[str, str], items: list[dict[str, Any]]) -> Answer:
        after = query.get("start_after_history_item_id")
        if after is not None:
            place = next(number for number, one in enumerate(items) if one["history_item_id"] == after)
            items = items[place + 1 :]
        since = int(query.get("date_after_unix", "0"))
        voice = query.get("voice_id")
        items = [one for one in items if one["date_unix"] >= since and voice in (None, one["voice_id"])]
        size = min(int(query.get("page_size", "100")), self.page_limit)
        page = items[:size]
        return Answer(
            200,
            {
                "history": page,
                "has_more": len(items) > size,
                "last_history_item_id": page[-1]["history_item_id"] if page else None,
            },
        )


def alignment(text: str) -> dict[str, list[Any]]:
    """Every character with its start and end in seconds, evenly over the line."""
    share = speech_seconds(text) / max(1, len(text))
    return {
        "characters": list(text),
        "character_start_times_seconds": [round(number * share, 3) for number in range(len(text))],
        "character_end_times_seconds": [round((number + 1) * share, 3) for number in range(len(text))],
    }


def _wrong(body: Mapping[str, Any], voice: str, query: Mapping[str, str]) -> Answer | None:
    if set(body) - _FIELDS or not isinstance(body.get("text"), str):
        return Answer(422, {"detail": [{"type": "missing", "loc": ["body", "text"], "msg": "Field required"}]})
    if query.get("output_format") != "mp3_44100_128":
        return refused(400, "invalid_output_format")
    if len(voice) != _VOICE_ID_LENGTH:
        return refused(404, "voice_not_found")
    return refused(400, "max_character_limit_exceeded") if len(body["text"]) > MOST_CHARACTERS else None


def refused(status: int, word: str, headers: Mapping[str, str] | None = None) -> Answer:
    """A refusal in today's form: `code` and, for older clients, `status`, which are not always the same word."""
    detail = {
        "type": "authentication_error" if status == 401 else "error",
        "code": "unauthorized" if word == "invalid_api_key" else word,
        "message": f"This is what {word} means.",
        "status": word,
        "request_id": "0" * 32,
    }
    return Answer(status, {"detail": detail}, headers=dict(headers or {}))
