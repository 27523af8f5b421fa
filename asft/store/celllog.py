"""One structured log a cell: JSON lines in ``outputs/logs/<key>.jsonl``, appended to by every run of the cell."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from asft.text import masked, mended

FOLDER = "logs"


class JsonLines(logging.Formatter):
    """Time, level, logger, message, host and process of a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class QuietFile(logging.FileHandler):
    """Keeps text that is whole and without secrets; a full disk costs log lines, not a page of traceback for each."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(mended(super().format(record)))

    def handleError(self, record: logging.LogRecord) -> None:
        """Drops the record."""


@contextmanager
def cell_log(outputs: Path, key: str) -> Iterator[None]:
    """Writes what this package logs inside the ``with`` block to the cell's own file."""
    folder = outputs / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    handler = QuietFile(folder / f"{key}.jsonl", delay=True, encoding="utf-8")
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("asft")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
