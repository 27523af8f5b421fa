"""Tiny pairs of every architecture, built once; whoever changes one makes a copy with ``save_pair``."""

from __future__ import annotations

from pathlib import Path

import pytest
from anchor_pairs import TARGETS, save_pair


@pytest.fixture(scope="session", params=sorted(TARGETS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def kind_pair(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``base`` and ``aligned`` of that kind, to be read only."""
    directory = tmp_path_factory.mktemp(kind)
    save_pair(directory, kind)
    return directory


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A Llama's ``base`` and ``aligned``, which the test may change."""
    save_pair(tmp_path, "llama")
    return tmp_path
