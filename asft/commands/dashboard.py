"""``asft dashboard``: every finished cell of an outputs folder as one static site."""

from __future__ import annotations

from rich.text import Text

from asft.cells.compose import enumerate_cells, experiments_in
from asft.commands.flags import SweepFlags, whole
from asft.config import ConfigError
from asft.console import console, results
from asft.dashboard import Site
from asft.dashboard.tables import enumerate_experiment, experiment_names
from asft.store.entries import Store
from asft.text import instead

PORT = 8765


def dashboard(arguments: list[str]) -> int:
    """Writes ``outputs/dashboard``; with ``--serve`` shows it and keeps it up to date until interrupted.

    ``experiment=table2,fig4a`` shows only these; all other overrides change the cells that tables look for.
    """
    flags = SweepFlags("dashboard")
    text = f"show it and keep it up to date until interrupted; --serve=PORT (default {PORT}, 0 takes a free one)"
    flags.add_argument("--serve", type=whole(0, 65535), metavar="[PORT]", help=text)
    options, overrides = flags.split([f"--serve={PORT}" if word == "--serve" else word for word in arguments])
    port: int | None = options.serve
    chosen, others = experiments_in(overrides)
    outputs = enumerate_cells(others, sweep=True).cells[0].options.outputs
    allowed, experiments = experiment_names(), []
    names = chosen or allowed
    elsewhere = any(text.startswith("hydra.searchpath=") for text in others)  # more experiments than the package has
    if not elsewhere and (unknown := [name for name in names if name not in allowed]):
        raise ConfigError(f"experiment={unknown[0]}: unknown{instead(unknown[0], allowed)}")
    with console.status("") as status:
        for position, name in enumerate(names, start=1):
            status.update(Text(f"enumerating {name} ({position} of {len(names)})"))
            experiments.append(enumerate_experiment(name, others))
        status.update("writing the pages")
        site = Site(Store(outputs), experiments, outputs / "dashboard", live=port is not None)
        counts = site.build()
    terminal = results()
    terminal.print(
        f"{counts.cells} cells, {counts.failures} failed, {counts.answers} answers; "
        f"{counts.experiments} of {len(experiments)} experiments have finished cells"
    )
    terminal.print(f"Page: {site.index.resolve()}", soft_wrap=True)
    if port is not None:
        from asft.dashboard.serve import serve

        serve(site, port)
    return 0
