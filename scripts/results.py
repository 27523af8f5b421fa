"""Writes a results page from finished cells: tables and figures beside the paper's, and which differences hold.

``make results`` and ``make results-smollm2`` run the experiments first. Usage, overrides being those of the runs:
``python scripts/results.py organism > docs/results.md``, ``… frontier model.seed=0,1,2,3,4 > docs/frontier.md``,
``… field model.seed=0,1,2 > docs/field.md`` or
``python scripts/results.py smollm2 data.root=FOLDER > docs/results_smollm2.md``.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import yaml
from field_page import field_section

from asft.cells.compose import enumerate_cells
from asft.frontier.compare import frontier_of
from asft.frontier.write import render
from asft.report import text
from asft.report.analysis import Analysis
from asft.report.collect import analysis_of, experiment_of, measures_in
from asft.report.contrast import Contrast, contrast, contrasts
from asft.report.statistics import ALPHA, pair_by_seed, paired_test
from asft.report.table import Entry
from asft.report.writers import markdown
from asft.report.writers.figures import place_figures
from asft.store.provenance import git_commit, library_versions

PAGES = Path(__file__).with_name("pages")  # their text, and the notes that stand beside single figures
CONTROLS = ("l2", "asft_random", "asft_projector")  # of the alignment direction
# The row that a section is about and those it is compared with, where they are not AsFT, SFT and Safe LoRA.
COMPARED = {
    "table8": ("asft_alt", ("sft", "asft", "l2")),
    "fig4a": ("asft", ()),
    "fig4b": ("asft_parallel", ()),
    "safe_lora_k": ("asft", ()),
}
ENDS = {"fig4a": "lower", "fig4b": "as high"}  # what the paper says of the last column beside the first
CLAIMED = {"full", "ratios"}  # where the paper says in words alone that AsFT's HS is below SFT's


EXPERIMENTS = {
    "organism": (
        *("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8"),
        *("fig1", "fig3", "fig4a", "fig4b", "fig4c", "full", "ratios", "seeds", "safe_lora_k"),
    ),
    "smollm2": ("table2_smollm2", "table5_smollm2"),
    "frontier": ("frontier", "attacker"),
    "field": ("field",),
}
IMAGES = Path("docs/images/results")


@dataclass(frozen=True)
class Section:
    """One experiment's part of a page: its text, and its rows in the page's two tables of contrasts."""

    text: str
    contrasts: tuple[list[str], ...] = ()
    direction: tuple[list[str], ...] = ()


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", choices=EXPERIMENTS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what the runs were given, e.g. data.root=…")
    options = parser.parse_args()
    found = []
    for name in EXPERIMENTS[options.page]:
        print(name, file=sys.stderr)
        found.append(section(name, options.overrides))
    made = f"Made with {text.versions(library_versions())}; commit {git_commit() or 'unknown'}."
    print(written(options.page, found, made), end="")


def written(page: str, sections: list[Section], made: str) -> str:
    """The whole page."""
    header = ["table", "compared", "HS, points", "lower in", "p", "paper's", "FA, points", "paper's", "verdict"]
    return (
        (PAGES / f"{page}.md")
        .read_text(encoding="utf-8")
        .format(
            contrasts=markdown.table(header, [row for each in sections for row in each.contrasts], words=(0, 1, 8)),
            direction=markdown.table(["table", *CONTROLS], [row for each in sections for row in each.direction]),
            sections="\n\n".join(each.text for each in sections),
            made=made,
        )
    )


def section(name: str, overrides: list[str]) -> Section:
    """One experiment's section; pictures of landscapes are drawn into a folder of its own."""
    if name == "field":
        return Section(field_section(overrides))
    notes: dict[str, str] = yaml.safe_load((PAGES / "notes.yaml").read_text(encoding="utf-8"))
    sweep = enumerate_cells([f"experiment={name}", *overrides], sweep=True)
    if experiment_of(sweep).wishes:
        command = shlex.join(["asft", "run", "-m", f"experiment={name}", *overrides])
        return Section(re.sub(r"^#", "##", render(frontier_of(sweep, command)).strip(), flags=re.MULTILINE))
    analysis = analysis_of(sweep, "")
    health, title = analysis.health, markdown.escape(analysis.spec.title)
    if not analysis.results:
        return Section(f"## {title}\n\nNot run.")
    on_files = " data.root=FOLDER" if any(given.startswith("data.root=") for given in overrides) else ""
    command = "landscape" if measures_in(sweep) else "run -m"
    parts = [
        f"## {title}",
        f"    asft {command} experiment={name}{on_files}",
        f"*{health.headline}* {markdown.escape(health.why)}" if health else "",
        notes.get(name, ""),
        ranking(analysis) if name.startswith("table") else "",
        *(
            f"**{markdown.escape(metric.title)}**\n\n"
            + markdown.metric_table(analysis, metric.name, place if health else None)
            for metric in analysis.metrics.values()
        ),
        *(_pictures(analysis, IMAGES / name) if not health else ()),
        *(f"Missing: {markdown.escape(line)}." for line in analysis.gaps),
    ]
    whole = "\n\n".join(part for part in parts if part)
    if not health:
        return Section(whole)
    first, others = COMPARED.get(name, ("asft", ("sft", "safe_lora")))
    found = contrasts(analysis, first, (*others, *(name for name in CONTROLS if name not in others)))
    short = title.partition(":")[0] + ("" if health.verdict == "sound" else ", with care")
    rows = [_contrast(analysis, item, name) for item in found if item.second in others]
    if name in ENDS:
        rows.append(_ends(analysis, first, ENDS[name]))
    there = {item.second: item for item in found} if first == "asft" else {}
    shown = [_control(there[control]) if control in there else "" for control in CONTROLS]
    direction = ([title.partition(":")[0], *shown],) if any(shown) else ()
    return Section(whole, tuple([short, *row] for row in rows if row), direction)


def ranking(analysis: Analysis) -> str:
    """Mean HS and FA of every defence over the attacked columns, lowest HS first."""
    columns = analysis.attacked_columns
    rows = []
    for row in (analysis.spec.undefended or "", *analysis.spec.candidates):
        scores = [[analysis.ours(metric, row, column) for column in columns] for metric in ("HS", "FA")]
        hs, fa = ([value for value in found if value is not None] for found in scores)
        if columns and len(hs) == len(fa) == len(columns):
            rows.append((fmean(hs), fmean(fa), analysis.spec.label(row)))
    listed = "; ".join(f"{label} {hs:.1f} / {fa:.1f}" for hs, fa, label in sorted(rows))
    return f"Mean HS / FA over the columns in which the attack works: {listed}." if listed else ""


def place(entry: Entry) -> str:
    """A score with its interval, the paper's figure in parentheses."""
    interval = "" if entry.lo is None or entry.hi is None else f" \\[{entry.lo:.0f}–{entry.hi:.0f}\\]"
    return f"{entry.text}{interval}{entry.paper_text and f' ({entry.paper_text})'}"


def _contrast(analysis: Analysis, item: Contrast, name: str) -> list[str]:
    """A row of the table of contrasts: the same figures for HS and FA, and the verdict beside the paper's direction."""
    label = analysis.spec.label
    columns = analysis.attacked_columns
    accuracy = contrast(analysis, item.first, item.second, columns, "FA")
    claimed = name in CLAIMED and item.second == "sft"
    theirs = ("lower" if item.paper < 0 else "higher") if item.paper is not None else "lower" if claimed else ""
    if item.verdict == "mixed":
        verdict = f"mixed: lower at {', '.join(item.lower)}; higher at {', '.join(item.higher)}"
    else:
        verdict = item.verdict
    agrees = "as in the paper" if item.verdict == theirs else f"in the paper {theirs}"
    return [
        markdown.escape(f"{label(item.first)} − {label(item.second)}"),
        f"{item.difference:+.1f}",
        f"{item.lower_in} of {item.columns}",
        "not tested" if item.p_value is None else text.p_value(item.p_value),
        "lower" if claimed and item.paper is None else _points(item.paper),
        _points(accuracy.difference if accuracy else None),
        _points(accuracy.paper if accuracy else None),
        f"{verdict}; {agrees}" if theirs else verdict,
    ]


def _ends(analysis: Analysis, row: str, theirs: str) -> list[str]:
    """The same for the last column of a row against its first."""
    columns = analysis.spec.columns
    first, last = columns[0], columns[-1]
    values = [[analysis.ours(metric, row, column) for column in (last, first)] for metric in ("HS", "FA")]
    hs, fa = (one - other if one is not None and other is not None else None for one, other in values)
    tested = paired_test(pair_by_seed(analysis.at(row, last), analysis.at(row, first), "HS"))
    if hs is None or tested is None:
        return []
    verdict = "not shown" if tested.p_value >= ALPHA else "lower" if hs < 0 else "higher"
    agrees = "as in the paper" if verdict == theirs else f"in the paper {theirs}"
    compared = markdown.escape(f"{analysis.spec.label(row)}, {last.label} − {first.label}")
    return [compared, _points(hs), "", text.p_value(tested.p_value), "", _points(fa), "", f"{verdict}; {agrees}"]


def _control(item: Contrast) -> str:
    """A difference from a control, with the columns in which it holds by itself unless it does in all."""
    tested = "not tested" if item.p_value is None else text.p_value(item.p_value)
    equals = "" if tested[0] in "<n" else "= "
    shown = f"{item.difference:+.1f} (p {equals}{tested})"
    if not item.higher and len(item.lower) == item.columns:
        return shown
    parts = [f"{kind} at {', '.join(at)}" for kind, at in (("safer", item.lower), ("less safe", item.higher)) if at]
    return "; ".join([shown, *parts])


def _points(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def _pictures(analysis: Analysis, folder: Path) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    drawn = {figure.caption: figure.save(folder, "png") for figure in place_figures(analysis)}
    return [f"![{markdown.escape(shows)}]({path.relative_to('docs')})" for shows, path in drawn.items()]


if __name__ == "__main__":
    main()
