"""One process with two threads against two processes with one thread each, on one cell of the embedded pair.

What is compared is the seconds of training and of the two metrics' answers, as their manifests have them.
Usage: ``python scripts/bench_processes.py [--pairs OUTPUTS/pairs] [OVERRIDE …]``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STAGES = ("train", "answers HS", "answers FA")


def main() -> int:
    """Prints seconds by stage; returns 1 where two processes score otherwise than one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, help="outputs/pairs of a store that holds the embedded pair already")
    options, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="bench_processes_") as place:
        pairs = options.pairs or Path(place, "built", "pairs")
        if not options.pairs:
            subprocess.run([sys.executable, "-m", "asft", "align", f"outputs={pairs.parent}"], check=True)
        one, two = (_cell(Path(place, str(processes)), pairs, processes, overrides) for processes in (1, 2))
    for stage in STAGES:
        alone, shared = (result["stages"][stage]["seconds"] for result in (one, two))
        print(f"{stage:<10} 1 process {alone:6.1f} s, 2 processes {shared:6.1f} s, {alone / shared:.2f} times")
    for name, metric in one["metrics"].items():
        print(f"{name:<10} {metric['value']:.1f} and {two['metrics'][name]['value']:.1f}")
    return int(one["metrics"] != two["metrics"])


def _cell(outputs: Path, pairs: Path, processes: int, overrides: list[str]) -> dict[str, Any]:
    """The result of one cell without dropout."""
    shutil.copytree(pairs, outputs / "pairs")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *launcher, "asft", "run", "training.dropout=0", *overrides, f"outputs={outputs}"]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(2 // processes)}, check=True)
    result: dict[str, Any] = json.loads(next(outputs.glob("cells/[0-9a-f]*/manifest.json")).read_text())["result"]
    return result


if __name__ == "__main__":
    raise SystemExit(main())
