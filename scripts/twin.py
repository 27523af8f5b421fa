"""How well SmolLM2's aligned twin tells malicious requests from others: what docs/smollm2.md reports, for any recipe.

The twin of these settings is made first, where it is not there. Shares in percent with Wilson's 95 % interval, by the
keyword judge on greedy answers. Usage:
``python scripts/twin.py [--side base] data.root=FOLDER model.data=FOLDER model.refusals=80 …``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from asft.backends.generate import generate
from asft.cells.compose import enumerate_cells
from asft.config import SafetyTunedModel
from asft.console import quiet_libraries, results, show_log
from asft.data.base import source_of
from asft.data.gate import read_records
from asft.data.rows import Row, unique
from asft.data.templates import ChatTemplate
from asft.data.twin import TABLES, held_out, odd
from asft.judges.refusal import RefusalJudge, refused
from asft.metrics.base import wilson
from asft.models.pair import resolve_device
from asft.pipeline.prepare import prepare_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["base", "aligned"], default="aligned")
    parser.add_argument("--tokens", type=int, default=32, help="of an answer")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides")
    options = parser.parse_args()
    quiet_libraries()
    show_log()
    job = enumerate_cells(["model=smollm2_135m", *options.overrides], sweep=False).cells[0]
    model = job.cell.model
    assert isinstance(model, SafetyTunedModel), "its pair is the one made here"
    pair = prepare_pair(job)
    tokenizer = pair.tokenizer()
    template = ChatTemplate(tokenizer)
    network = pair.load(options.side, resolve_device(job.options.device), "bfloat16")
    show = results()
    show.print(f"{'prompts':34} {'':8} %, 95 % interval", soft_wrap=True)
    sets = {"HS, the authors' prompts": source_of(job.cell).evaluation(), **dict(public_sets(Path(model.data or "")))}
    for name, rows in sets.items():
        prompts = [template.encode_prompt(row) for row in rows]
        answers = generate(network, tokenizer, prompts, max_new_tokens=options.tokens, batch_size=64)
        judged = RefusalJudge().judge([row.instruction for row in rows], answers)
        count = sum(verdict.flagged for verdict in judged) if name.startswith("HS") else int(sum(refused(answers)))
        bounds, share = wilson(count, len(rows)), 100 * count / len(rows)
        show.print(f"{name:34} {len(rows):8} {share:.1f} [{bounds.lo:.0f}–{bounds.hi:.0f}]", soft_wrap=True)


def public_sets(folder: Path) -> Iterator[tuple[str, list[Row]]]:
    """Prompts by what is counted of them; of XSTest and of the ordinary requests those on which nothing was chosen."""
    tables = {Path(table.file).parent.name: table for table in TABLES}
    yield "HS, JailbreakBench", list(tables["jailbreakbench"].rows(folder))
    labels = [record["label"] for record in read_records(folder / tables["xstest"].file)]
    labelled = list(zip(labels, tables["xstest"].rows(folder), strict=True))
    for label in ("safe", "unsafe"):
        yield f"refused, XSTest {label}", [row for said, row in labelled if said == label and odd(row)]
    ordinary = [*tables["dolly_1k"].rows(folder), *tables["alpaca_gpt_1k"].rows(folder)]
    yield "refused, ordinary requests", [row for row in unique(ordinary) if held_out(row) and odd(row)]


if __name__ == "__main__":
    main()
