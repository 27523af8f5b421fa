"""``asft screen``: ranks the rows of a data set by how likely they undo safety."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from asft.commands.flags import Flags
from asft.console import quiet_libraries, results, show_log


def screen(arguments: list[str]) -> int:
    """Prints the first of the ranking, and how good it is where the rows say which of them are harmful."""
    flags = Flags("screen")
    flags.add_argument("rows", help="a file or hub dataset with instruction, input and output")
    flags.add_argument("--aligned", required=True, help="the model that would be tuned: a folder or a hub id")
    flags.add_argument("--harmful", required=True, metavar="FILE", help="a few malicious requests that are answered")
    flags.add_argument("--safe", required=True, metavar="FILE", help="a few malicious requests that are refused")
    flags.add_argument("--out", type=Path, metavar="FILE", help="every row's numbers as JSON lines")
    flags.add_argument("--top", type=int, default=20, metavar="N", help="rows to print (20)")
    options, _ = flags.split(arguments)
    quiet_libraries()
    show_log()
    from asft.auditing.screen import auroc, screen  # loads torch
    from asft.store.entries import write_jsonl

    found = screen(options.rows, options.aligned, harmful=options.harmful, safe=options.safe)
    order = found.ranking()
    terminal = results()
    table = Table("place", "row", "likeness", "loss", "keyword", box=None, pad_edge=False)
    for place, at in enumerate(order[: options.top], 1):
        word = "yes" if found.words[at] else ""
        table.add_row(str(place), str(found.places[at]), f"{found.likeness[at]:+.3f}", f"{found.loss[at]:.2f}", word)
    terminal.print(table)
    harmful = [row.harmful for row in found.rows]
    if any(harmful) and not all(harmful):
        count = sum(harmful)
        hit = sum(harmful[at] for at in order[:count])
        terminal.print(f"{count} rows are marked harmful; {hit} of them are among the first {count}. AUROC:")
        for name, scores in (("likeness", found.likeness), ("loss", found.loss), ("keywords", found.words)):
            terminal.print("  {:9}{:.3f} [{:.3f}, {:.3f}]".format(name, *auroc(scores, harmful)))
    if options.out:
        numbers = zip(found.places, found.likeness, found.loss, found.words, strict=True)
        keys = ("row", "likeness", "loss", "keyword")
        write_jsonl(options.out, [dict(zip(keys, row, strict=True)) for row in numbers])
    return 0
