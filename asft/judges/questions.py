"""Many questions to one endpoint: asked at once, each reply kept on disk as it comes, none asked twice."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import tenacity

from asft.judges.chat_endpoint import AskAgain, ChatClient, ChatEndpoint

log = logging.getLogger(__name__)

Messages = list[dict[str, str]]
Parse = Callable[[str], float | None]  # a reply's value, None where the reply is not of the asked form

_GIVE_UP_AFTER = 3  # questions in a row without a reply: the server is down, and the rest need not be tried
_REPORT_EVERY = 20.0  # seconds


@dataclass(frozen=True)
class Answered:
    """One question's reply.

    Attributes:
        id: digest of the question.
        value: what was parsed from the reply; None where every attempt came back malformed.
        reply: the last reply's text.
        prompt_tokens, completion_tokens: of all attempts that were billed.
    """

    id: str
    value: float | None
    reply: str
    prompt_tokens: int
    completion_tokens: int


class ReplyFile:
    """Replies on disk, one JSON line each, appended as they come; a line torn by a crash is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: IO[str] | None = None

    def read(self) -> dict[str, Answered]:
        """All whole replies by question."""
        found = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else []:
            try:
                answered = Answered(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue
            found[answered.id] = answered
        return found

    def __enter__(self) -> ReplyFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+")
        if self._file.tell() and not self.path.read_text().endswith("\n"):
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()

    def keep(self, answered: Answered) -> None:
        """Appends one reply and hands it to the operating system."""
        assert self._file is not None, "a ReplyFile is written inside a with block"
        with self._lock:
            self._file.write(json.dumps(asdict(answered)) + "\n")
            self._file.flush()


def question_id(messages: Messages) -> str:
    """The digest that a reply is kept under."""
    return hashlib.sha256(json.dumps(messages, ensure_ascii=True).encode()).hexdigest()[:32]


def ask_all(
    endpoint: ChatEndpoint, questions: Sequence[Messages], parse: Parse, kept: ReplyFile, key: str
) -> list[Answered]:
    """A reply to every question, in order; equal questions are asked once.

    A malformed reply is asked for again, up to ``endpoint.attempts`` times, and then returned with value None; it
    is not kept, so another run asks once more.

    Args:
        parse: reads a reply's value.
        kept: where replies are, and will be.
        key: ``judge`` or ``grader``, for messages.

    Raises:
        ValueError: when questions stay without a reply. All replies so far are kept.
    """
    by_id = {question_id(messages): messages for messages in questions}
    answered = {name: reply for name, reply in kept.read().items() if name in by_id}
    open_questions = {name: messages for name, messages in by_id.items() if name not in answered}
    if open_questions:
        with ChatClient(endpoint) as client, kept:
            round_of = _Round(client, parse, kept, len(open_questions))
            answered |= round_of.run(open_questions)
        _tell(endpoint, key, len(by_id), list(round_of.answered.values()))
        if missing := len(by_id) - len(answered):
            whole = sum(reply.value is not None for reply in answered.values())
            raise ValueError(
                f"{key}: {missing} of {len(by_id)} answers are without a reply from {endpoint.base_url} "
                f"({round_of.failure}). {whole} replies are kept in {kept.path}; the same command asks for the rest."
            )
    return [answered[question_id(messages)] for messages in questions]


class _Round:
    """One pass over open questions, by several threads."""

    def __init__(self, client: ChatClient, parse: Parse, kept: ReplyFile, total: int) -> None:
        self.client, self.parse, self.kept, self.total = client, parse, kept, total
        self.answered: dict[str, Answered] = {}
        self.failure = ""
        self._stop = threading.Event()
        self._in_a_row = 0
        self._started = self._reported = time.monotonic()

    def run(self, questions: dict[str, Messages]) -> dict[str, Answered]:
        """Asks them all, or until something fails for good; Ctrl-C ends after the requests under way."""
        with ThreadPoolExecutor(self.client.endpoint.concurrency) as pool:
            futures: list[Future[None]] = [pool.submit(self._one, *item) for item in questions.items()]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()  # an error of ours, not the server's, must not pass unseen
        return self.answered

    def _one(self, name: str, messages: Messages) -> None:
        if self._stop.is_set():
            return
        try:
            answered = self._ask(name, messages)
        except AskAgain as error:
            self._in_a_row += 1
            self._failed(f"{self.client.endpoint.attempts} attempts: {error}", self._in_a_row >= _GIVE_UP_AFTER)
            return
        except ValueError as error:
            self._failed(str(error), True)
            return
        self._in_a_row = 0
        self.answered[name] = answered
        if answered.value is not None:
            self.kept.keep(answered)
        self._progress()

    def _ask(self, name: str, messages: Messages) -> Answered:
        """Asks until a reply has a value, or the attempts are used up."""
        reply, value, tokens = "", None, [0, 0]
        attempts = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.client.endpoint.attempts) | tenacity.stop_when_event_set(self._stop),
            wait=self.client.pause_before,
            sleep=tenacity.sleep_using_event(self._stop),
            retry=tenacity.retry_if_exception_type(AskAgain),
            reraise=True,
        )
        try:
            for attempt in attempts:
                with attempt:
                    got = self.client.ask(messages)
                    tokens[0] += got.prompt_tokens
                    tokens[1] += got.completion_tokens
                    reply, value = got.text, self.parse(got.text)
                    if value is None:
                        raise AskAgain("a malformed reply", pause=0.0)
        except AskAgain:
            if not reply:
                raise
        return Answered(name, value, reply, *tokens)

    def _failed(self, reason: str, fatal: bool) -> None:
        self.failure = self.failure or reason
        if fatal:
            self._stop.set()

    def _progress(self) -> None:
        now, done = time.monotonic(), len(self.answered)
        if now - self._reported > _REPORT_EVERY:
            self._reported = now
            left = (now - self._started) / done * (self.total - done)
            log.info("%d of %d replies, %.0f s left", done, self.total, left)


def usage(endpoint: ChatEndpoint, details: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Tokens of verdicts or grades together, and their cost where prices are stated."""
    prompt = sum(row["prompt_tokens"] for row in details)
    completion = sum(row["completion_tokens"] for row in details)
    total: dict[str, float] = {"prompt_tokens": prompt, "completion_tokens": completion}
    if endpoint.price_prompt or endpoint.price_completion:
        total["cost"] = round(endpoint.cost(prompt, completion), 6)
    return total


def _tell(endpoint: ChatEndpoint, key: str, wanted: int, asked: list[Answered]) -> None:
    """One line: what was asked now, what it took, and what was there before."""
    spent = usage(endpoint, [asdict(answered) for answered in asked])
    cost = f", cost {spent['cost']:.4f}" if "cost" in spent else ""
    log.info(
        "%s %s: %d replies, %d of %d distinct answers were there before; %d prompt and %d completion tokens%s",
        key,
        endpoint.model,
        len(asked),
        wanted - len(asked),
        wanted,
        spent["prompt_tokens"],
        spent["completion_tokens"],
        cost,
    )
