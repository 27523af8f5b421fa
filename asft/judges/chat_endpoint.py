"""A chat endpoint of OpenAI's form, asked politely: retries, rate limit, and a key that is never shown.

The key is read from an environment variable at the moment of asking. It is kept in no field, so it cannot reach
a configuration, a manifest or a traceback, and it is cut out of everything that a server sends back.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any

import httpx
import tenacity
from pydantic import AfterValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

log = logging.getLogger(__name__)

_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_PAUSE = 60.0  # seconds, whatever the backoff or a server asks for
_SHOWN = 160  # characters of a server's reply in an error message
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _endpoint_url(value: str) -> str:
    """A URL that cannot carry a secret: it is kept in manifests."""
    try:
        url = httpx.URL(value)
    except httpx.InvalidURL as error:
        raise ValueError(f"is no URL ({error})") from None
    if url.userinfo or url.query:
        raise ValueError("holds credentials or a query; the key belongs into the variable that api_key_env names")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("give http://… or https://…, up to and without /chat/completions")
    return value


def _variable_name(value: str) -> str:
    if value and not _VARIABLE.fullmatch(value):
        raise ValueError("give the name of an environment variable, never the key itself")
    return value


class AskAgain(Exception):
    """A failure that may pass: no connection, a time-out, a busy server, a reply that is not of the right form."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause  # seconds that the server asked for


@plain_dataclass(frozen=True)
class Reply:
    """A reply's text and the tokens it was billed for."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ChatEndpoint:
    """Settings of an endpoint. The last eight cannot change a reply and are no part of a verdict's key.

    Attributes:
        base_url: up to and without ``/chat/completions``.
        model: the name that the server knows the model by.
        temperature, max_tokens: of the reply.
        api_key_env: the *name* of the environment variable that holds the key; empty for a server without one.
        timeout: seconds for one reply.
        attempts: how often one answer is asked about before it is given up.
        backoff: seconds before the second attempt; doubled, with jitter, before each further one.
        concurrency: requests under way at once.
        requests_per_minute: over all of them together; 0 is no limit.
        price_prompt, price_completion: per million tokens, in any currency.
    """

    base_url: Annotated[str, AfterValidator(_endpoint_url)]
    model: str
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_tokens: Annotated[int, Field(ge=1)] = 512
    api_key_env: Annotated[str, AfterValidator(_variable_name)] = ""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    attempts: Annotated[int, Field(ge=1)] = 5
    backoff: Annotated[float, Field(gt=0)] = 1.0
    concurrency: Annotated[int, Field(ge=1)] = 4
    requests_per_minute: Annotated[float, Field(ge=0)] = 0.0
    price_prompt: Annotated[float, Field(ge=0)] = 0.0
    price_completion: Annotated[float, Field(ge=0)] = 0.0

    def check_endpoint(self, key: str) -> None:
        """Checks what can be known without asking.

        Args:
            key: ``judge`` or ``grader``, for messages.

        Raises:
            ValueError: for a key variable that is not set.
        """
        if self.api_key_env and not os.environ.get(self.api_key_env, "").strip():
            raise ValueError(
                f"{key}.api_key_env={self.api_key_env}: this environment variable is not set. Put the endpoint's key "
                f"into it, or set {key}.api_key_env= for a server without keys."
            )

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost at the stated prices."""
        return (prompt_tokens * self.price_prompt + completion_tokens * self.price_completion) / 1e6


PRACTICAL = frozenset(
    [
        "api_key_env",
        "timeout",
        "attempts",
        "backoff",
        "concurrency",
        "requests_per_minute",
        "price_prompt",
        "price_completion",
    ]
)


class ChatClient:
    """Asks an endpoint; any number of threads may share one. Close it after use (``with``)."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint = endpoint
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
        self._http = httpx.Client(timeout=endpoint.timeout)
        self._lock, self._next = threading.Lock(), 0.0

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(self, messages: list[dict[str, str]]) -> Reply:
        """One request.

        Raises:
            AskAgain: for a failure that may pass.
            ValueError: for one that will not: a wrong key, an unknown model, a malformed request.
        """
        # Stripped: a key with a stray newline makes an illegal header, which the error message would quote.
        key = os.environ.get(self.endpoint.api_key_env, "").strip() if self.endpoint.api_key_env else ""
        self._wait_for_turn()
        body = {
            "model": self.endpoint.model,
            "messages": messages,
            "temperature": self.endpoint.temperature,
            "max_tokens": self.endpoint.max_tokens,
        }
        url = self.endpoint.base_url.rstrip("/") + "/chat/completions"
        try:
            response = self._http.post(url, json=body, headers={"Authorization": f"Bearer {key}"} if key else {})
        except httpx.RequestError as error:
            reason = f"no reply in {self.endpoint.timeout:g} s" if isinstance(error, httpx.TimeoutException) else error
            raise AskAgain(f"{self.endpoint.base_url}: {_without(key, str(reason))}") from None
        shown = _without(key, " ".join(response.text.split()))[:_SHOWN]
        if response.status_code in _RETRIED:
            raise AskAgain(f"HTTP {response.status_code}: {shown}", _retry_after(response))
        if not response.is_success:
            raise ValueError(f"{self.endpoint.base_url} answered HTTP {response.status_code}: {shown}")
        return _read(response, key, shown)

    def pause_before(self, state: tenacity.RetryCallState) -> float:
        """Seconds before the next attempt: what the server asks for, else exponential with jitter."""
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, AskAgain) and error.pause is not None:
            return min(error.pause, _LONGEST_PAUSE)
        backoff = tenacity.wait_exponential_jitter(
            initial=self.endpoint.backoff, max=_LONGEST_PAUSE, jitter=self.endpoint.backoff
        )
        return backoff(state)

    def _wait_for_turn(self) -> None:
        """Keeps requests of all threads apart by 60 s / ``requests_per_minute``."""
        if not self.endpoint.requests_per_minute:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 60 / self.endpoint.requests_per_minute
        time.sleep(max(0.0, turn - time.monotonic()))


def _read(response: httpx.Response, key: str, shown: str) -> Reply:
    try:
        payload: dict[str, Any] = response.json()
        text = payload["choices"][0]["message"]["content"]
        usage = payload.get("usage") or {}
        tokens = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise AskAgain(f"a reply that is no chat completion: {shown}") from None
    if not isinstance(text, str) or not text.strip():
        raise AskAgain("an empty reply")
    return Reply(_without(key, text), *tokens)


def _without(key: str, text: str) -> str:
    """A server may echo the key it was sent; it goes no further."""
    return text.replace(key, "***") if key else text


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a ``Retry-After`` header; its form as a date is rare and left to the backoff."""
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None
