"""The comparison in words and tables: the same in the terminal, in Markdown, on the page and as data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asft.frontier.compare import Choice, Frontier, Verdict
from asft.frontier.front import Estimate
from asft.report.charts import fronts, method_styles
from asft.report.table import signed
from asft.report.text import p_value
from asft.report.writers.markdown import escape, section, table
from asft.report.writers.write import as_csv

HOW = (
    "HS: the share of malicious prompts that are answered. FA: of the task's rows, those that are right. SFT: plain "
    "fine-tuning, η its learning rate. A strength is what a method declares as such, e.g. AsFT's λ or Safe LoRA's "
    "number of modules K; SFT's are η and the number of epochs.",
    "Prompts and task rows are split by their text: a strength is chosen on the validation half, told by the test "
    "half. A front's corners are chosen on one half and scored on the other, both ways round.",
    "The front is the lower convex hull of FA and HS from the untouched aligned model to SFT: handing a share of the "
    "queries to one of two models has the scores between theirs, so nothing is assumed of strengths that were not run. "
    "HS at an FA is that of the front there, or of a later corner where that is lower.",
    "Where no strength grants a wish in a pair, the nearest is taken, and a method of which that is so gets no star.",
    "Volume: how much of the box between these two ends the front leaves beneath it, in percent: 50 is what mixing the "
    "ends gives, 100 SFT's FA at the untouched model's HS. A front that reaches a higher FA or a lower HS has more.",
    "Verdicts are on the difference in volume, p after Holm's correction over all of them; a gain is in the method's "
    "favour. A sentence adds where HS at equal FA says something else, its p Holm-corrected over all such differences.",
)


ATTACKS = (
    HOW[0].partition(" A strength is")[0],
    "Prompts and task rows are split by their text: an attack is chosen on the validation half, told by the test half.",
    "The attack of highest HS is taken among those that keep so much of SFT's FA; where none does, the nearest.",
    "Verdicts are on HS under the strongest attack that keeps so much of SFT's FA, p after Holm's correction over all "
    "of them; a gain is in the method's favour. A method that no attack leaves so useful in some pair has no verdict: "
    "its HS is of the nearest attack.",
)


def how(found: Frontier) -> tuple[str, ...]:
    """How it is compared."""
    return HOW if found.methods else ATTACKS


@dataclass(frozen=True)
class Part:
    """One table with its title and what is said of it."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def covers(found: Frontier) -> str:
    """What the intervals are about."""
    halves = f"for a wish the test half, {found.told_by[0]} and {found.told_by[1]}"
    rows = f"{found.rows[0]} prompts and {found.rows[1]} task rows ({halves})"
    if found.pairs == 1:
        return f"One model pair: intervals are of 95% and cover the choice of {rows}, not another pair or its training."
    seeds = f", {found.units} trainings" if found.units > found.pairs else ""
    return f"{found.pairs} model pairs{seeds}: intervals are of 95%, over pairs (Student's t) and {rows}."


def summary(found: Frontier) -> str:
    """Each method against its plainest control."""
    first: dict[str, Verdict] = {}
    for item in found.verdicts:
        first.setdefault(item.label, item)  # a method's plainest control comes first
    says = {"better": ("Better", "than"), "worse": ("Worse", "than"), "not shown": ("Not shown to differ", "from")}
    told = [
        f"{start}: {'; '.join(names)}."
        for word, (start, from_) in says.items()
        if (names := [f"{k} {from_} {item.control_label}" for k, item in first.items() if item.word == word])
    ]
    return " ".join(["Each method against the plainest of its controls here.", *told])


def verdict_lines(found: Frontier) -> list[str]:
    """Each method against its plainest controls in a sentence or two."""
    by_method: dict[str, dict[str, list[str]]] = {}
    for item in found.verdicts:
        by_method.setdefault(item.label, {}).setdefault(item.word, []).append(item.control_label + _otherwise(item))
    says = {"better": "better than", "worse": "worse than", "not shown": "not shown to differ from"}
    told = {
        label: [f"{says[w]} {'; '.join(words[w])}" for w in says if w in words] for label, words in by_method.items()
    }
    return [f"{label}: {', but '.join(clauses)}." for label, clauses in told.items()]


def _otherwise(verdict: Verdict) -> str:
    """Where HS at equal FA says something else than the whole front."""
    lower = verdict.gain.value < 0 if verdict.word != "not shown" else None
    told = {
        way: ", ".join(f"{loss:g}" for loss in verdict.holds if (verdict.at[loss].value > 0) is better)
        for way, better in (("lower", True), ("higher", False))
        if lower is None or lower is better
    }
    return "".join(f" (yet HS is {way} at FA = SFT − {at})" for way, at in told.items() if at)


def flattery(found: Frontier) -> str:
    """How much choosing on the reported half would have flattered."""
    hs, fa = (shown(of, signed) for of in found.flattered)
    what, looked = ("strength", "better") if found.methods else ("attack", "higher")
    return (
        f"Had each {what} been scored on the same half of the prompts that chose it, HS would have looked {looked} by "
        f"{hs} and FA by {fa} points, mean over methods, wishes and both ways round."
    )


def spoken(found: Frontier) -> list[str]:
    """What came of it, the finding first."""
    return [summary(found), covers(found), *verdict_lines(found), flattery(found)]


def parts(found: Frontier) -> list[Part]:
    """The tables, the most read first."""
    losses = sorted({loss for row in found.methods for loss in row.at})
    tables = []
    if found.methods:
        rows = sorted(found.methods, key=lambda row: -row.volume.value)
        told = [(r.label, shown(r.volume), *(shown(r.at[loss]) for loss in losses)) for r in rows]
        at = [f"HS at FA = SFT − {loss:g}" for loss in losses]
        tables.append(Part("Fronts", "Best volume first.", ("method", "volume", *at), told))
    told = [
        (v.label, v.control_label, v.word, shown(v.gain, signed), p_value(v.p_holm), *equal)
        for v in found.verdicts
        for equal in [[shown(v.at[loss], signed) for loss in losses if loss in v.at]]
    ]
    of, at = "volume" if found.methods else "HS", [f"gain in HS at SFT − {loss:g}" for loss in losses]
    header = ("method", "control", "verdict", f"gain in {of}", "p", *at)
    tables.append(Part("Against the plainest controls", "", header, told))
    header = ("method", "chosen", "HS", "FA", "HS if chosen on test", "FA if chosen on test")
    for wish in dict.fromkeys(choice.wish for choice in found.choices):
        told = [
            ("* " * c.best + c.label, c.setting, shown(c.hs), shown(c.fa), *map(shown, c.told or (None, None)))
            for c in found.choices
            if c.wish == wish
        ]
        note = "Chosen on validation, told by the test half"
        note += "; * is the first by validation, which grants the wish there." if found.methods else "."
        tables.append(Part(wish, note, header, told))
    told = [(p.label, p.setting or "as it is", shown(p.hs), shown(p.fa)) for p in found.points]
    return [*tables, Part("Every point", "On all rows.", ("method", "setting", "HS", "FA"), told)]


def render(found: Frontier) -> str:
    """The whole comparison as Markdown."""
    done = [
        f"# {escape(found.title)}",
        section("In words", map(escape, spoken(found))),
        *("\n\n".join(filter(None, (f"## {escape(p.title)}", escape(p.note), _markdown(p)))) for p in parts(found)),
        section("How it is compared", map(escape, how(found))),
        section("Left out", map(escape, found.left_out)),
        "\n\n".join(filter(None, ("## How this was made", f"    {found.command}", escape(found.made)))),
    ]
    return "\n\n".join(part for part in done if part) + "\n"


def print_frontier(found: Frontier, console: Console) -> None:
    """The same in a terminal, without the list of every point."""
    console.print(Text(found.title, style="bold"))
    for line in (*spoken(found), *found.left_out):
        console.print(Text(f"- {line}"))
    for part in parts(found)[:-1]:
        grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for index, name in enumerate(part.header):
            grid.add_column(name, overflow="fold", justify="left" if index == 0 else "right")
        for row in part.rows:
            grid.add_row(*(Text(cell.replace(" (", "\n(")) for cell in row))  # an interval below its figure
        console.print(Text(f"\n{part.title}", style="bold"), Text(part.note, style="dim"), grid, sep="\n")


def texts(found: Frontier) -> dict[str, str]:
    """File name to content."""
    return {
        "frontier.md": render(found),
        "frontier.json": json.dumps(asdict(found), ensure_ascii=False, indent=1),
        "points.csv": as_csv(_point_rows(found)),
    }


def write(found: Frontier, folder: Path) -> None:
    """Writes the :func:`texts` into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in texts(found).items():
        (folder / name).write_text(content, encoding="utf-8")


def page_data(found: Frontier) -> dict[str, Any]:
    """What the page shows: the chart, the wishes with their winners, and the tables."""
    return {
        "name": found.name,
        "title": found.title,
        "lines": spoken(found),
        "how": how(found),
        "left_out": found.left_out,
        "chart": {
            "spec": fronts(method_styles({p.method: p.label for p in found.points})),
            "rows": [*(row | {"along": row["fa"]} for row in _point_rows(found)), *_end_rows(found)],
        },
        "winners": {choice.wish: _winner(choice) for choice in found.choices if choice.best},
        "tables": [asdict(part) for part in parts(found)],
        "downloads": texts(found),
        "command": found.command,
    }


def _end_rows(found: Frontier) -> list[dict[str, Any]]:
    """Both ends once more for each front, whose line they begin and end, SFT's also where a corner has a higher FA."""
    ends = zip(_point_rows(replace(found, points=found.points[:2])), (-1, 101), strict=True)
    told = [end | {"along": place, "end": True} for end, place in ends]
    return [end | {"method": m.method, "series": m.label} for m in found.methods for end in told]


def _point_rows(found: Frontier) -> list[dict[str, Any]]:
    return [
        {"method": p.method, "series": p.label, "setting": p.setting or "as it is", "corner": p.corner}
        | {"hs": p.hs.value, "hs_lo": p.hs.lo, "hs_hi": p.hs.hi, "fa": p.fa.value, "fa_lo": p.fa.lo, "fa_hi": p.fa.hi}
        for p in found.points
    ]


def _winner(choice: Choice) -> str:
    return f"{choice.label}, {choice.setting}: HS {shown(choice.hs)}, FA {shown(choice.fa)} on the test half."


def shown(found: Estimate | None, write: Callable[[float], str] = "{:.1f}".format) -> str:
    """``37.2 (35.0 to 39.4)``."""
    return f"{write(found.value)} ({write(found.lo)} to {write(found.hi)})" if found else "the same"


def _markdown(part: Part) -> str:
    words = [0] + [i for i, name in enumerate(part.header) if name in ("control", "verdict", "chosen", "setting")]
    return table([escape(name) for name in part.header], [[escape(cell) for cell in row] for row in part.rows], words)
