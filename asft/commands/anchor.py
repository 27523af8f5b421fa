"""``asft anchor inspect``: the alignment direction's spectrum, module by module."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.table import Table

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.commands.flags import Flags
from asft.config import ConfigError
from asft.console import quiet_libraries, results
from asft.methods.asft import AsFT
from asft.store.entries import content_key, write_json
from asft.store.errors import DamagedEntry
from asft.store.schemas import Spectrum, read_document


def anchor_inspect(arguments: list[str]) -> int:
    """Prints, and writes as JSON and as a plot, how far I − Ĉ is from I: is AsFT more than weight decay?"""
    _, overrides = Flags("anchor inspect", "model=NAME, method=asft or a variant of it, …").split(arguments)
    job = enumerate_cells(overrides, sweep=False).cells[0]
    cell = job.cell
    if not isinstance(cell.method, AsFT):
        raise ConfigError(f"method={cell.method.name}: has no anchor to inspect; choose asft or one of its variants")
    key = content_key(
        {"pair": job.plan.pair, "method": cell.method.settings(), "targets": list(cell.training.target_modules)}
    )
    folder = job.store.root / "reports" / f"anchor_{cell.model.name}_{cell.method.name}_{key[:6]}"
    found: dict[str, Any] = {}
    with suppress(OSError, DamagedEntry):
        found = read_document(folder / "spectrum.json", Spectrum)
    if found.get("key") != key or not (folder / "spectrum.html").exists():
        with job.store.claim(key, wait=True):  # so that `asft store gc` takes no pair or anchor away
            found = _inspect(job, cell.method, folder, key)
    table = Table("module", box=None, pad_edge=False)
    for heading in ("‖V‖", "λ₁(Ĉ)", "eff. rank", "mean ‖I−(I−Ĉ)²‖", "λ > 0.1"):
        table.add_column(heading, justify="right")
    for module in found["modules"]:
        table.add_row(
            module["name"].removeprefix("model.layers."),
            f"{module['norm']:.3g}",
            f"{module['spectral_distance']:.3g}",
            f"{module['entropy_rank']:.1f}/{module['out_features']}",
            f"{1 - module['mean_decay']:.3f}",
            f"{module['noticeable']}",
        )
    terminal = results()
    terminal.print(table)
    terminal.print(found["summary"])
    terminal.print(f"Plot: {folder / 'spectrum.html'}\nJSON: {folder / 'spectrum.json'}", soft_wrap=True)
    return 0


def _inspect(job: Job, method: AsFT, folder: Path, key: str) -> dict[str, Any]:
    from asft.anchor import spectrum  # loads torch
    from asft.models.pair import resolve_device
    from asft.pipeline.prepare import prepare_pair
    from asft.report import charts

    quiet_libraries()
    pair, device = prepare_pair(job), resolve_device(job.device)
    built = method.anchor(pair, job.cell.training.target_modules, device, job.store.root / "anchors")
    folder.mkdir(parents=True, exist_ok=True)
    found = {"key": key, **spectrum.as_plain(spectrum.inspect(built))}
    rows = charts.eigenvalues(found["modules"])
    (folder / "spectrum.html").write_text(charts.page(charts.spectrum(), rows), encoding="utf-8")
    write_json(folder / "spectrum.json", found)
    return found
