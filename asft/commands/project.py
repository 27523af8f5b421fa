"""``asft project``: repairs a LoRA adapter on disk with Safe LoRA."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from asft.commands.flags import Flags, number, whole
from asft.config import ConfigError
from asft.console import quiet_libraries, results, show_log


def project(arguments: list[str]) -> int:
    """Writes a projected copy of the adapter and prints what was done to each module."""
    flags = Flags("project")
    flags.add_argument("adapter", type=Path, help="folder of a PEFT LoRA adapter (adapter_config.json, safetensors)")
    flags.add_argument("--base", type=Path, required=True, help="folder of the base model's safetensors")
    flags.add_argument("--aligned", type=Path, required=True, help="folder of the aligned model's safetensors")
    flags.add_argument("--out", type=Path, required=True, help="new folder for the projected adapter")
    flags.add_argument(
        "--number", type=whole(), metavar="K", help="project the K modules of smallest cosine (10, or all)"
    )
    flags.add_argument(
        "--threshold", type=number(-1, 1), metavar="τ", help="instead: those of cosine at most τ (e.g. 0.5)"
    )
    flags.add_argument("--mode", choices=["number", "threshold"], help="by default the one of the two that is given")
    flags.add_argument("--targets", metavar="NAME,…", type=lambda text: text.split(","), help="these modules only")
    options, _ = flags.split(arguments)
    for folder in (options.adapter, options.base, options.aligned):
        if not folder.exists():
            raise ConfigError(f"{folder}: no such folder; a repository's is downloaded by `hf download ID`")
    from asft import project_adapter  # loads torch

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
        targets=options.targets,
    )
    table = Table("module", "cosine", "projected", "‖BA‖ before", "after", box=None, pad_edge=False)
    for module in report.modules:
        cosine = "–" if module.cosine is None else f"{module.cosine:.5f}"
        norms = f"{module.norm_before:.4g}", f"{module.norm_after:.4g}"
        table.add_row(module.name, cosine, "yes" if module.projected else "", *norms)
    terminal = results()
    terminal.print(table)
    terminal.print(f"{len(report.projected)} of {len(report.modules)} modules projected; adapter: {options.out}")
    return 0
