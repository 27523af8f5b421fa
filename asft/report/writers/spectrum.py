"""The plot behind ``asft anchor inspect``."""

from __future__ import annotations

from collections.abc import Sequence

from plotly.graph_objects import Figure, Scatter

from asft.anchor.spectrum import ModuleSpectrum


def spectrum_figure(spectra: Sequence[ModuleSpectrum]) -> Figure:
    """Eigenvalues of Ĉ by rank, one line per module, with the level 1 of a true projector."""
    plot = Figure()
    for spectrum in spectra:
        ranks = list(range(1, len(spectrum.eigenvalues) + 1))
        plot.add_trace(Scatter(x=ranks, y=spectrum.eigenvalues, mode="lines+markers", name=spectrum.name, opacity=0.7))
    plot.add_hline(y=1.0, line_dash="dot", annotation_text="free direction (a projector has only 1 and 0)")
    plot.update_layout(
        title="Eigenvalues of Ĉ = VVᵀ/‖V‖ per module",
        xaxis={"title": "rank", "type": "log"},
        yaxis={"title": "eigenvalue", "rangemode": "tozero"},
        template="plotly_white",
    )
    return plot
