"""``asft dashboard --serve``: the site over HTTP on this machine, built anew as cells finish."""

from __future__ import annotations

import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from rich.markup import escape

from asft.console import console
from asft.dashboard.site import Site, fingerprint

WATCH_SECONDS = 2.0


class _Handler(SimpleHTTPRequestHandler):
    """Serves the site's folder, never from a cache and without a line a request."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the page asks every two seconds."""


def start_server(site: Site, port: int) -> ThreadingHTTPServer:
    """Serves ``site`` on 127.0.0.1 from a thread; port 0 takes a free one.

    Raises:
        OSError: when the port is taken.
    """
    handler = partial(_Handler, directory=str(site.folder))
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def serve(site: Site, port: int) -> None:
    """Serves and watches until interrupted."""
    seen, told, new = fingerprint(site.store), "", ""
    server = start_server(site, port)
    console.print(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends)")
    try:
        while True:
            time.sleep(WATCH_SECONDS)
            try:
                site.write_running()
                if (now := fingerprint(site.store)) != seen:
                    seen, counts = now, site.build()
                    new = f"{counts.cells} cells, {counts.failures} failures"
            except (OSError, ValueError) as error:  # what cannot be read or written now is tried again
                new = f"not up to date: {error}"
            if new != told:
                console.print(escape(new), soft_wrap=True)
            told = new
    finally:
        server.shutdown()
        server.server_close()
