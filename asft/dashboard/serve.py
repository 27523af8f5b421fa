"""``asft dashboard --serve``: the site over HTTP on this machine, built anew as cells finish."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from hmac import compare_digest
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_urlsafe
from typing import Any

from asft.console import console
from asft.dashboard.site import Site, fingerprint

WATCH_SECONDS = 2.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class _Handler(SimpleHTTPRequestHandler):
    """Serves the site's folder to whoever has the link, never from a cache and without a line a request.

    The token in the path keeps out other users of this machine and pages of other sites. Were it known, no other
    origin could still have the data as a script, in a frame or under a name of its own for this machine.
    """

    server: Server
    timeout = 30

    def send_head(self) -> Any:
        """Opens a file below the token; no other page may ask for it, and only under this machine's own names."""
        named = self.headers.get("Host") in {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        own = self.headers.get("Sec-Fetch-Site", "none") in {"none", "same-origin"}
        token, found, rest = self.path.removeprefix("/").partition("/")
        if not (named and own and found and compare_digest(token.encode(), self.server.token.encode())):
            self.send_error(HTTPStatus.FORBIDDEN, "Open the link that asft dashboard --serve has printed")
            return None
        self.path = f"/{rest}"
        return super().send_head()

    def translate_path(self, path: str) -> str:
        """The file, or one that is not there in place of a folder, of a symbolic link and of what one leads to."""
        found = super().translate_path(path)
        found = os.path.join(found, "index.html") if os.path.isdir(found) else found
        folder = os.path.realpath(self.directory)
        unlinked = os.path.normpath(os.path.join(folder, os.path.relpath(found, self.directory)))
        plain = os.path.realpath(found) == unlinked and os.path.isfile(found)
        return found if plain else os.path.join(folder, "no such file")

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the page asks every two seconds."""


class Server(ThreadingHTTPServer):
    """Serves ``site`` on 127.0.0.1; port 0 takes a free one. OSError when the port is taken.

    Attributes:
        token: what the path of every request begins with.
    """

    def __init__(self, site: Site, port: int) -> None:
        super().__init__(("127.0.0.1", port), partial(_Handler, directory=str(site.folder)))
        self.token = token_urlsafe(16)

    @property
    def link(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that went away."""


def start_server(site: Site, port: int) -> Server:
    """A :class:`Server` at work in a thread."""
    server = Server(site, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve(site: Site, port: int) -> None:
    """Serves and watches until interrupted."""
    told, new = "", ""
    server = start_server(site, port)
    console.print(f"{server.link}  (who has this link can read all answers; Ctrl-C ends)", soft_wrap=True)
    try:
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                site.write_running()
                if fingerprint(site.store) != site.seen:
                    counts = site.build()
                    new = f"{counts.cells} cells, {counts.failures} failures"
            except (OSError, ValueError) as error:  # what cannot be read or written now is tried again
                new = f"not up to date: {error}"
            if new != told:
                console.print(new, soft_wrap=True)
            told = new
    finally:
        server.shutdown()
        server.server_close()
