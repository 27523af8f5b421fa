"""What a judge and a grader behind a chat endpoint share: one question, asked about every answer, replies kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic.dataclasses import dataclass

from asft.config import identity
from asft.judges.chat_endpoint import PRACTICAL, ChatEndpoint
from asft.judges.questions import Answered, Messages, Parse, ReplyFile, ask_all
from asft.store.entries import content_key


@dataclass(frozen=True)
class ChatQuestion(ChatEndpoint):
    """A plug-in that asks a model behind an endpoint about answers; stands before ``Judge`` or ``Grader`` among bases.

    Class attributes:
        role: ``judge`` or ``grader``, the configuration's key, for messages.
        system, question: the two messages' texts; ``{prompt}`` and ``{answer}`` in the second are filled in.

    Attributes:
        cache: folder in which every reply is kept as it comes.
    """

    role: ClassVar[str] = ""
    system: ClassVar[str] = ""
    question: ClassVar[str] = ""
    practical: ClassVar[frozenset[str]] = PRACTICAL | {"cache"}
    cache: str = "judge_cache"

    def check(self) -> None:
        """See :meth:`ChatEndpoint.check_endpoint`."""
        self.check_endpoint(self.role)

    def settings(self) -> dict[str, Any]:
        """The plug-in's identity for content keys, with the question's text."""
        text = content_key({"system": self.system, "question": self.question})
        return {**identity(self, self.practical), "text": text}

    def ask(self, prompts: Sequence[str], answers: Sequence[str], parse: Parse) -> list[Answered]:
        """A reply about each (prompt, answer), in order.

        Raises:
            ValueError: when the endpoint cannot be used, or replies are missing; what was received is kept.
        """
        self.check()
        questions = [self.about(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        kept = ReplyFile(Path(self.cache) / f"{content_key(self.settings())}.jsonl")
        return ask_all(self, questions, parse, kept, self.role)

    def about(self, prompt: str, answer: str) -> Messages:
        """The two messages that the model is sent."""
        # Not str.format: a prompt or an answer may hold braces.
        text = self.question.replace("{prompt}", "\0").replace("{answer}", answer).replace("\0", prompt)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]


def billed(reply: Answered) -> dict[str, int]:
    """The tokens of a reply, as verdicts and grades keep them for :func:`asft.judges.questions.usage`."""
    return {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
