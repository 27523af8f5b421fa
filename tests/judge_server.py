"""A chat endpoint in a thread that misbehaves on demand, and counts who asked what."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Misbehaviour:
    """One answer: a status with a body, silence until the client hangs up, or ``drip`` seconds between bytes."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    drip: float = 0.0


Script = Callable[[str, int], Misbehaviour | str]  # (user message, how often it was asked before) to a reply


@dataclass
class Server:
    """A running server. ``asked`` holds the user messages in order, ``keys`` the bearer tokens."""

    url: str
    asked: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def completion(text: str, prompt_tokens: int = 100, completion_tokens: int = 10) -> str:
    """A chat completion's JSON."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


@contextmanager
def serve(script: Script) -> Iterator[Server]:
    """Runs a server on a free local port for the length of the block."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][-1]["content"]
            with lock:
                before = server.asked.count(question)
                server.asked.append(question)
                server.keys.append(self.headers.get("Authorization", ""))
                server.bodies.append(body)
                server.times.append(time.monotonic())
            given = script(question, before)
            reply = Misbehaviour(body=completion(given)) if isinstance(given, str) else given
            try:
                if reply.silent:
                    self.rfile.read(1)  # comes back when the client has gone
                    return
                for byte in b"HTTP/1.0 200 OK\r\n\r\n" + reply.body.encode() if reply.drip else b"":
                    self.wfile.write(bytes([byte]))
                    time.sleep(reply.drip)
                self.send_response(reply.status)
                soon = {"Retry-After-Ms": "10"} if reply.status >= 400 else {}
                for name, value in {**soon, **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body.encode())
            except OSError:  # the client gave up waiting
                pass

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
