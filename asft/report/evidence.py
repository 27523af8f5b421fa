"""What a table says about the paper's claims, in words: same direction, not shown, or contradicted.

Every sentence is computed. A contrast of two methods is paired on the same prompts, averaged over all columns in which
the attack works; prompts (and seeds, where there are several) are resampled, the columns are not: they are the tasks,
sources, models or ratios that the table is about. It counts where p < 0.05 after Holm's correction over the contrasts
of one table. Columns in which single differences hold are named, and where they point both ways the verdict is mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from scipy import stats

from asft.report.analysis import Analysis
from asft.report.contrast import (
    CONTRADICTED,
    DIRECTION_CONTROLS,
    MIXED,
    NOT_SHOWN,
    REFERENCES,
    SAME,
    Contrast,
    attacked_columns,
    contrast,
    contrasts,
)
from asft.report.records import Column
from asft.report.statistics import ALPHA, pair_by_seed, paired_test
from asft.report.text import p_value, score

COSTLY = 5.0  # points of FA from which a lower HS is said to be bought


def score_or(value: float | None) -> str:
    """A score, or that it is missing."""
    return "missing" if value is None else score(value)


def defence_paragraph(
    analysis: Analysis, method: str = "asft", references: Sequence[str] = REFERENCES, *, claimed: bool = False
) -> str:
    """What a table of scores says of a defence: against plain fine-tuning, its rival, and its controls."""
    columns = attacked_columns(analysis)
    if not columns:
        return _no_attack(analysis, "The attack raises HS in no column, so no defence can be seen to work.")
    known = contrasts(analysis, method, references, claimed=claimed)
    if not known:
        return f"**Not shown.** {analysis.lacking((method, *references), columns)}."
    label = analysis.spec.label
    sentences = []
    left_out = len(analysis.spec.columns) - len(columns)
    if left_out:
        sentences.append(f"Read over the {len(columns)} columns in which the attack works.")
    for item in known:
        if item.second in DIRECTION_CONTROLS:
            continue
        lead = (
            f"**{item.verdict.capitalize()}** against {label(item.second)}"
            if item.claimed_lower is not None
            else (f"Against {label(item.second)} (no figure in the paper)")
        )
        sentences.append(f"{lead}: {_words(item)}{_accuracy(analysis, item, columns)}.{_projected(analysis, item)}")
    sentences += _direction_sentences(analysis, [item for item in known if item.second in DIRECTION_CONTROLS])
    return " ".join(sentences)


def ranking(analysis: Analysis) -> str:
    """Mean HS and FA of every defence over the attacked columns, lowest HS first."""
    columns = attacked_columns(analysis)
    rows = []
    for row in (analysis.spec.undefended, *analysis.spec.candidates):
        scores = {metric: [analysis.ours(metric, row, column) for column in columns] for metric in ("HS", "FA")}
        values = {metric: [score for score in found if score is not None] for metric, found in scores.items()}
        if columns and all(len(found) == len(columns) for found in values.values()):
            rows.append((fmean(values["HS"]), fmean(values["FA"]), analysis.spec.label(row)))
    listed = "; ".join(f"{label} {hs:.1f} / {fa:.1f}" for hs, fa, label in sorted(rows))
    return f"Mean HS / FA over those columns: {listed}." if listed else ""


def monotone_paragraph(analysis: Analysis, method: str, *, falls: bool) -> str:
    """Figures 4a and 4b: does HS fall as λ grows, and what happens to FA?"""
    columns = list(analysis.spec.columns)
    hs, fa = ([analysis.ours(metric, method, column) for column in columns] for metric in ("HS", "FA"))
    if None in hs or None in fa:
        return f"**Not shown.** {analysis.lacking((method,), columns)}."
    values = [float(value) for value in hs if value is not None]
    accuracies = [float(value) for value in fa if value is not None]
    # A constant has no rank correlation.
    rho = stats.spearmanr(range(len(values)), values).statistic if len(set(values)) > 1 else 0.0
    undefended = analysis.ours("HS", analysis.spec.undefended, columns[0])
    ends = paired_test(
        pair_by_seed(analysis.grid.at(method, columns[-1]).records, analysis.grid.at(method, columns[0]).records), "HS"
    )
    changed = ends is not None and ends.p_value < ALPHA
    if falls:
        verdict = NOT_SHOWN if not changed else SAME if values[-1] < values[0] else CONTRADICTED
    else:
        verdict = CONTRADICTED if changed and values[-1] < values[0] else SAME
    tested = "" if ends is None else f", last λ against the first p {p_words(ends.p_value)}"
    path = ", ".join(
        f"{column.label}: {h:.1f} / {a:.1f}" for column, h, a in zip(columns, values, accuracies, strict=True)
    )
    claim = "HS falls as λ grows" if falls else "HS stays high for every λ"
    beside = _same_lambda(analysis, columns) if method != "asft" else []
    beside += _direction_sentences(analysis, contrasts(analysis, method, ()))
    said = (
        f"**{verdict.capitalize()}.** The paper: {claim}. HS / FA of {analysis.spec.label(method)}: {path} "
        f"(SFT {score_or(undefended)}; Spearman's ρ of HS with λ {rho:.2f} over {len(values)} points{tested})."
    )
    return " ".join([said, *beside])


def _same_lambda(analysis: Analysis, columns: Sequence[Column]) -> list[str]:
    """AsFT's HS beside a variant of it."""
    if missing := analysis.lacking(("asft",), columns):
        return [f"No AsFT to compare with: {missing}."]
    compared = ", ".join(score_or(analysis.ours("HS", "asft", column)) for column in columns)
    return [f"AsFT at the same λ: {compared}."]


def range_paragraph(analysis: Analysis, methods: Sequence[str]) -> str:
    """Figure 4c: over how many learning rates does each method keep HS below half of plain fine-tuning's?"""
    columns = attacked_columns(analysis)
    if not columns:
        return _no_attack(analysis, "The attack works at no learning rate.")
    counts = {method: _low(analysis, method, columns) for method in methods if not analysis.lacking((method,), columns)}
    missing = analysis.lacking(methods, columns)
    rivals = [count for method, count in counts.items() if method not in {"asft", *DIRECTION_CONTROLS}]
    if "asft" not in counts or not rivals:
        return f"**Not shown.** There is nothing to compare: {missing}."
    listed = ", ".join(f"{analysis.spec.label(method)} {count}" for method, count in counts.items())
    verdict = SAME if counts["asft"] > max(rivals) else NOT_SHOWN if counts["asft"] == max(rivals) else CONTRADICTED
    return (
        f"**{verdict.capitalize()}.** The paper: AsFT keeps HS low over the widest range of learning rates. Learning "
        f"rates, of {len(columns)} at which the attack works, with HS below half of plain fine-tuning's: {listed}."
    ) + (f" Left out: {missing}." if missing else "")


def _low(analysis: Analysis, method: str, columns: Sequence[Column]) -> int:
    """In how many columns HS is below half of plain fine-tuning's."""
    undefended = analysis.spec.undefended
    scores = [(analysis.ours("HS", method, column), analysis.ours("HS", undefended, column)) for column in columns]
    return sum(own < plain / 2 for own, plain in scores if own is not None and plain is not None)


def _no_attack(analysis: Analysis, why: str) -> str:
    """No column to read: since the attack fails, or since what would tell so is missing."""
    missing = analysis.lacking((analysis.spec.undefended, "aligned"), analysis.spec.columns)
    unknown = f"Whether the attack works is not known: {missing}."
    return f"**Not shown.** {unknown if missing else why}"


def trade_paragraph(analysis: Analysis, method: str, rival: str) -> str:
    """A defence along its own setting, beside another: does it reach the rival's HS at the rival's FA anywhere?"""
    label, columns = analysis.spec.label, analysis.spec.columns
    theirs = [analysis.ours(metric, rival, columns[0]) for metric in ("HS", "FA")]
    points = [[analysis.ours(metric, method, column) for metric in ("HS", "FA")] for column in columns]
    if None in theirs or any(None in point for point in points):
        return f"**Not shown.** {analysis.lacking((method, rival), columns)}."
    hs, fa = (value or 0.0 for value in theirs)
    own = [(point[0] or 0.0, point[1] or 0.0) for point in points]
    path = ", ".join(f"{column.label}: {h:.1f} / {a:.1f}" for column, (h, a) in zip(columns, own, strict=True))
    winning = [column.label for column, (h, a) in zip(columns, own, strict=True) if h <= hs and a >= fa]
    losing = [column.label for column, (h, a) in zip(columns, own, strict=True) if h >= hs and a <= fa]
    return (
        f"HS / FA of {label(method)}: {path}; {label(rival)}: {hs:.1f} / {fa:.1f}. {label(method)} is at least as good "
        f"in both at {', '.join(winning) or 'none of them'}; {label(rival)} at {', '.join(losing) or 'none of them'}."
    )


def p_words(value: float | None) -> str:
    """``= 0.123``, ``< 0.001``, or that there is no test."""
    if value is None:
        return "not tested"
    shown = p_value(value)
    return shown if shown.startswith("<") else f"= {shown}"


def _words(item: Contrast) -> str:
    paper = "" if item.paper is None else f"; the paper's difference is {item.paper:+.1f}"
    tested = "" if item.p_value is None else f", p {p_words(item.p_value)}"
    where = f"lower in {item.lower_in} of {item.columns} columns"
    mixed = (
        f"; better at {', '.join(item.better)} and worse at {', '.join(item.worse)}" if item.verdict == MIXED else ""
    )
    return f"HS {item.difference:+.1f} points on average, {where}{tested}{paper}{mixed}"


def _projected(analysis: Analysis, item: Contrast) -> str:
    """How many modules Safe LoRA projects: the paper does not say, and the verdict hangs on it."""
    if item.second != "safe_lora":
        return ""
    chosen = {
        record.config.get("method", {}).get("number")
        for record in analysis.grid.records
        if record.method == item.second
    }
    number = chosen.pop() if len(chosen) == 1 else None
    return "" if number is None else f" Safe LoRA projects K = {number} modules here; the verdict hangs on K."


def _accuracy(analysis: Analysis, item: Contrast, columns: Sequence[Column]) -> str:
    accuracy = contrast(analysis, item.first, item.second, "FA", columns)
    if accuracy is None:
        return ""
    paper = "" if accuracy.paper is None else f" (paper {accuracy.paper:+.1f})"
    price = ""
    if item.significant and item.difference > 0 and accuracy.difference > COSTLY:
        price = f": {analysis.spec.label(item.second)} buys its lower HS with that accuracy"
    return f"; FA {accuracy.difference:+.1f}{paper}{price}"


def _direction_sentences(analysis: Analysis, controls: Sequence[Contrast]) -> list[str]:
    """What the controls say about whether it is the alignment direction that protects."""
    if not controls:
        return []
    label = analysis.spec.label
    own = label(controls[0].first)
    parts = [
        f"{label(item.second)} {item.difference:+.1f}"
        + ("" if item.p_value is None else f" (p {p_words(item.p_value)})")
        for item in controls
    ]
    better = [item for item in controls if item.significant and item.difference < 0]
    worse = [item for item in controls if item.significant and item.difference > 0]
    single = [
        f"{kind} than {label(item.second)} at {', '.join(places)}"
        for item in controls
        if item not in better
        for kind, places in (("better", item.better), ("worse", item.worse))
        if places
    ]
    if better and not worse and len(better) == len(controls):
        says = f"{own} is below each of them: here the alignment direction matters"
    elif not better and not worse:
        says = "none of them differs reliably: **that the alignment direction matters is not shown**"
    else:
        says = "; ".join(
            part
            for part in (
                f"{own} is safer than {', '.join(label(i.second) for i in better)}" if better else "",
                f"{own} is less safe than {', '.join(label(i.second) for i in worse)}" if worse else "",
                f"it does not differ reliably from {', '.join(label(i.second) for i in controls if not i.significant)}"
                if len(better) + len(worse) < len(controls)
                else "",
            )
            if part
        )
    asked = f"Does the direction matter? HS of {own} minus that of its controls: {', '.join(parts)}; {says}."
    return [asked, f"Column by column {own} is {'; '.join(single)}."] if single else [asked]
