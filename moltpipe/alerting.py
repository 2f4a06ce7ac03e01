"""Alert channels: sending one message to one of them through Apprise.

Here: everything that knows Apprise, and keeping the addresses to ourselves, which are secrets: whoever has that of a
webhook may write to it. Not here: what is told to whom and when (`studio.alerts`, `ledger.incidents`).

Apprise takes half a second to import with its hundred services, so it is imported where it is used.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus, urlsplit

from moltpipe.settings import SettingsError, variable
from moltpipe.studio.alerts import Message

if TYPE_CHECKING:
    from apprise import NotifyBase

PATIENCE_S = 20.0
"""How long one message may take. Apprise itself waits 4 s for a webhook to connect and to answer, 15 s for a mail
server; one that answers in drops would keep it for ever."""
MOST_HANGING = 5
"""So many sendings to one channel may hang beyond their time; each is a thread, and a daemon runs for weeks."""
_ID_LENGTH = 12
_SHORTEST_SECRET = 3
_LONGEST_ERROR = 500
_URL = re.compile(r"\b[\w+.-]+://\S+")
_SEPARATORS = re.compile(r"[/?&=:@#,;\s]+")
_CHANGES = threading.Lock()


@dataclass(frozen=True)
class Channel:
    """A place to which alerts go."""

    id: str
    """Digest of its address."""
    name: str
    """What it is called in messages: its place in the setting, and its kind."""
    url: str

    def __repr__(self) -> str:
        return f"Channel({self.id}, {self.name})"


def channels(urls: Sequence[str]) -> tuple[Channel, ...]:
    """The channels of a setting, each address once."""
    found: dict[str, Channel] = {}
    for position, url in enumerate(urls, start=1):
        digest = hashlib.sha256(url.encode()).hexdigest()[:_ID_LENGTH]
        found.setdefault(digest, Channel(digest, f"channel {position} ({urlsplit(url).scheme})", url))
    return tuple(found.values())


def channel_ids(urls: Sequence[str]) -> tuple[str, ...]:
    """Under which names the ledger knows the channels. Each is a digest: the address is a secret."""
    return tuple(channel.id for channel in channels(urls))


def require_channels(urls: Sequence[str]) -> None:
    """See that Apprise knows what each of these addresses means. Contacts nobody.

    Raises:
        SettingsError: it does not know some of them. The text has their position and never their address.
    """
    wrong = [position for position, url in enumerate(urls, start=1) if _service(url) is None]
    if wrong:
        raise SettingsError(
            f"{variable('alert_urls')}=(hidden): entry {position} of {len(urls)}: expected an address that Apprise "
            "knows, such as slack://…, mailto://… or jsons://host/path for a webhook of one's own"
            for position in wrong
        )


def send(channel: Channel, message: Message, patience_s: float = PATIENCE_S) -> str | None:
    """Send a message. Takes `patience_s` seconds at most.

    Returns:
        None when the channel has taken it, else why it has not, without the address. After too long nobody knows
        whether it was taken.
    """
    answers: list[str | None] = []

    def attempt() -> None:
        answers.append(_attempted(channel, message))

    # Not a thread of a pool: one that hangs would keep the next message, or the process, from ending.
    name = f"alert to {channel.id}"
    if sum(thread.name == name for thread in threading.enumerate()) >= MOST_HANGING:
        return f"{channel.name}: {MOST_HANGING} earlier messages still hang"
    thread = threading.Thread(target=attempt, name=name, daemon=True)
    thread.start()
    thread.join(patience_s)
    return answers[0] if answers else f"{channel.name}: no answer within {patience_s:g} s"


def _attempted(channel: Channel, message: Message) -> str | None:
    _hush()
    from apprise import Apprise, NotifyFormat  # noqa: PLC0415 - half a second, see above

    began = time.monotonic()
    try:
        service = _service(channel.url)
        if service is None:
            return f"{channel.name}: Apprise does not know this kind of address"
        sender = Apprise()
        sender.add(service)
        result = sender.notify(
            body=message.body, title=message.title, notify_type=message.tone, body_format=NotifyFormat.TEXT
        )
        reasons = [entry.message for entry in result.logs()]
    except Exception as error:  # noqa: BLE001 - a hundred services, and none of them may end the thread without an answer
        reasons, result = [f"{type(error).__name__}: {error}"], None
    if result:
        return None
    said = _without_secrets(" ".join(dict.fromkeys(reasons)), channel.url) or "not accepted, without a reason"
    return f"{channel.name}, after {time.monotonic() - began:.1f} s: {said}"


def _service(url: str) -> NotifyBase | None:
    """What Apprise makes of an address; None where it makes nothing of it."""
    _hush()
    from apprise import Apprise, OverflowMode  # noqa: PLC0415 - half a second, see above

    # Apprise loads its services at the first call, which is not for two threads at once.
    with _CHANGES:
        made = Apprise.instantiate(url)
    if made is not None and "overflow=" not in url:
        # What is longer than a service takes would be refused each time, for ever.
        made.overflow_mode = OverflowMode.TRUNCATE
    return made


def _without_secrets(text: str, url: str) -> str:
    """What a service says, without anything that stands in its address: which part of it is the key, only it knows."""
    parts = {part for form in (url, unquote_plus(url)) for part in _SEPARATORS.split(form.partition("://")[2])}
    said = _URL.sub("…", text)
    for part in sorted((part for part in parts if len(part) >= _SHORTEST_SECRET), key=len, reverse=True):
        said = re.sub(re.escape(part), "…", said, flags=re.IGNORECASE)
    line = " ".join(said.split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[: _LONGEST_ERROR - 1]}…"


def _hush() -> None:
    """Apprise logs an address that it does not understand, and urllib3 the path of every request."""
    logger = logging.getLogger("apprise")
    if logger.propagate:
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        # What is captured as the reason of a failure is said at this level.
        logger.setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
