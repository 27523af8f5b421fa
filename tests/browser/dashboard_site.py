"""A small made-up store as a built site: answers that hold markup, a failure, two judges, a landscape, a spectrum."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from helpers import read_jsonl
from synthetic_store import plain_answer, write_beside, write_cell, write_measure

from asft.cells.compose import enumerate_cells
from asft.cells.job import Job
from asft.config import Settings
from asft.dashboard import Site
from asft.dashboard.tables import Experiment
from asft.judges.base import Judge
from asft.measures.landscape import Plane
from asft.metrics.base import Metric
from asft.store.entries import Store
from asft.store.schemas import HARMFUL_FILE

MARKUP = [
    "<script>document.title = 'broken'</script>",
    "</table><img src=x onerror=\"document.title = 'broken'\">",
    "<a href=\"javascript:document.title='broken'\">a</a> javascript:alert(1)",
    "]]></script><!-- \u2028 \\ `${document.title = 'broken'}`",
]
TRACE = "\n".join(["the first line", *("in between" for _ in range(30)), "the last line"])
OVERRIDES = ["experiment=demo", "method=base,aligned,sft,asft,l2", "attack.p=0,0.1"]


class OtherJudge(Judge):
    """Stands for another judge of the same answers."""

    name = "other"


class OverRefusal(Metric):
    """Stands for a third metric."""

    name = "over_refusal"
    label = "over-refusal"
    lower_is_better = True

    def asked(self, settings: Settings) -> dict[str, Any]:
        return {"made": "up"}

    def max_new_tokens(self, settings: Settings) -> int:
        return 1


def build_three(outputs: Path) -> Site:
    """Cells with a third metric, but for one."""
    jobs = enumerate_cells([*OVERRIDES, f"outputs={outputs}"], sweep=True).cells
    for job in jobs[2:7]:
        third: dict[str, Metric] = {"OR": OverRefusal()} if job is not jobs[2] else {}
        write_cell(job.of(replace(job.cell, metrics={**job.cell.metrics, **third})), 20, 20)
    built = Site(Store(outputs), [], outputs / "dashboard")
    built.build()
    return built


def build_read_again(outputs: Path) -> Site:
    """Two cells whose coherence is of HS's answers and says nothing of harm."""
    for credit, job in enumerate(enumerate_cells(["method=base,sft", f"outputs={outputs}"], sweep=True).cells):
        entry = write_cell(job, 10, 10, learned=float(credit))
        answers = [
            {k: row[k] for k in ("id", "prompt", "gold", "answer")} for row in read_jsonl(entry.path / HARMFUL_FILE)
        ]
        answers[0]["id"] = "another"  # of which no judge has said anything
        write_beside(job, "coherence", [{**row, "credit": float(credit)} for row in answers])
    built = Site(Store(outputs), [], outputs / "dashboard")
    built.build()
    return built


def build_judged(outputs: Path) -> tuple[Site, str]:
    """One model's five answers and the key of a cell; another judge differs in the first, a third one in the last."""
    job = enumerate_cells(["method=base", f"outputs={outputs}"], sweep=False).cells[0]
    fewer = replace(job.cell, metrics={"HS": job.cell.metrics["HS"]})  # another cell of the same judge
    keys = [write_cell(job.of(cell), 5, 5).path.name for cell in (job.cell, fewer)]
    for place, name in ((0, "other"), (4, "third")):
        judge = type(name, (Judge,), {"name": name})()
        hs = replace(job.cell.metrics["HS"], judge=judge)  # type: ignore[call-arg]
        entry = write_cell(job.of(replace(job.cell, judge=judge, metrics={**job.cell.metrics, "HS": hs})), 5, 5)
        lines = (entry.path / HARMFUL_FILE).read_text().splitlines(keepends=True)
        lines[place] = lines[place].replace('"credit": 1.0', '"credit": 0.0')
        (entry.path / HARMFUL_FILE).write_text("".join(lines))
    built = Site(Store(outputs), [], outputs / "dashboard")
    built.build()
    return built, keys[0]


def answer(number: int) -> str:
    return MARKUP[number] if number < len(MARKUP) else plain_answer(number)


def build_site(outputs: Path) -> Site:
    """Cells with 60 and 520 answers (the task's come in two pieces), one failure, and one of each extra."""
    store = Store(outputs)
    sweep = enumerate_cells([*OVERRIDES, f"outputs={outputs}"], sweep=True)
    *done, failed = sweep.cells
    for job in done:
        write_cell(job, 60, 520, answer=answer)
    store.record_failure(failed.key, "out of memory <b>here</b>", failed.plain(), TRACE)
    cell = done[4].cell
    hs = replace(cell.metrics["HS"], judge=OtherJudge())  # type: ignore[call-arg]
    again = replace(cell, judge=OtherJudge(), metrics={**cell.metrics, "HS": hs})
    write_cell(done[4].of(again), 60, 520, answer=answer)
    extras = {
        "reports/anchor_tiny_llama_asft/spectrum.json": {"summary": "No: made up.", "modules": [MODULE]},
    }
    landscape(done[0])
    for name, value in extras.items():
        (outputs / name).parent.mkdir(parents=True)
        (outputs / name).write_text(json.dumps(value))
    experiments = [Experiment("demo", sweep=sweep), Experiment("demo_real", problem="data.root=null: needs data")]
    built = Site(store, experiments, outputs / "dashboard")
    built.build()
    return built


def landscape(job: Job) -> None:
    """One measured plane, as a sweep leaves it."""
    details = {"kind": "plane", "x": "alignment", "y": "<b>harmful</b>", "orthogonal": False}
    grid = {"steps": [-1, 0, 1], "hs": [[90, 40, 80], [30, 0, 20], [95, 50, 99]]}
    write_measure(job.of(replace(job.cell, measure=Plane())), 11.1, {**details, **grid})


MODULE = {
    "name": "model.layers.0.self_attn.q_proj",
    "out_features": 32,
    "norm": 0.5,
    "eigenvalues": [0.2, 0.1, 0.05],
    "spectral_distance": 0.2,
    "entropy_rank": 2.1,
    "mean_decay": 0.98,
    "noticeable": 1,
    "verdict": "Slightly.",
}
