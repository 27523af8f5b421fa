"""The command line as a user types it, from another folder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from helpers import Asft, Cli

from asft.commands import COMMANDS

pytestmark = pytest.mark.slow


FLAGS = {
    "run": "--multirun --cfg --resolve --package --info --shell-completion",
    "report": "--format",
    "judge": "--agreement",
    "track": "--workspace --report",
    "dashboard": "--serve",
    "store gc": "--yes",
    "store export": "--weights",
    "store import": "--max-gb --max-files",
    "project": "--base --aligned --out --number --threshold --targets",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_page_of_its_own(asft: Asft, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whole = asft("--help")[1]
    code, page, _ = asft(*command.split(), "--help")
    assert code == 0
    assert f"  {command} " in whole
    assert page.startswith(f"usage: asft {command} ")
    assert all(words in page for words in (COMMANDS[command].split()[0], *FLAGS.get(command, "").split()))
    assert max(map(len, [*page.splitlines(), *whole.splitlines()])) <= 80


def test_version_and_configuration_are_told(asft: Asft) -> None:
    assert asft("--version")[1].startswith("asft-lab 0.") == asft("run", "--version")[1].startswith("asft-lab 0.")
    code, shown, _ = asft("run", "method=asft", "--cfg", "job", "--resolve")
    assert code == 0
    assert "lam: 1.0" in shown
    code, shown, told = asft("run", "-m", "experiment=demo", "--cfg", "job", "-p", "method")
    assert "_target_: asft.methods.controls.Base" in shown, "the first of the sweep's methods"
    assert (code, "of the first of 18 cells:" in told) == (0, True)


def test_help_comes_at_once_and_needs_no_library(cli: Cli) -> None:
    assert "asft run -m experiment=table2" in cli("--help").stdout
    heavy = {"torch", "transformers", "peft", "hydra", "pandas", "plotly", "scipy", "wandb", "pydantic"}
    program = f"import sys, asft.cli; asft.cli.usage(); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


PRESSED = """
import os, signal, sys
from asft.__main__ import main
calls = 0
def watch(*_):
    global calls
    calls += 1
    if {first} <= calls < {first} + 5:
        os.kill(os.getpid(), signal.{signal})
sys.setprofile(watch)
main(["{command}", "experiment=table2"])
"""


@pytest.mark.parametrize(
    ("first", "command", "signal"),
    [
        (10, "run", "SIGINT"),
        (10, "report", "SIGINT"),
        (5_000, "status", "SIGINT"),
        (100_000, "status", "SIGINT"),
        (5_000, "run", "SIGTERM"),
    ],
)
def test_a_signal_five_times_in_a_row_is_told_in_one_line(
    first: int, command: str, signal: str, tmp_path: Path
) -> None:
    """At the first, that and that call of a function: while handlers, libraries and the configuration come up."""
    program = [sys.executable, "-c", PRESSED.format(first=first, command=command, signal=signal)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert done.stderr.startswith("interrupted; finished stages are kept" if command == "run" else "interrupted\n")
    assert done.returncode == {"SIGINT": 130, "SIGTERM": 143}[signal]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("rnu", "unknown command rnu; did you mean run? Allowed: run, report"),
        ("status --frobnicate experiment=demo", "--frobnicate: unknown flag. Allowed: -m, --multirun, and KEY=VALUE"),
        ("run --dry-run method=sft", "--dry-run: unknown flag. Allowed: -m, --multirun"),
        ("run --multi method=sft", "--multi: unknown flag; did you mean --multirun?"),
        ("run attack.p=1.5", "attack.p=1.5"),
        ("run method=asfft", "method=asfft: unknown; did you mean asft? Allowed: aligned,"),
        ("run metod=asft", "did you mean method?"),
        ("run -m experiment=table2 attack.q=1", "attack.q: unknown key"),
        ("run experiment", "not of the form KEY=VALUE"),
        ("run '-m method=sft,asft'", "take the quotes off"),
        ("run =", "=: not of the form KEY=VALUE"),
        ("run ' '", "' ': not of the form KEY=VALUE"),
        ("run --resolve method=sft", "--resolve: is a flag of --cfg; add --cfg job"),
        ("run outputs=/proc/nowhere", "outputs=/proc/nowhere: cannot be written; name another folder"),
        ("judge experiment=demo --agreement nobody", "judge=nobody: unknown"),
        ("run model=smollm2_135m data.root=nowhere", "data.root=nowhere: no folder ft_datasets"),
        ("report method=asft", "name one, e.g. experiment=table2"),
        ("report experiment=table2", "none of its"),
        ("report experiment=table2 --format doc", "invalid choice: 'doc'"),
        ("run method=sft outputs=/etc/hostname", "/etc/hostname"),
        ("run outputs=", "name a folder"),
        ("run -m method=glob(*)", "list the values"),
        ("run -m lam=interval(0,1)", "list the values"),
        ("anchor show", "say `asft anchor inspect`"),
        ("anchor inspect method=sft", "method=sft: has no anchor"),
        ("judge", "required: KEY=VALUE; `asft judge --help` explains"),
        ("landscape", "required: KEY=VALUE"),
        ("project /nope --base a --aligned b --out c", "/nope: no such folder"),
        ("project . --aligned b --out c", "required: --base"),
        ("dashboard --serve=many", "--serve: many: allowed: a whole number, from 0 to 65535"),
        ("plan --gpus 8,-1", "--gpus: -1: allowed: a whole number, 1 or more"),
        ("plan --gpus 8 --tflops nan", "--tflops: nan: allowed: a number, 0.001 or more"),
        ("store import x --max-gb=-1", "--max-gb: -1: allowed: a number, 0 or more"),
        ("store", "say `asft store verify`, `asft store gc`"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(asft: Asft, line: str, part: str) -> None:
    code, _, told = asft(*shlex.split(line))
    assert code == 2, told
    assert part in told
    assert len(told.strip().splitlines()) == 1


def test_a_cell_that_cannot_run_says_why_in_one_line(asft: Asft, tmp_path: Path) -> None:
    code, _, told = asft("run", "attack.n=99999", "dataset.n_test=500")
    assert code == 2
    assert "attack.n=99999" in told
    assert "dataset has 2600" in told
    assert len(told.strip().splitlines()) == 1
    assert not list((tmp_path / "outputs" / "pairs").glob("*")), "told before minutes go into a pair"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("asft st", {"status", "store"}),
        ("asft store ver", {"verify", "gc"}),
        ("asft run met", {"method="}),
        ("asft run method=saf", {"method=safe_lora"}),
        ("asft status experiment=table", {"experiment=table2"}),
        ("asft project --thr", {"--threshold"}),
    ],
)
def test_the_shell_completes_commands_groups_and_choices(
    asft: Asft, line: str, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    code, shown, told = asft("-sc", "query=bash")
    assert expected <= set(shown.split())
    assert (code, told) == (0, "")


def test_from_sweep_to_report(asft: Asft, pair_overrides: list[str], tmp_path: Path) -> None:
    axes = ["method=aligned,asft,safe_lora", "attack.p=0.5"]
    options = ["experiment=table2", *pair_overrides, "model.recipe.safe_lora_modules=2", *axes]
    code, _, told = asft("run", "-m", *options)
    assert code == 0, told
    assert "3 cells, 0 finished already" in told
    assert len(re.findall(r"HS +[\d.]+", told)) == 3, told
    trained = list((tmp_path / "outputs" / "stages" / "train").glob("*/history.jsonl"))
    assert len(trained) == 2, "asft, and the sft that Safe LoRA projects"

    code, _, told = asft("run", "-m", *options)
    assert code == 0
    assert "3 cells, 3 finished already" in told

    code, shown, told = asft("report", *options)
    assert code == 0, told
    page = Path(shown.strip().rpartition("Page: ")[2])
    assert page.exists()
    for name in ("table.md", "table.csv", "table.tex"):
        assert "Safe LoRA" in (page.parent / name).read_text()
    assert "Safe LoRA" in shown

    code, shown, _ = asft("status", *options)
    assert code == 0
    assert "3 of 3 cells done" in shown


def test_a_failing_cell_stops_no_other(
    asft: Asft, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asft.methods.safe_lora.SafeLoRA.finish", Mock(side_effect=ValueError("out of luck")))
    options = ["experiment=table2", *pair_overrides, "method=sft,safe_lora", "attack.p=0.5"]
    options += ["model.recipe.safe_lora_modules=2,3"]
    code, _, told = asft("run", "-m", *options)
    assert code == 1
    assert "2 of 3 cells failed" in told
    assert told.count("out of luck") == told.count("failed: for the same reason") == 1, "what many lack is told once"
    assert "Traceback" not in told
    failures = [json.loads(file.read_text()) for file in (tmp_path / "outputs" / "failures").glob("*.json")]
    assert [(one["message"], one["config"]["method"]["name"]) for one in failures] == [("out of luck", "safe_lora")] * 2
    code, shown, _ = asft("report", *options[:-1], "model.recipe.safe_lora_modules=2")
    assert code == 0
    assert "failed" in shown


def test_a_folder_that_cannot_be_copied_is_told_once(asft: Asft, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [(f"a/{index}", f"b/{index}", f"[Errno 28] No space left on device: 'b/{index}'") for index in range(99)]
    monkeypatch.setattr("asft.commands.status.status", Mock(side_effect=shutil.Error(errors)))
    assert asft("status")[::2] == (2, "asft status: [Errno 28] No space left on device: 'b/0'\n")
