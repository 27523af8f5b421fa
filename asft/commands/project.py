"""``asft project``: repairs a LoRA adapter on disk with Safe LoRA."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from asft import project_adapter
from asft.console import quiet_libraries, show_log


def project(arguments: list[str]) -> int:
    """Writes a projected copy of the adapter and prints what was done to each module."""
    options = _parser().parse_args(arguments)
    quiet_libraries()
    show_log()
    report = project_adapter(
        options.adapter,
        options.base,
        options.aligned,
        options.out,
        mode=options.mode,
        number=options.number,
        threshold=options.threshold,
    )
    table = Table("module", "cosine", "projected", "‖BA‖ before", "after", box=None, pad_edge=False)
    for module in report.modules:
        cosine = "–" if module.cosine is None else f"{module.cosine:.5f}"
        norms = f"{module.norm_before:.4g}", f"{module.norm_after:.4g}"
        table.add_row(module.name, cosine, "yes" if module.projected else "", *norms)
    terminal = Console(file=sys.stdout, highlight=False)
    terminal.print(table)
    terminal.print(f"{len(report.projected)} of {len(report.modules)} modules projected; adapter: {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asft project", description=__doc__)
    parser.add_argument("adapter", type=Path, help="folder of a PEFT LoRA adapter (adapter_config.json, safetensors)")
    parser.add_argument("--base", type=Path, required=True, help="folder of the base model's safetensors")
    parser.add_argument("--aligned", type=Path, required=True, help="folder of the aligned model's safetensors")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the projected adapter")
    parser.add_argument("--mode", choices=["number", "threshold"], default="number")
    parser.add_argument("--number", type=int, default=10, help="K: how many modules to project in mode number")
    parser.add_argument("--threshold", type=float, default=0.5, help="τ: project modules with cosine ≤ τ")
    return parser
