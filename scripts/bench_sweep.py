"""One worker against two on Table 2 of the embedded pair: by joblib and, where it is installed, by Ray.

One worker is the plain sweep, cell after cell in one process. Every run starts from the same built pair and an
outputs folder of its own; what is compared is the whole command's wall time, a launcher's start included. Usage:
``python scripts/bench_sweep.py [--launchers joblib,ray] [OVERRIDE …]``, overrides narrowing the table, e.g.
``method=sft,asft attack.p=0.1``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLUGINS = {"joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}
CHOICES = {"joblib": "workers", "ray": "ray_workers"}
COUNTS = {"joblib": "hydra.launcher.n_jobs", "ray": "hydra.launcher.ray.init.num_cpus"}


def main() -> int:
    """Prints seconds and speed-up by launcher; returns 1 when two workers' scores are not those of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launchers", default=",".join(CHOICES), help="which to measure, e.g. joblib,ray")
    parser.add_argument("--pairs", type=Path, help="outputs/pairs of a store that holds the embedded pair already")
    options, overrides = parser.parse_known_args()
    launchers = [name for name in options.launchers.split(",") if _installed(name)]
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="bench_sweep_") as place:
        pairs = options.pairs or Path(place, "built", "pairs")
        if not options.pairs:
            _asft("align", f"outputs={pairs.parent}", environment={})
        # One worker gets the threads that each of two has, so that what is measured is the second worker.
        threads = {"OMP_NUM_THREADS": str(max(1, cores // 2))}
        print(f"{cores} cores, {threads['OMP_NUM_THREADS']} thread(s) a worker", flush=True)
        one, scores = _run(Path(place, "one"), pairs, [], overrides, threads)
        print(f"one worker            {len(scores)} cells: {one:7.1f} s", flush=True)
        for name in launchers:
            chosen = [f"hydra/launcher={CHOICES[name]}", f"{COUNTS[name]}=2"]
            two, again = _run(Path(place, name), pairs, chosen, overrides, threads)
            if scores != again:
                print(f"{name}: two workers give other scores than one")
                return 1
            print(f"two workers, {name:<8} {len(again)} cells: {two:7.1f} s, {one / two:.2f} times as fast", flush=True)
    return 0


def _run(
    outputs: Path, pairs: Path, launcher: list[str], overrides: list[str], environment: dict[str, str]
) -> tuple[float, dict[str, dict[str, float]]]:
    """Wall seconds of the whole sweep, and each cell's scores."""
    shutil.copytree(pairs, outputs / "pairs")
    began = time.monotonic()
    _asft("run", "-m", "experiment=table2", *overrides, *launcher, f"outputs={outputs}", environment=environment)
    seconds = time.monotonic() - began
    manifests = [json.loads(path.read_text()) for path in outputs.glob("cells/[0-9a-f]*/manifest.json")]
    return seconds, {manifest["key"]: manifest["result"]["metrics"] for manifest in manifests}


def _installed(name: str) -> bool:
    if name not in PLUGINS:
        raise SystemExit(f"--launchers={name}: allowed: {', '.join(PLUGINS)}")
    try:
        found = importlib.util.find_spec(PLUGINS[name]) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        print(f'{name}: not installed; pip install "asft-lab[{name}]"')
    return found


def _asft(*arguments: str, environment: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-m", "asft", *arguments], env={**os.environ, **environment}, check=True)


if __name__ == "__main__":
    raise SystemExit(main())
