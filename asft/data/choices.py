"""Questions with options from published files, in the form that lm-eval gives them."""

from __future__ import annotations

import re

from asft.data.gate import Record
from asft.data.rows import Choice

_ASKED, _FORMAT = "question: ", "\n\nAnswer format:"


def choice_row(key: str, record: Record) -> Choice:
    """A question of one of three forms, put as ``Question: …\\nAnswer:``; an option that stands twice counts once.

    - ``question``, ``choices`` (a list of texts) and ``answer`` (the right one's place from 0, or its text);
    - ``question``, ``choices`` (``text`` and ``label``, a list each) and ``answerKey`` (a label), as in ai2_arc
      (https://huggingface.co/datasets/allenai/ai2_arc);
    - ``instruction`` with ``question: … Answer1: … Answer2: …`` and ``answer`` (``answer2``), as in LLM-Adapters
      (https://github.com/AGI-Edgerunners/LLM-Adapters).

    Raises:
        ValueError: naming file, place and field.
    """
    if "choices" in record:
        asked, options, right = record.filled("question"), *_listed(record)
    else:
        head, *options = re.split(r"\s*\bAnswer\d+:\s*", record.filled("instruction").partition(_FORMAT)[0])
        asked, right = head.partition(_ASKED)[2].strip(), f"{record.text('answer')}"
        if not asked or len(options) < 2:
            raise record.wrong("instruction", f"a text with '{_ASKED}…' and 'Answer1: … Answer2: …'")
        places = {f"answer{number}": option for number, option in enumerate(options, 1)}
        if right not in places:
            raise record.wrong("answer", ", ".join(places))
        right = places[right]
    return Choice(key, f"Question: {asked}\nAnswer:", right, options=tuple(dict.fromkeys(options)), bare=True)


def _listed(record: Record) -> tuple[list[str], str]:
    """The options and the right one."""
    found = record["choices"]
    labels = found.get("label") if isinstance(found, dict) else None
    texts = found.get("text") if isinstance(found, dict) else found
    if not isinstance(texts, list) or len(texts) < 2 or not all(isinstance(text, str) and text for text in texts):
        raise record.wrong("choices", "a list of two or more texts, or an object with such lists, text and label")
    if labels is not None:
        known, field = dict(zip(labels, texts, strict=False)), "answerKey"
    else:
        known, field = {**dict(enumerate(texts)), **{text: text for text in texts}}, "answer"
    right = record[field]
    if isinstance(right, bool) or not isinstance(right, str | int) or right not in known:
        raise record.wrong(field, ", ".join(map(str, known)))
    return texts, known[right]
