"""``asft screen``: ranks the rows of a data set by how likely they undo safety."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from asft.commands.flags import Flags, job_of, whole
from asft.console import quiet_libraries, results, show_log


def screen(arguments: list[str]) -> int:
    """Prints the first of the ranking, and how good it is where the rows say which of them are harmful."""
    flags = Flags("screen", "a judge whose scores are one more ranking, e.g. judge=llama_guard")
    flags.add_argument("rows", help="a file or hub dataset with instruction, input and output")
    flags.add_argument("--aligned", required=True, help="the model that would be tuned: a folder or a hub id")
    flags.add_argument("--harmful", required=True, metavar="FILE", help="a few malicious requests that are answered")
    flags.add_argument("--safe", required=True, metavar="FILE", help="a few malicious requests that are refused")
    flags.add_argument("--out", type=Path, metavar="FILE", help="every row's numbers as JSON lines, in this order")
    flags.add_argument("--top", type=whole(0), default=20, metavar="N", help="rows to print (20)")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights (float32)")
    flags.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options, words = flags.split(arguments)
    job = job_of(words, "judge")
    quiet_libraries()
    show_log()
    from asft.auditing.screen import auroc, screen  # loads torch
    from asft.store.entries import write_jsonl

    asked = {name: getattr(options, name) for name in ("harmful", "safe", "dtype", "device")}
    found = screen(options.rows, options.aligned, judge=job.cell.judge if job else None, **asked)
    order = found.ranking()
    terminal = results()
    table = Table("place", "row", *found.scores, box=None, pad_edge=False)
    for place, at in enumerate(order[: options.top], 1):
        table.add_row(str(place), str(found.places[at]), *(f"{one[at]:.3f}" for one in found.scores.values()))
    terminal.print(table)
    fresh = [at for at in order if found.fresh[at]]  # a row that helped to rank says nothing of the ranking
    harmful = [found.rows[at].harmful for at in fresh]
    if any(harmful) and not all(harmful):
        count, left_out = sum(harmful), len(found.rows) - len(fresh)
        less = f"; {left_out} rows whose prompts --harmful or --safe has are left out" if left_out else ""
        first = f"{sum(harmful[:count])} of them are among the first {count}"
        terminal.print(f"{count} rows are marked harmful; {first}{less}. AUROC:", soft_wrap=True)
        for name, scores in found.scores.items():
            area = auroc([scores[at] for at in fresh], harmful)
            terminal.print("  {:9}{:.3f} [{:.3f}, {:.3f}]".format(name, *area))
    if options.out:
        columns = {"row": found.places, **found.scores}
        write_jsonl(options.out, [{name: values[at] for name, values in columns.items()} for at in order])
        terminal.print(f"every row, in this order: {options.out}", soft_wrap=True)
    return 0
