"""What a table of measured values says about the paper's claims, in words; see :mod:`asft.report.evidence`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from asft.measures.epl import SAFE_HS
from asft.report.contrast import CONTRADICTED, NOT_SHOWN, SAME
from asft.report.measure_table import MeasureTable, number
from asft.report.records import AxisValue, Column

Values = dict[str, dict[AxisValue | None, float | None]]


def cosine_paragraph(table: MeasureTable) -> str:
    """Table 1: is the harmful update closer to orthogonal than a random one?"""
    found = {row: [entry for entry in table.row_entries(row) if entry.value is not None] for row in table.spec.rows}
    harmful, benign, random = (found.get(row, []) for row in ("harmful", "benign", "random"))
    if not harmful or not random:
        return "**Not shown.** Cells are missing."
    low, high = random[0].lo or 0.0, random[0].hi or 0.0
    above = sum((entry.value or 0) > high for entry in harmful)
    verdict = CONTRADICTED if above == len(harmful) else SAME if above == 0 else NOT_SHOWN
    means = {row: fmean(entry.value or 0.0 for entry in entries) for row, entries in found.items() if entries}
    text = (
        f"**{verdict.capitalize()}.** The paper finds harmful updates more orthogonal to the alignment direction than "
        f"random ones (6.3e-04 against 8.5e-03). Here |cos| is {number(means['harmful'])} for harmful updates and "
        f"{number(means['random'])} for random ones (95% of them between {low:.2g} and {high:.2g}); {above} of "
        f"{len(harmful)} harmful updates lie above that range."
    )
    if benign:
        mean = number(means["benign"])
        text += f" Benign fine-tunes reach {mean}: a small cosine alone does not mark an update as harmful."
    return text


def length_paragraph(table: MeasureTable) -> str:
    """Table 7: is the safe stretch along the alignment direction longer than along the harmful one, and the others?"""
    rows: Values = {row: {entry.column: entry.value for entry in table.row_entries(row)} for row in table.spec.rows}
    wins = {row: _longer(rows, table.spec.columns, row) for row in ("harmful", "benign", "random")}
    longer, of = wins["harmful"]
    if not of:
        return "**Not shown.** Cells are missing."
    verdict = SAME if longer == of else CONTRADICTED if not longer else NOT_SHOWN
    text = (
        f"**{verdict.capitalize()}.** The paper: the model stays safe much further along the alignment direction than "
        f"along a harmful one. Here that holds in {longer} of {of} models."
    )
    others = [f"than along a benign fine-tune's direction in {wins['benign'][0]} of {wins['benign'][1]}"]
    others.append(f"than along random directions (their mean) in {wins['random'][0]} of {wins['random'][1]}")
    if wins["benign"][1] and wins["random"][1]:
        text += (
            f" But it is longer {' and '.join(others)}: the alignment direction is no especially safe one to move "
            "along, and behind the aligned model it leads to the base model."
        )
    return f"{text} Values close to the largest α looked at are lower bounds; the paper states neither scale nor range."


def landscape_paragraph(table: MeasureTable) -> str:
    """Figures 1 and 3: how much is safe along each axis and line, against what the paper reads off its plots."""
    said, claims = [], []
    for record in table.records:
        where = f"{table.spec.rows[record.row]} ({table.column_label(record.column)})"
        details = record.details
        if details["kind"] == "plane":
            along_x, along_y = plane_axes(details["hs"])
            said.append(
                f"{where}: {record.values['safe_share']:.0f}% of the grid is safe; of the points on the axes, "
                f"{along_x:.0f}% along x ({details['x']}) and {along_y:.0f}% along y ({details['y']})"
            )
            if (details["x"], details["y"]) == ("alignment", "harmful"):
                claims.append(along_x > along_y)
        else:
            own, random = safe_share(details["hs"]), fmean(safe_share(line) for line in details["random"])
            said.append(
                f"{where}: {own:.0f}% of the points along the {details['along']} direction are safe, {random:.0f}% "
                "along random ones"
            )
            claims.append(own > random)
    verdict = SAME if claims and all(claims) else CONTRADICTED if claims and not any(claims) else NOT_SHOWN
    kinds = {record.details["kind"] for record in table.records}
    claim = (
        "random directions are as safe to move along as the alignment direction, or safer"
        if "lines" in kinds and verdict == CONTRADICTED
        else "safety lasts longer along the alignment direction"
    )
    paper = "The paper's reading: safety lasts along the alignment direction and ends soon along a harmful one."
    return f"**{verdict.capitalize()}.** {paper} Here {claim}. {'; '.join(said)}."


def plane_axes(hs: list[list[float]]) -> tuple[float, float]:
    """Percent of safe points on the plane's two axes, x (the middle row) and y (the middle column)."""
    middle = len(hs) // 2
    return safe_share(hs[middle]), safe_share([row[middle] for row in hs])


def safe_share(scores: list[float]) -> float:
    """Percent of scores at most τ."""
    return 100 * fmean(score <= SAFE_HS for score in scores)


def _longer(rows: Values, columns: Sequence[Column], other: str) -> tuple[int, int]:
    """In how many models the alignment direction's length is above another's, and of how many."""
    pairs = [(rows.get("alignment", {}).get(column.value), rows.get(other, {}).get(column.value)) for column in columns]
    known = [(own, theirs) for own, theirs in pairs if own is not None and theirs is not None]
    return sum(own > theirs for own, theirs in known), len(known)
