"""Tables beside the paper's: what was measured, how sure it is, and whether it shows anything."""

from asft.report.records import Cell, CellRecord, Column, MissingCell, TableSpec
from asft.report.write import ReportPaths, print_report, write_report

__all__ = [
    "Cell",
    "CellRecord",
    "Column",
    "MissingCell",
    "ReportPaths",
    "TableSpec",
    "print_report",
    "write_report",
]
