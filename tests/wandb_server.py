"""A stand-in for W&B's server: takes GraphQL requests on this machine and keeps the views that are saved."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Server:
    """Where it listens, and the views that were saved, by id."""

    url: str
    views: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            return self._save(variables)
        if "allViews" in query:
            found = [view for view in self.views.values() if view["name"] == variables["viewName"]]
            return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
        if "view(id" in query:
            return {"view": self.views.get(variables["reportId"])}
        if "GetProjects" in query:
            end = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": end, "edges": [{"node": PROJECT}]}}
        return {"viewer": VIEWER, "project": PROJECT}

    def _save(self, variables: dict[str, Any]) -> dict[str, Any]:
        number = variables.get("id") or base64.b64encode(f"View:{len(self.views):04}".encode()).decode()
        project = {"id": "1", "name": variables["projectName"], "entityName": variables["entityName"]}
        inserted = number not in self.views
        self.views[number] = {**variables, "id": number, "project": project}
        return {"upsertView": {"view": self.views[number], "inserted": inserted}}


PROJECT = {
    "__typename": "Project",
    "id": "1",
    "internalId": "1",
    "name": "asft-lab",
    "entityName": "lab",
    "createdAt": "",
    "isBenchmark": False,
    "user": None,
}
VIEWER = {
    "id": "1",
    "entity": "lab",
    "username": "someone",
    "email": "",
    "flags": "{}",
    "teams": {"edges": [{"node": {"name": "lab"}}]},
}


@contextmanager
def wandb_server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/graphql":
                request = json.loads(body)
                told = {"data": server.answer(request["query"], request.get("variables") or {})}
            else:  # the client's own telemetry
                told = {}
            content = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}")
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
