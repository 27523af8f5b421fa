"""``asft store`` and ``asft status`` as typed, on a finished sweep."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from conftest import Cli

pytestmark = pytest.mark.slow


def test_a_table_is_verified_exported_imported_and_cleaned(cli: Cli, pair_overrides: list[str], tmp_path: Path) -> None:
    options = ["experiment=table2", *pair_overrides, "method=aligned,sft", "attack.p=0,0.5"]
    assert cli("run", "-m", *options).returncode == 0
    outputs = tmp_path / "outputs"
    folder = f"outputs={outputs}"
    assert "10 entries are whole, 0 damaged" in cli("store", "verify", folder).stdout

    packed = cli("store", "export", "table.tar.gz", *options)
    assert packed.returncode == 0, packed.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    brought = cli("store", "import", "table.tar.gz", f"outputs={elsewhere}")
    assert "entries imported, 0 were here already" in brought.stdout, brought.stderr
    moved = [f"outputs={elsewhere}" if option == folder else option for option in options]
    assert "3 of 3 cells done" in cli("status", *moved).stdout
    assert cli("report", *moved).returncode == 0

    (weights,) = sorted((outputs / "stages" / "train").glob("*/adapter_model.safetensors"))[:1]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found = cli("store", "verify", folder)
    assert found.returncode == 1
    assert f"{weights}: its SHA-256 is not that of what was written" in found.stdout
    assert len(list((outputs / "damaged" / "stages" / "train").iterdir())) == 1

    narrow = [option for option in options if not option.startswith("attack.p")]
    listed = cli("store", "gc", *narrow, "attack.p=0")
    assert "not named by this experiment" in listed.stdout
    assert "could go; --yes deletes them" in listed.stdout
    assert cli("store", "gc", *narrow, "attack.p=0", "--yes").returncode == 0
    assert "2 of 3 cells done, 1 missing" in cli("status", *options).stdout


def test_a_finished_table_of_forty_cells_is_run_again_in_a_moment(
    cli: Cli, pair_overrides: list[str], tmp_path: Path
) -> None:
    """Entries are put there by hand: what counts is how long it takes to see that nothing is to be done."""
    from asft.commands.run import distinct
    from asft.compose import enumerate_cells
    from asft.keys import plan
    from asft.store import Store

    ratios = ",".join(f"{number / 20:g}" for number in range(10))
    options = ["experiment=table2", *pair_overrides, "method=sft,asft,l2,safe_lora", f"attack.p={ratios}"]
    store = Store(tmp_path / "outputs")
    cells = distinct(enumerate_cells(options, sweep=True).cells)
    assert len(cells) == 40
    for item in cells.values():
        store.ensure("cells", plan(item.cell).judge, lambda folder: {"metrics": {"hs": 1.0, "fa": 1.0}, "stages": {}})
    before = os.times()
    began = time.monotonic()
    shown = cli("run", "-m", *options)
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert shown.returncode == 0, shown.stderr
    assert "40 cells, 40 finished already" in shown.stderr
    assert min(used, time.monotonic() - began) < 5, "processor seconds count where other work holds the machine up"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["store", "export", "x.tar.gz", "experiment=table2"], "nothing to export"),
        (["store", "import", "nowhere.tar.gz"], "nowhere.tar.gz"),
        (["store", "verify", "rubbish"], "rubbish: not of the form KEY=VALUE"),
        (["store", "verify", "outputs=nowhere"], "outputs=nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(cli: Cli, tmp_path: Path, arguments: list[str], part: str) -> None:
    (tmp_path / "outputs").mkdir()
    shown = cli(*arguments)
    assert shown.returncode == 2
    assert part in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 1
