"""``asft anchor inspect``: the alignment direction's spectrum, module by module."""

from __future__ import annotations

import json

from rich.table import Table

from asft.cells.compose import enumerate_cells
from asft.commands.flags import Flags
from asft.config import ConfigError
from asft.console import quiet_libraries, results


def anchor_inspect(arguments: list[str]) -> int:
    """Prints, and writes as JSON and as a plot, how far I − Ĉ is from I: is AsFT more than weight decay?"""
    _, overrides = Flags("anchor inspect", "model=NAME, method=asft or a variant of it, …").split(arguments)
    job = enumerate_cells(overrides, sweep=False).cells[0]
    cell, store = job.cell, job.store
    from asft.anchor import spectrum  # loads torch
    from asft.methods.asft import AsFT
    from asft.models.pair import resolve_device
    from asft.pipeline.prepare import prepare_pair
    from asft.report import charts

    if not isinstance(cell.method, AsFT):
        raise ConfigError(f"method={cell.method.name}: has no anchor to inspect; choose asft or one of its variants")
    quiet_libraries()
    pair = prepare_pair(job)
    targets = cell.training.target_modules
    built = cell.method.anchor(pair, targets, resolve_device(job.options.device), store.root / "anchors")
    spectra = spectrum.inspect(built)
    folder = store.root / "reports" / f"anchor_{cell.model.name}_{cell.method.name}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spectrum.json").write_text(text := spectrum.to_json(spectra))
    rows = charts.eigenvalues(json.loads(text)["modules"])
    (folder / "spectrum.html").write_text(charts.page(charts.spectrum(), rows), encoding="utf-8")
    table = Table("module", box=None, pad_edge=False)
    for heading in ("‖V‖", "λ₁(Ĉ)", "eff. rank", "mean ‖I−(I−Ĉ)²‖", "λ > 0.1"):
        table.add_column(heading, justify="right")
    for module in spectra:
        table.add_row(
            module.name.removeprefix("model.layers."),
            f"{module.norm:.3g}",
            f"{module.spectral_distance:.3g}",
            f"{module.entropy_rank:.1f}/{module.out_features}",
            f"{1 - module.mean_decay:.3f}",
            f"{module.noticeable}",
        )
    terminal = results()
    terminal.print(table)
    terminal.print(spectrum.summary(spectra))
    terminal.print(f"Plot: {folder / 'spectrum.html'}\nJSON: {folder / 'spectrum.json'}", soft_wrap=True)
    return 0
