"""Pages that W&B's server keeps, made by code: a workspace view and a report that show an experiment as a table does.

Both take the experiment's runs by their ids, the cells' keys, so that a cell that several tables share is in each,
and group them by job type (the row) and group (the column without its seeds), as
:class:`asft.trackers.base.WandbTracker` names them. They are saved anew under the address that the first time
gave them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asft.cells.job import Job
from asft.config import ConfigError
from asft.trackers.base import Tracker, WandbTracker

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.reports.v2.interface import PanelTypes
    from wandb_workspaces.workspaces import Workspace

GROUPING = ("JobType", "Group")
# What a training logs, by the panel's title; without loss it is no training.
CURVES = {
    "training loss": "train/loss",
    "penalty λR": "train/asft/penalty",
    "‖ĈΔW‖": "train/asft/norm_along",
    "‖(I−Ĉ)ΔW‖": "train/asft/norm_orthogonal",
}
MOST = 200  # runs that a panel shows
_READING = (
    "One run a cell; bars are means over seeds with the range. HS is the share of malicious prompts that are answered "
    "(lower is safer), FA the task's accuracy (higher is better)."
)


@dataclass(frozen=True)
class Shown:
    """What a page is of.

    Attributes:
        entity: the user or team that the project is of.
        project: the runs' project.
        name: the experiment's.
        title: the page's.
        keys: the cells' keys, the runs' ids.
        headlines: summary metrics of measured cells, in order; empty where cells are trained and scored.
    """

    entity: str
    project: str
    name: str
    title: str
    keys: list[str]
    headlines: list[str]


def check_pages(tracker: Tracker) -> None:
    """Refuses what can keep no page, before cells are sent.

    Raises:
        ConfigError: for another tracker, for offline mode, or where the extra is not installed.
    """
    if not isinstance(tracker, WandbTracker):
        raise ConfigError(f"tracker={tracker.name}: --workspace and --report are pages of W&B; use tracker=wandb")
    if tracker.mode == "offline":
        raise ConfigError(
            "tracker.mode=offline: W&B's server keeps workspaces and reports; use tracker.mode=online, "
            "which sends the cells, too"
        )
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("--workspace and --report need `pip install 'asft-lab[workspaces]'`")


def save_pages(cells: Sequence[Job], *, of: Collection[str], folder: Path) -> list[str]:
    """Saves an experiment's pages and returns their addresses.

    Args:
        cells: the experiment's cells, of which those without a run leave gaps.
        of: what to save, of :data:`PAGES`.
        folder: where the addresses are kept for the next time.

    Raises:
        ConfigError: where W&B does not know who is asking.
    """
    import wandb

    try:
        api = wandb.Api()
    except wandb.errors.UsageError as error:  # no key
        raise ConfigError(f"tracker.mode=online: {error} Or set WANDB_API_KEY") from error
    page = shown(cells, api.default_entity)
    place = folder / page.entity / page.project  # elsewhere there are other pages
    return [PAGES[kind](page, place / f"{kind}-{page.name}.txt") for kind in PAGES if kind in of]


def shown(cells: Sequence[Job], entity: str) -> Shown:
    """An experiment's cells, or those of one sweep without an experiment, as a page shows them."""
    first = cells[0]
    tracker = first.tracker
    assert isinstance(tracker, WandbTracker), "check_pages comes first"
    measures = [job.cell.measure for job in cells if job.cell.measure is not None]
    return Shown(
        entity=tracker.entity or entity,
        project=tracker.project,
        name=first.experiment.name if first.experiment else "sweep",
        title=first.experiment.title if first.experiment else "Cells of a sweep",
        keys=[job.key for job in cells],
        headlines=list(dict.fromkeys(measure.headline for measure in measures)),
    )


def workspace(page: Shown) -> Workspace:
    """A view of the project with these runs alone, grouped as the table is, and the table's figures as panels."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name="Table", panels=scores(page), is_open=True, pinned=True)]
    if not page.headlines:
        sections.append(ws.Section(name="Training", panels=curves(), is_open=True))
    runs = ws.RunsetSettings(
        filters=[ws.Metric("ID").isin(page.keys)],
        groupby=[ws.Metric(name) for name in GROUPING],
        pinned_columns=[f"summary:{name}" for name in page.headlines or ("hs", "fa")],
    )
    return ws.Workspace(
        entity=page.entity,
        project=page.project,
        name=page.name,  # W&B takes no symbol in it, as titles have: |cos|, α × β
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=MOST),
        runset_settings=runs,
    )


def report(page: Shown) -> Report:
    """A report with a table's run set beneath its figures."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    def grid(panels: list[PanelTypes]) -> wr.PanelGrid:
        runs = wr.Runset(
            entity=page.entity,
            project=page.project,
            name=page.title,
            filters=[expr.Metric("ID").isin(page.keys)],
            groupby=list(GROUPING),
        )
        return wr.PanelGrid(runsets=[runs], panels=panels)

    blocks = [wr.P(_READING), grid(scores(page))]
    if not page.headlines:
        blocks += [wr.H2("Training"), grid(curves())]
    return wr.Report(
        entity=page.entity, project=page.project, title=page.title, description="Made by asft track.", blocks=blocks
    )


def save_workspace(page: Shown, address: Path) -> str:
    """Saves the view and returns its address, which is kept in the file ``address``; the next time replaces it."""
    import wandb_workspaces.workspaces as ws

    made = workspace(page)
    if (url := _kept(address)) and (earlier := _found(ws.Workspace.from_url, url)):
        earlier.sections, earlier.settings = made.sections, made.settings
        earlier.runset_settings = made.runset_settings
        made = earlier
    return _keep(made.save().url, address)


def save_report(page: Shown, address: Path) -> str:
    """As :func:`save_workspace`, for the report."""
    import wandb_workspaces.reports.v2 as wr

    made = report(page)
    if (url := _kept(address)) and (earlier := _found(wr.Report.from_url, url)):
        earlier.title, earlier.blocks = made.title, made.blocks
        made = earlier
    return _keep(made.save().url, address)


def _kept(address: Path) -> str | None:
    return address.read_text().strip() if address.is_file() else None


def _found(load: Callable[[str], Any], url: str) -> Any:
    """The page as the server has it; None where it was deleted."""
    try:
        return load(url)
    except (ValueError, TypeError):  # the package looks into the server's null for a report
        return None


def _keep(url: str, address: Path) -> str:
    address.parent.mkdir(parents=True, exist_ok=True)
    address.write_text(f"{url}\n")
    return url


def scores(page: Shown) -> list[PanelTypes]:
    """HS and FA by row and column and against each other, or a measure's headlines."""
    import wandb_workspaces.reports.v2 as wr

    most = {"max_runs_to_show": MOST, "max_bars_to_show": MOST}

    def bars(title: str, metric: str) -> wr.BarPlot:
        return wr.BarPlot(title=title, metrics=[metric], groupby_aggfunc="mean", groupby_rangefunc="minmax", **most)

    if page.headlines:
        return [bars(name, name) for name in page.headlines]
    pareto = wr.ScatterPlot(
        title="FA against HS", x=wr.SummaryMetric("hs"), y=wr.SummaryMetric("fa"), range_x=(0, 100), range_y=(0, 100)
    )
    return [bars("HS, % (lower is better)", "hs"), bars("FA, % (higher is better)", "fa"), pareto]


def curves() -> list[PanelTypes]:
    """A line a run over optimiser steps for each quantity that a training logs."""
    import wandb_workspaces.reports.v2 as wr

    return [wr.LinePlot(title=title, x="Step", y=[metric], max_runs_to_show=MOST) for title, metric in CURVES.items()]


PAGES = {"workspace": save_workspace, "report": save_report}
