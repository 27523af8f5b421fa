"""What a table of measured values says about the paper's claims, in words; see :mod:`asft.report.evidence`."""

from __future__ import annotations

from statistics import fmean

from asft.report.evidence import CONTRADICTED, NOT_SHOWN, SAME
from asft.report.measures import MeasureTable, number
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
    """Table 7: is the safe stretch along the alignment direction longer than along the harmful one?"""
    rows: Values = {row: {entry.column: entry.value for entry in table.row_entries(row)} for row in table.spec.rows}
    columns = [column for column in table.spec.columns if _both(rows, column, "alignment", "harmful")]
    if not columns:
        return "**Not shown.** Cells are missing."
    longer = [c for c in columns if (rows["alignment"][c.value] or 0) > (rows["harmful"][c.value] or 0)]
    verdict = SAME if len(longer) == len(columns) else CONTRADICTED if not longer else NOT_SHOWN
    text = (
        f"**{verdict.capitalize()}.** The paper: the model stays safe much further along the alignment direction than "
        f"along a harmful one. Here that holds in {len(longer)} of {len(columns)} models."
    )
    against_random = [column for column in columns if _both(rows, column, "alignment", "random")]
    if against_random:
        wins = sum((rows["alignment"][c.value] or 0) > (rows["random"][c.value] or 0) for c in against_random)
        text += (
            f" Against the mean of random directions it is longer in {wins} of {len(against_random)}, so what the "
            "harmful direction has in particular must be read beside that row."
        )
    return text


def landscape_paragraph(table: MeasureTable) -> str:
    """Figures 1 and 3: how much of each plane is safe, how HS runs along the lines."""
    lines = []
    for record in table.records:
        where = f"{table.spec.rows[record.row]} ({table.column_label(record.column)})"
        if "safe_share" in record.values:
            lines.append(
                f"{where}: {record.values['safe_share']:.0f}% of the grid is safe, cosine of the two directions "
                f"{record.values['cosine']:.3f}"
            )
        else:
            along, random = record.values["mean_hs"], record.values["mean_hs_random"]
            lines.append(f"{where}: mean HS {along:.1f} along the alignment direction, {random:.1f} along random ones")
    return "; ".join(lines) + "."


def _both(rows: Values, column: Column, *names: str) -> bool:
    return all(rows.get(name, {}).get(column.value) is not None for name in names)
