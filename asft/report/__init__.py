"""Tables beside the paper's: what was measured, how sure it is, and whether it shows anything."""

from asft.report.measure_writers import print_measures, write_measures
from asft.report.measures import MeasureRecord, MeasureSpec, MeasureTable, MissingMeasure
from asft.report.records import Cell, CellRecord, Column, MissingCell, TableSpec
from asft.report.write import ReportPaths, print_report, write_report

__all__ = [
    "Cell",
    "CellRecord",
    "Column",
    "MeasureRecord",
    "MeasureSpec",
    "MeasureTable",
    "MissingCell",
    "MissingMeasure",
    "ReportPaths",
    "TableSpec",
    "print_measures",
    "print_report",
    "write_measures",
    "write_report",
]
