"""``make gpu`` passes on a CPU, where nothing but torch, transformers, peft, accelerate and pydantic is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import gpu
import pytest

# What a machine with torch need not have; pydantic, too, comes by --wheels where it is not there.
ABSENT = ["hydra", "omegaconf", "wandb", "rich", "datasets", "openai", "scipy", "vl_convert"]


@pytest.mark.slow
def test_it_passes_on_a_cpu_where_little_is_installed(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n")
    done = subprocess.run(
        [sys.executable, gpu.__file__, str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]
    assert parts.keys() == {part.__name__ for part in gpu.PARTS}
    assert all(row["ok"] for part in parts.values() for row in part["rows"])
    assert [name for name, part in parts.items() if "left out" in part["rows"][0]] == ["table2", "smollm2"]
    assert (tmp_path / "out" / "gpu.md").read_text().count("\n## ") == len(parts)


def test_a_part_that_fails_says_why(tmp_path: Path) -> None:
    def broken(machine: gpu.Machine) -> list[gpu.Row]:
        """What it shows."""
        raise RuntimeError("out of memory\nand a long trace")

    found = gpu.outcome(broken, gpu.Machine(full=False, out=tmp_path))
    assert found["rows"] == [{"failed": "RuntimeError: out of memory", "ok": False}]


@pytest.mark.slow
def test_what_is_not_installed_comes_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "unheard_of-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("unheard_of.py", "answer = 42\n")
        wheel.writestr("unheard_of-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: unheard-of\nVersion: 1.0\n")
        wheel.writestr(
            "unheard_of-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("unheard_of-1.0.dist-info/RECORD", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    gpu.use_wheels(tmp_path, str(tmp_path / "place"))
    assert __import__("unheard_of").answer == 42
