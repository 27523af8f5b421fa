"""Pages that W&B's server keeps, made by code: a workspace view and a report that show an experiment as a table does.

Both take the experiment's runs by their ids, the cells' keys, so that a cell that several tables share is in each,
and group them by job type (the row) and group (the column without its seeds), as
:class:`asft.trackers.base.WandbTracker` names them. They are saved anew under the address that the first time
gave them; other cells, or another layout, have pages of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asft.cells.job import Job
from asft.commands.run import sweep_name
from asft.config import ConfigError
from asft.report.charts import CURVES
from asft.trackers.base import Tracker, WandbTracker

GROUPING = ("JobType", "Group")
MOST = 200  # runs that a panel shows
_READING = (
    "One run a cell; bars are means over seeds with the range. HS is the share of malicious prompts that are answered "
    "(lower is safer), FA the task's accuracy (higher is better)."
)


@dataclass(frozen=True)
class Shown:
    """What a page is of: the sweep's name, which no other has, the title, and the cells' keys, the runs' ids.

    ``headlines`` are summary metrics of measured cells, in order; none where cells are trained and scored.
    """

    entity: str
    project: str
    name: str
    title: str
    keys: list[str]
    headlines: list[str]


def check_pages(tracker: Tracker) -> None:
    """Raises ConfigError where no page can be saved: another tracker, offline mode, or without the extra."""
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
    """Saves pages of :data:`PAGES` for an experiment, or for one sweep without an experiment; returns their addresses.

    These are kept in ``folder`` for the next time. ConfigError where W&B does not know who is asking.
    """
    import wandb

    try:
        api = wandb.Api()
    except wandb.errors.UsageError as error:  # no key
        raise ConfigError(f"tracker.mode=online: {error} Or set WANDB_API_KEY") from error
    tracker, experiment = cells[0].tracker, cells[0].experiment
    assert isinstance(tracker, WandbTracker), "check_pages comes first"
    name = sweep_name(cells, experiment.name if experiment else "sweep")
    page = Shown(
        entity=tracker.entity or api.default_entity,
        project=tracker.project,
        name=name,
        title=f"{experiment.title if experiment else 'Cells of a sweep'} ({name})",
        keys=[job.key for job in cells],
        headlines=list(dict.fromkeys(job.cell.measure.headline for job in cells if job.cell.measure)),
    )
    place = folder / page.entity / page.project  # elsewhere there are other pages
    return [PAGES[kind](page, place / f"{kind}-{page.name}.txt") for kind in PAGES if kind in of]


def _save_workspace(page: Shown, address: Path) -> str:
    """A view of the project with these runs alone, grouped as the table is, and the table's figures as panels."""
    import wandb_workspaces.workspaces as ws

    sections = [ws.Section(name="Table", panels=_scores(page), is_open=True, pinned=True)]
    if not page.headlines:
        sections.append(ws.Section(name="Training", panels=_curves(), is_open=True))
    runs = ws.RunsetSettings(
        filters=[ws.Metric("ID").isin(page.keys)],
        groupby=[ws.Metric(name) for name in GROUPING],
        pinned_columns=[f"summary:{name}" for name in page.headlines or ("hs", "fa")],
    )
    made = ws.Workspace(
        entity=page.entity,
        project=page.project,
        name=page.name,  # W&B takes no symbol in it, as titles have: |cos|, α × β
        sections=sections,
        settings=ws.WorkspaceSettings(max_runs=MOST),
        runset_settings=runs,
    )
    return _save(made, address, "sections", "settings", "runset_settings")


def _save_report(page: Shown, address: Path) -> str:
    """A report with a table's run set beneath its figures."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    def grid(panels: list[Any]) -> wr.PanelGrid:
        runs = wr.Runset(
            entity=page.entity,
            project=page.project,
            name=page.title,
            filters=[expr.Metric("ID").isin(page.keys)],
            groupby=list(GROUPING),
        )
        return wr.PanelGrid(runsets=[runs], panels=panels)

    cut = f" Each panel shows {MOST} of these {len(page.keys)} runs." if len(page.keys) > MOST else ""
    blocks = [wr.P(_READING + cut), grid(_scores(page))]
    if not page.headlines:
        blocks += [wr.H2("Training"), grid(_curves())]
    made = wr.Report(
        entity=page.entity, project=page.project, title=page.title, description="Made by asft track.", blocks=blocks
    )
    return _save(made, address, "title", "blocks")


def _save(made: Any, address: Path, *parts: str) -> str:
    """Saves a page and keeps its address in the file ``address``; a page that is there already takes over ``parts``."""
    if address.is_file():
        with suppress(ValueError, TypeError):  # it was deleted; the package looks into the server's null for a report
            earlier = type(made).from_url(address.read_text(encoding="utf-8").strip())
            for part in parts:
                setattr(earlier, part, getattr(made, part))
            made = earlier
    url: str = made.save().url
    address.parent.mkdir(parents=True, exist_ok=True)
    address.write_text(f"{url}\n", encoding="utf-8")
    return url


def _scores(page: Shown) -> list[Any]:
    """HS and FA by row and column and against each other, or a measure's headlines."""
    import wandb_workspaces.reports.v2 as wr

    def bars(title: str, metric: str) -> wr.BarPlot:
        return wr.BarPlot(
            title=title,
            metrics=[metric],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=MOST,
            max_bars_to_show=MOST,
        )

    if page.headlines:
        return [bars(name, name) for name in page.headlines]
    pareto = wr.ScatterPlot(
        title="FA against HS", x=wr.SummaryMetric("hs"), y=wr.SummaryMetric("fa"), range_x=(0, 100), range_y=(0, 100)
    )
    return [bars("HS, % (lower is better)", "hs"), bars("FA, % (higher is better)", "fa"), pareto]


def _curves() -> list[Any]:
    """A line a run over optimiser steps for each quantity that a training logs."""
    import wandb_workspaces.reports.v2 as wr

    logged = {f"train/{name}": words for name, words in CURVES.items()}
    return [wr.LinePlot(title=words, x="Step", y=[name], max_runs_to_show=MOST) for name, words in logged.items()]


PAGES = {"workspace": _save_workspace, "report": _save_report}
