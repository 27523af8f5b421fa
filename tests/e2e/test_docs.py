"""The commands in README and docs are true: each composes, and the cheap ones run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import REPOSITORY, Asft

from asft.cells.compose import enumerate_cells
from asft.commands import COMMANDS
from asft.commands.track import with_tracker
from asft.judges.refusal import RefusalJudge

pytestmark = pytest.mark.slow

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PLACEHOLDERS = ("PATH_OR_HUB_ID", "FOLDER", "…", "ADAPTER", "CHAT_MODEL", "judge.rows=[safe.jsonl")


def commands() -> list[list[str]]:
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["asft"] and not any(mark in line.partition("#")[0] for mark in PLACEHOLDERS):
                    found.append(words[1:])
    return found


def composed() -> list[tuple[bool, tuple[str, ...]]]:
    """What the commands compose, each once; whether it is a sweep. Bare experiments are composed by other tests."""
    found = set()
    for words in commands():
        overrides = [word for word in words[1:] if "=" in word]
        if words[0] == "track":
            overrides = with_tracker(overrides)
        sweep = words[0] in {"report", "status", "judge", "plan", "doctor"} or "-m" in words
        if words[0] != "project" and [word.partition("=")[0] for word in overrides] != ["experiment"]:
            found.add((sweep, tuple(overrides)))
    return sorted(found)


@pytest.mark.parametrize(("sweep", "overrides"), composed(), ids=str)
def test_every_command_composes(sweep: bool, overrides: tuple[str, ...]) -> None:
    assert enumerate_cells(overrides, sweep=sweep).cells


def test_every_make_target_exists() -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", "".join(page.read_text() for page in PAGES), re.M))
    there = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    assert named
    assert named <= there


def test_status_runs_as_the_readme_has_it(asft: Asft) -> None:
    code, shown, _ = asft("status", "experiment=table2")
    assert code == 1, "nothing has run, so not every cell is done"
    assert re.search(r"0 of \d+ cells done", shown)


def test_links_lead_somewhere() -> None:
    targets = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())]
    assert not [found for found in targets if "://" not in found[1] and not (found[0].parent / found[1]).exists()]


def test_the_site_builds_without_a_broken_link_or_reference(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "site" / "reference" / "config.html").read_text()
    assert "harmful_max_new_tokens" in reference, "the schemas' keys come from their code"


def test_the_named_pair_of_the_how_to_composes(tmp_path: Path) -> None:
    (named,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "how-to" / "model.md").read_text(), re.S)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(named)
    (item,) = enumerate_cells([f"hydra.searchpath=[file://{tmp_path}]", "model=mine"], sweep=False).cells
    assert item.cell.model.name == "mine"
    assert item.cell.training.lr == yaml.safe_load(named)["recipe"]["lora_lr"]


def choices(group: str) -> list[str]:
    return [f"`{path.stem}`" for path in (REPOSITORY / "conf" / group).glob("*.yaml")]


@pytest.mark.parametrize(
    ("page", "named"),
    [
        ("reference/commands.md", [f"`asft {command}" for command in COMMANDS]),
        ("methods.md", choices("method")),
        ("judges.md", [*choices("judge"), *RefusalJudge().phrases]),
    ],
)
def test_a_page_names_all_there_is(page: str, named: list[str]) -> None:
    text = (REPOSITORY / "docs" / page).read_text().replace("\n> ", " ")
    assert not [name for name in named if name not in text]
