"""``asft store`` and ``asft status`` on a finished sweep, and a finished table that is run again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import Asft, Cli
from synthetic_store import write_cell

from asft.cells.compose import enumerate_cells
from asft.commands.run import distinct
from asft.pipeline.run import run_cell

pytestmark = pytest.mark.slow


def test_a_table_is_verified_exported_imported_and_cleaned(
    asft: Asft, pair_overrides: list[str], tmp_path: Path
) -> None:
    options = ["experiment=table2", *pair_overrides, "method=aligned,sft", "attack.p=0,0.5"]
    for item in distinct(enumerate_cells(options, sweep=True).cells).values():
        run_cell(item)
    outputs = tmp_path / "outputs"
    assert "13 entries are whole, 0 damaged" in asft("store", "verify", f"outputs={outputs}")[1]

    assert asft("store", "export", "table.tar.gz", *options)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    elsewhere = f"outputs={tmp_path / 'elsewhere'}"
    assert "11 entries imported, 0 were here already" in asft("store", "import", "table.tar.gz", elsewhere)[1]
    assert "3 of 3 cells done" in asft("status", *options, elsewhere)[1]
    assert asft("report", *options, elsewhere)[0] == 0

    weights = min((outputs / "stages" / "train").glob("*/adapter_model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    code, told, _ = asft("store", "verify", f"outputs={outputs}")
    assert code == 1
    assert f"{weights}: its SHA-256 is not that of what was written" in told
    assert len(list((outputs / "damaged" / "stages" / "train").iterdir())) == 1

    listed = asft("store", "gc", f"outputs={outputs}", "device=cpu", "workers=1", "--yes")[1]
    assert "not named by this experiment" not in listed, "these words name no experiment"
    assert "3 of 3 cells done" in asft("status", *options)[1]
    narrow = [*options[:-1], "attack.p=0"]
    listed = asft("store", "gc", *narrow)[1]
    assert "not named by this experiment" in listed
    assert "could go; --yes deletes them" in listed
    assert "3 of 3 cells done" in asft("status", *options)[1]
    assert "deleted" in asft("store", "gc", *narrow, "--yes")[1]
    assert "2 of 3 cells done, 1 missing" in asft("status", *options)[1]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["store", "export", "x.tar.gz", "experiment=table2"], "nothing to export"),
        (["store", "export", "outputs", "experiment=table2"], "outputs: is there already; name a new file"),
        (["store", "export", "no/x.tar.gz", "experiment=table2"], "no/x.tar.gz: there is no such folder"),
        (["store", "import", "nowhere.tar.gz"], "nowhere.tar.gz"),
        (["store", "verify", "rubbish"], "rubbish: not of the form KEY=VALUE"),
        (["store", "verify", "outputs=nowhere"], "outputs=nowhere: no such folder"),
    ],
)
def test_a_mistake_is_one_line(asft: Asft, tmp_path: Path, arguments: list[str], part: str) -> None:
    (tmp_path / "outputs").mkdir()
    code, _, told = asft(*arguments)
    assert code == 2
    assert part in told
    assert len(told.strip().splitlines()) == 1


def test_a_finished_table_is_run_again_without_loading_what_trains(
    cli: Cli, pair_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries are put there by hand: nothing is to be done, and torch takes longer to load than to see that."""
    options = ["experiment=table2", *pair_overrides, "method=sft,asft,l2,safe_lora", "attack.p=0,0.1"]
    cells = distinct(enumerate_cells(options, sweep=True).cells)
    for item in cells.values():
        write_cell(item, 1, 1)
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    shown = cli("run", "-m", *options)
    assert shown.returncode == 0, shown.stderr
    assert "8 cells, 8 finished already" in shown.stderr
