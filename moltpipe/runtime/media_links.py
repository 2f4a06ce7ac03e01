"""Links that an operator can click: a tiny server on loopback that sends a browser on to the object.

Here: `GET /<key>` answers with a redirect to a link signed for a minute. Why not signed links in the
metadata itself: metadata is kept for ever and read by everybody who sees the UI, a signature should be
neither. In production `MOLTPIPE_MEDIA_URL` names whatever serves the bucket instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from moltpipe.runtime.ports import LOOPBACK, free_ports, is_free
from moltpipe.store import Store

# What a viewer may see; logs of runs lie in the same bucket.
_PUBLISHED = ("episodes/", "takes/", "voiceovers/", "series/")
_SIGNED_FOR_S = 60


def media_port(data_dir: Path) -> int:
    """The port of the last time where it is free, else another one.

    Remembered, because the links lie in metadata that outlives this process.
    """
    file = data_dir / "media.port"
    with suppress(OSError, ValueError):
        port = int(file.read_text())
        if is_free(port):
            return port
    (port,) = free_ports(1)
    file.write_text(str(port))
    return port


@contextmanager
def media_links(store: Store, port: int) -> Iterator[str]:
    """Serve redirects on loopback for the length of a block; gives the address."""

    class Redirect(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = unquote(urlsplit(self.path).path).lstrip("/")
            # Some servers take `..` in a key for a step upwards.
            if not key.startswith(_PUBLISHED) or ".." in key.split("/"):
                self.send_error(404)
                return
            self.send_response(302)
            self.send_header("Location", store.presign(key, expires_s=_SIGNED_FOR_S))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name in the base class)
            """Say nothing: every line would carry what was watched."""

    with ThreadingHTTPServer((LOOPBACK, port), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, name="media-links", daemon=True)
        thread.start()
        try:
            yield f"http://{LOOPBACK}:{port}"
        finally:
            server.shutdown()
            thread.join()
