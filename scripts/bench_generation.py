"""Batched evaluation beside the authors' one-prompt-at-a-time loop, and padding to the batch's longest row
beside padding to a fixed length. Both sides run in this one process, in turn, on the embedded pair.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from asft.backends.generate import generate
from asft.cells.cell import Cell
from asft.cells.compose import enumerate_cells
from asft.console import quiet_libraries
from asft.data.base import load_data
from asft.data.loading import Collator
from asft.data.templates import ChatTemplate
from asft.pipeline.prepare import prepare_pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. model=tiny_llama")
    options = parser.parse_args()
    torch.set_num_threads(2)
    quiet_libraries()
    job = enumerate_cells(["method=sft", *options.overrides], sweep=False).cells[0]
    cell = job.cell
    pair = prepare_pair(job)
    model, tokenizer = pair.load("aligned", torch.device("cpu")), pair.tokenizer()
    console = Console()
    console.print(_generation(cell, model, tokenizer, options.prompts, options.repeats))
    console.print(_padding(cell, model, tokenizer, options.repeats))


def _generation(
    cell: Cell, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, repeats: int
) -> Table:
    data, template = load_data(cell), ChatTemplate(tokenizer)
    table = Table("evaluation", "prompts", "one by one", "batched", "ratio", "equal text", box=None, title="Generation")
    parts = (("harmful score", data.evaluation[:count], 32), ("agnews", data.test[:count], 24))
    for name, rows, tokens in parts:
        prompts = [template.encode_prompt(row) for row in rows]

        def batched(prompts: Sequence[list[int]] = prompts, tokens: int = tokens) -> list[str]:
            return generate(model, tokenizer, prompts, max_new_tokens=tokens, batch_size=cell.evaluation.batch_size)

        def single(prompts: Sequence[list[int]] = prompts, tokens: int = tokens) -> list[str]:
            return [_alone(model, tokenizer, prompt, tokens) for prompt in prompts]

        slow, fast = _paired(single, batched, repeats)
        equal = sum(one == many for one, many in zip(single(), batched(), strict=True))
        table.add_row(
            name,
            str(len(prompts)),
            f"{slow:.2f} s",
            f"{fast:.2f} s",
            f"{slow / fast:.1f}×",
            f"{equal} of {len(prompts)}",
        )
    return table


def _alone(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[int], tokens: int) -> str:
    """One prompt, as the authors' evaluation does it."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id,
        )
    return str(tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True)).strip()


def _padding(cell: Cell, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeats: int) -> Table:
    template = ChatTemplate(tokenizer)
    rows = [template.encode_example(row, 512) for row in load_data(cell).train[:32]]
    assert isinstance(tokenizer.pad_token_id, int)

    def steps(collator: Collator) -> list[float]:
        losses = []
        for start in range(0, len(rows), 8):
            loss = model(**collator(rows[start : start + 8])).loss
            loss.backward()
            losses.append(loss.item())
        model.zero_grad()
        return losses

    longest, fixed = Collator(tokenizer.pad_token_id), Collator(tokenizer.pad_token_id, 512)
    slow, fast = _paired(lambda: steps(fixed), lambda: steps(longest), repeats)
    off = max(abs(one - many) for one, many in zip(steps(fixed), steps(longest), strict=True))
    table = Table(
        "padding", "fixed 512", "batch maximum", "ratio", "largest loss difference", box=None, title="Training step"
    )
    table.add_row("4 steps of 8", f"{slow:.2f} s", f"{fast:.2f} s", f"{slow / fast:.1f}×", f"{off:.1e}")
    return table


def _paired(slow: Callable[[], object], fast: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of both, measured in turn so that a drift of the machine meets both; one warm-up each."""
    slow(), fast()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, seconds in zip((slow, fast), times, strict=True):
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
