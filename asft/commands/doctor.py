"""``asft doctor``: what an experiment needs and this machine lacks."""

from __future__ import annotations

from asft.cells.compose import enumerate_all
from asft.commands.flags import SweepFlags
from asft.console import results
from asft.planning.ahead import Finding
from asft.planning.doctor import examine

_MARKS = {"ok": "ok", "note": "–", "missing": "MISSING"}


def doctor(arguments: list[str]) -> int:
    """Prints every check for a command line's cells; returns 1 when something they need is missing, else 0."""
    _, overrides = SweepFlags("doctor").split(arguments)
    try:
        sweep = enumerate_all(overrides)
        findings = examine(sweep.cells)
    except ValueError as error:  # what the settings name is not there: that is what a doctor is asked for
        findings = [Finding("settings", "missing", str(error))]
    width = max(len(finding.what) for finding in findings)
    terminal = results()
    for finding in findings:  # one line each, so that a pipe keeps them whole
        terminal.print(f"{finding.what:<{width}}  {_MARKS[finding.state]:<7}  {finding.text}", soft_wrap=True)
    missing = [finding.what for finding in findings if finding.state == "missing"]
    terminal.print(f"missing: {', '.join(missing)}" if missing else "nothing that this experiment needs is missing")
    return 1 if missing else 0
