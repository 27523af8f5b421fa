"""A stand-in for W&B's server on this machine: keeps the views that are saved and the runs that are streamed to it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ServedRun:
    """A run as the server has it: a line of history a logged step, and how its last writer ended."""

    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    exit_code: int | None = None


@dataclass
class Server:
    """Where it listens, the views that were saved, by id, and the runs, by id."""

    url: str
    close: Callable[[], None]
    views: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, ServedRun] = field(default_factory=dict)

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" in query:
            return self._save(variables)
        if "allViews" in query:
            found = [view for view in self.views.values() if view["name"] == variables["viewName"]]
            return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}
        if "view(id" in query:
            return {"view": self.views.get(variables["reportId"])}
        if "RunResumeStatus" in query:
            return {"model": {**MODEL, "bucket": self._resumed(variables["name"])}}
        if "upsertBucket" in query:
            run = self.runs.setdefault(variables["name"], ServedRun())
            run.tags = variables.get("tags") or run.tags
            bucket = {"id": variables["name"], "name": variables["name"], "project": MODEL}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(run.history)}, "inserted": False}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if "GetProjects" in query:
            end = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return {"models": {"pageInfo": end, "edges": [{"node": PROJECT}]}}
        return {"viewer": VIEWER, "project": PROJECT}

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        """Takes what a run's writer sends while it is open, and its end."""
        run, files = self.runs[run_id], sent.get("files") or {}
        run.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent["exitcode"]

    def _resumed(self, run_id: str) -> dict[str, Any] | None:
        """What a writer that goes on with a run is told; None where there is none yet."""
        if (run := self.runs.get(run_id)) is None:
            return None
        tail = json.dumps([json.dumps(run.history[-1])] if run.history else [])
        counts = {"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0}
        texts = {"summaryMetrics": json.dumps(run.summary), "config": "{}", "historyTail": tail, "eventsTail": "[]"}
        return {"id": run_id, "name": run_id, **counts, **texts, "tags": run.tags, "wandbConfig": '{"t": 1}'}

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
MODEL = {"id": "1", "name": "asft-lab", "entity": {"id": "1", "name": "lab"}}
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
            told: dict[str, Any] = {}  # to the client's own telemetry, and to a stream
            if self.path == "/graphql":
                request = json.loads(body)
                told = {"data": server.answer(request["query"], request.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            content = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST  # files beside the stream

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def close() -> None:
        http.shutdown()
        http.server_close()

    server = Server(f"http://127.0.0.1:{http.server_port}", close)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        close()
