"""Writes a results page from finished cells: tables and figures beside the paper's, and which differences hold.

``make results`` and ``make results-smollm2`` run the experiments first. Usage, overrides being those of the runs:
``python scripts/results.py organism > docs/results.md`` or
``python scripts/results.py smollm2 data.root=FOLDER > docs/results_smollm2.md``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from asft.cells.compose import enumerate_cells
from asft.report import text
from asft.report.analysis import Analysis
from asft.report.collect import analysis_of, measures_in
from asft.report.contrast import Contrast, contrast, contrasts
from asft.report.health import attacked_columns
from asft.report.statistics import ALPHA, pair_by_seed, paired_test
from asft.report.table import Entry
from asft.report.writers import markdown
from asft.report.writers.figures import place_figures
from asft.store.provenance import git_commit, library_versions

READING = """\
In brackets the 95% interval (Wilson's for one seed, Student's t over several); in parentheses the paper's figure, on
its own models and data. A contrast is one row's score minus another's in points, paired on the same prompts, mean over
the columns in which the attack raises HS by at least five points. Its verdict is the direction that is borne out:
*lower*, *higher*, *not shown* (no reliable difference), or *mixed* (reliable both ways, by column); p-values carry
Holm's correction over one table's contrasts. "With care": not all controls of that table are in order."""

ORGANISM = f"""\
# The paper on the embedded pair

Every table and figure of the AsFT paper ([arXiv:2506.08473](https://arxiv.org/abs/2506.08473)) on the embedded pair, a
model organism of about a million parameters: it can show whether a mechanism works there, and says nothing about the
magnitudes of a 7B model. One seed unless said otherwise. What it shows: AsFT lowers HS against plain SFT in every
table; against `l2`, which has no alignment direction, in none.

{READING}

A baseline's row speaks of it under its defaults, some of which are ours because the paper states none
([methods](methods.md)): Safe LoRA projects K = 4 of 8 modules, and the verdicts against it hang on that: at K = 1,
nearer the share of its authors' default, AsFT is the safer one (last section). Lisa alternates 10 alignment and 90 user
steps and, as Lisa-base, starts from a model that answers everything, SafeInstr adds a tenth of n.

This page is what `make results` writes."""

SMOLLM2 = f"""\
# Tables 2 and 5 on SmolLM2-135M

Two tables of the AsFT paper ([arXiv:2506.08473](https://arxiv.org/abs/2506.08473)) on a real language model,
SmolLM2-135M-Instruct, and the authors' published files, under `protocol=clean`.

{READING}

What was cut so that two cores finish both in an hour or two:

- **The model**: 135 M parameters instead of 7 B. SmolLM2 answers most malicious requests, so it is the *unaligned*
  side; the aligned side was made here by a short safety fine-tune (98 refusals, 100 Alpaca rows), not by a lab's
  alignment.
- **Rows**: n = 100 instead of 1000, so p = 0.1 is ten harmful rows; Table 5 is at p = 0.2 for that reason, the
  paper's at 0.1. Rows end at 192 tokens.
- **Scoring**: the first 100 of 250 malicious prompts, answers of at most 32 tokens, judged by refusal keywords, not
  by a moderation model; the first 100 test rows of each task.
- **Methods**: plain fine-tuning, Safe LoRA (K = 10 modules; the verdict hangs on K) and AsFT, with `l2` as the control
  of the direction. Table 2 has p = 0, 0.1, 0.2 of five. Table 5 has SST-2 and AG News: GSM8K takes longest, and
  Alpaca's answers need a judge that grades them.
- **Seeds**: one.

This page is what `make results-smollm2` writes."""

# What a page is about that no table says; written by hand, about the figures of the commit named at the end.
NOTES = {
    "table1": "The paper finds harmful updates more orthogonal to the alignment direction than random ones. Here every "
    "harmful update lies above the range of the random ones: **contradicted**. Benign fine-tunes lie within it, so a "
    "small cosine alone does not mark an update as harmful.",
    "table7": "The paper: the model stays safe much further along the alignment direction than along a harmful one. "
    "So it is here in all four models: **same direction**. But random directions stay safe longer in all four, and "
    "a benign fine-tune's in three: the alignment direction is no especially safe one to move along, and behind the "
    "aligned model it leads to the base model. Values close to the largest α looked at are lower bounds; the paper "
    "states neither scale nor range.",
    "fig1": "The paper's reading: safety lasts along the alignment direction and ends soon along a harmful one. Here, "
    "too, more of the points along the alignment direction are safe: **same direction**. Along two random directions "
    "all are.",
    "fig3": "The paper's reading: safety lasts along the alignment direction. Here random directions are as safe to "
    "move along, or safer: **contradicted**.",
    "fig4a": "The paper: HS falls as λ grows. So it does here: **same direction**.",
    "fig4b": "The paper: HS stays high for every λ. Here it falls, too, though less than AsFT's: **contradicted**.",
    "fig4c": "The paper: AsFT keeps HS low over the widest range of learning rates. Here HS is below half of plain "
    "fine-tuning's wherever the attack works for AsFT, but also for BEA and L2: **not shown**.",
    "safe_lora_k": "Along K, Safe LoRA is nowhere at least as good as AsFT in both scores, nor AsFT as Safe LoRA.",
}
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


@dataclass(frozen=True)
class Page:
    """One page of results.

    Attributes:
        introduction: what it is about, in Markdown, with its title.
        experiments: its sections, in order.
        images: where the pictures of its landscapes go.
    """

    introduction: str
    experiments: tuple[str, ...]
    images: Path | None = None


PAGES = {
    "organism": Page(
        ORGANISM,
        (
            *("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8"),
            *("fig1", "fig3", "fig4a", "fig4b", "fig4c", "full", "ratios", "seeds", "safe_lora_k"),
        ),
        Path("docs/images/results"),
    ),
    "smollm2": Page(SMOLLM2, ("table2_smollm2", "table5_smollm2")),
}


@dataclass(frozen=True)
class Section:
    """One experiment's part of a page: its text, and its rows in the page's two tables of contrasts."""

    text: str
    contrasts: tuple[list[str], ...] = ()
    direction: tuple[list[str], ...] = ()


def main() -> None:
    """Prints the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", choices=PAGES)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what the runs were given, e.g. data.root=…")
    options = parser.parse_args()
    page = PAGES[options.page]
    if page.images:
        shutil.rmtree(page.images, ignore_errors=True)
    found = []
    for name in page.experiments:
        print(name, file=sys.stderr)
        found.append(section(name, options.overrides, page.images))
    print(written(page, found, f"Made with {text.versions(library_versions())}; commit {git_commit() or 'unknown'}."))


def written(page: Page, sections: list[Section], made: str) -> str:
    """The whole page."""
    header = ["table", "compared", "HS, points", "lower in", "p", "paper's", "FA, points", "paper's", "verdict"]
    parts = [
        page.introduction,
        "## In short",
        markdown.table(header, [row for each in sections for row in each.contrasts], words=(0, 1, 8)),
        "## Does the alignment direction matter?",
        "AsFT penalises (I − Ĉ)BA; `l2` penalises BA (no direction at all), `asft_random` turns Ĉ's directions at "
        "random, `asft_projector` has a true projector in Ĉ's place. HS of AsFT minus that of each, as above; negative "
        "means that AsFT is safer. Columns are named in which a difference holds by itself. The tables share cells: "
        "they are no independent confirmations.",
        markdown.table(["table", *CONTROLS], [row for each in sections for row in each.direction]),
        *(each.text for each in sections),
        f"---\n\n{made}",
    ]
    return "\n\n".join(parts)


def section(name: str, overrides: list[str], images: Path | None = None) -> Section:
    """One experiment's section; pictures of landscapes are drawn into a folder in ``images``."""
    sweep = enumerate_cells([f"experiment={name}", *overrides], sweep=True)
    analysis = analysis_of(sweep, "")
    health, title = analysis.health, markdown.escape(analysis.spec.title)
    if not analysis.records:
        return Section(f"## {title}\n\nNot run.")
    on_files = " data.root=FOLDER" if any(given.startswith("data.root=") for given in overrides) else ""
    command = "landscape" if measures_in(sweep) else "run -m"
    parts = [
        f"## {title}",
        f"    asft {command} experiment={name}{on_files}",
        f"*{health.headline}* {markdown.escape(health.why)}" if health else "",
        NOTES.get(name, ""),
        ranking(analysis) if name.startswith("table") else "",
        *(
            f"**{markdown.escape(metric.title)}**\n\n"
            + markdown.metric_table(analysis, metric.name, place if health else None)
            for metric in analysis.metrics.values()
        ),
        *(_pictures(analysis, images / name) if images and not health else ()),
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
    columns = attacked_columns(analysis, analysis.spec.undefended or "")
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
    shown = text.shown(entry)
    interval = "" if entry.lo is None or entry.hi is None else f" \\[{entry.lo:.0f}–{entry.hi:.0f}\\]"
    return f"{shown.value}{interval}{shown.paper and f' ({shown.paper})'}"


def _contrast(analysis: Analysis, item: Contrast, name: str) -> list[str]:
    """A row of the table of contrasts: the same figures for HS and FA, and the verdict beside the paper's direction."""
    label = analysis.spec.label
    columns = attacked_columns(analysis, analysis.spec.undefended or "")
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
    tested = paired_test(pair_by_seed(analysis.at(row, last).records, analysis.at(row, first).records, "HS"))
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
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {figure.caption: figure.save(folder, "png") for figure in place_figures(analysis)}
    return [f"![{markdown.escape(shows)}]({path.relative_to('docs')})" for shows, path in drawn.items()]


if __name__ == "__main__":
    main()
