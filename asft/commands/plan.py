"""``asft plan``: what an experiment will take, before it is launched."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from asft.cells.cell import CellConfig
from asft.cells.compose import enumerate_cells, overrides_of
from asft.cells.keys import plan as cell_plan
from asft.cells.keys import store_kind
from asft.commands.run import distinct
from asft.config import ConfigError
from asft.console import quiet_libraries
from asft.planning.hours import (
    Measured,
    Rate,
    building_seconds,
    cell_seconds,
    default_rate,
    measured,
    reading_seconds,
    training_seconds,
)
from asft.planning.measure_time import WorkSeconds, measure_seconds, measured_work
from asft.planning.memory import PROMPT_TOKENS, device_memory
from asft.planning.shape import Shape, model_shape
from asft.planning.space import disk_bytes, downloads
from asft.planning.tokens import RowTokens, answer_tokens, disguised_tokens, row_tokens, training_tokens
from asft.planning.trainings import Trainings, trainings
from asft.store.entries import Store, content_key

_GIB = 2**30


def plan(arguments: list[str]) -> int:
    """Prints cells, distinct trainings, tokens, memory, hours, downloads and disk of a command line's sweep."""
    options, rest = _parser().parse_known_args(arguments)
    sweep = enumerate_cells(overrides_of(rest), sweep=True)
    quiet_libraries()
    cells = {key: item.cell for key, item in distinct(sweep.cells).items()}
    terminal = Console(file=sys.stdout, highlight=False, markup=False)
    by_pair: dict[str, dict[str, CellConfig]] = {}
    for key, cell in cells.items():
        by_pair.setdefault(_pair_key(cell), {})[key] = cell
    for index, chosen in enumerate(by_pair.values()):
        if index:
            terminal.print()
        _print_model(chosen, options.rate, options.generate_rate, terminal)
    return 0


def _print_model(
    cells: dict[str, CellConfig], rate: float | None, generate_rate: float | None, terminal: Console
) -> None:
    """The plan of all cells of one model pair."""
    first = next(iter(cells.values()))
    store, shape, needed = Store(first.outputs), model_shape(first), trainings(cells.values())
    open_cells = {key: cell for key, cell in cells.items() if store.find(store_kind(cell), key) is None}
    per_row = _row_tokens(needed)
    longest = max((found.longest for found in per_row.values()), default=first.training.max_length)
    used = _rate(first, shape, rate, generate_rate)
    known, done = (Measured(), {}) if rate is not None else (measured(first), measured_work(cells.values()))
    lines: list[tuple[str, str]] = []
    lines.append(("model", f"{first.model.name}, {_parameters(shape)} a side"))
    lines.append(("cells", f"{len(cells)} distinct, {len(cells) - len(open_cells)} finished"))
    lines.append(("trainings", _trainings_words(needed)))
    lines.append(("tokens", _tokens_words(needed, per_row, cells)))
    disguised = _disguised(cells)
    lines += [("prompts", _prompts_words(name, found)) for name, found in disguised.items()]
    prompts = {name: found.longest for name, found in disguised.items()}
    peak = max(
        (
            device_memory(cell, shape, longest, prompts.get(cell.jailbreak.name, PROMPT_TOKENS))
            for cell in cells.values()
        ),
        key=lambda item: item.peak,
    )
    parts = f"train {peak.train / _GIB:.1f}, generate {peak.generate / _GIB:.1f}, judge {peak.judge / _GIB:.1f}"
    lines.append(("memory", f"{peak.peak / _GIB:.1f} GiB a device, an estimate ({parts})"))
    lines.append(("time", _time_words(needed, open_cells, per_row, _Times(known, done, used, shape, disguised))))
    for item in downloads(cells.values()):
        size = f"about {item.size / _GIB:.1f} GiB, by its name" if item.size else "size unknown"
        lines.append(("download", f"{item.source} for {item.purpose}, {size}"))
    remaining = [needed.distinct[key] for key in needed.missing]
    wanted = disk_bytes(remaining, open_cells.values(), shape)
    free = shutil.disk_usage(_existing(first.outputs)).free
    lines.append(("disk", f"at most {wanted / _GIB:.2f} GiB below {first.outputs}; {free / _GIB:.0f} GiB free"))
    for what, found in lines:
        terminal.print(f"{what:<11}{found}", soft_wrap=True)  # one line each, so that a pipe keeps them whole


def _row_tokens(needed: Trainings) -> dict[str, RowTokens]:
    """Row lengths of every distinct fine-tune; those on rows of one kind are counted once."""
    by_kind: dict[tuple[object, ...], RowTokens] = {}
    found = {}
    for key, cell in needed.distinct.items():
        share = cell.attack.harmful_count() / cell.attack.n
        kind = (cell.dataset.name, cell.attack.source, round(share, 3), cell.training.max_length)
        if kind not in by_kind:
            by_kind[kind] = row_tokens(cell)
        found[key] = by_kind[kind]
    return found


def _disguised(cells: dict[str, CellConfig]) -> dict[str, RowTokens]:
    """Tokens of a disguised prompt by jailbreak, counted on the first cell that has it."""
    first = {cell.jailbreak.name: cell for cell in reversed(cells.values())}
    counted = {name: disguised_tokens(cell) for name, cell in first.items()}
    return {name: found for name, found in counted.items() if found is not None}


def _prompts_words(jailbreak: str, found: RowTokens) -> str:
    how = "counted" if found.counted else "an estimate: the pair's tokenizer is not here yet"
    return f"{found.mean:,.0f} tokens a malicious prompt under jailbreak={jailbreak}, at most {found.longest:,} ({how})"


def _trainings_words(needed: Trainings) -> str:
    methods = Counter(cell.method.name for cell in needed.distinct.values())
    listed = ", ".join(f"{count} {name}" for name, count in methods.items())
    return (
        f"{len(needed.distinct)} distinct ({listed or 'none'}); {needed.saved} saved by sharing; "
        f"{len(needed.missing)} still to do"
    )


def _tokens_words(needed: Trainings, per_row: dict[str, RowTokens], cells: dict[str, CellConfig]) -> str:
    trained = sum(training_tokens(cell, per_row[key]) for key, cell in needed.distinct.items())
    generated = sum(_generated(cell) for cell in cells.values())
    counted = all(found.counted for found in per_row.values())
    how = "counted on the data" if counted else "an estimate: the data or the pair's tokenizer are not here yet"
    return f"{trained:,} trained ({how}); at most {generated:,} generated"


def _generated(cell: CellConfig) -> int:
    """Answer tokens of a cell, at most; those that a measure asks for."""
    if cell.measure is None:
        return answer_tokens(cell)
    return cell.measure.work(cell.evaluation.harmful_max_new_tokens) if cell.measure.asks else 0


@dataclass(frozen=True)
class _Times:
    """What hours are told by: finished cells and measures of the model, a rate where there are none, and its shape."""

    known: Measured
    done: WorkSeconds
    rate: Rate
    shape: Shape
    disguised: dict[str, RowTokens]

    def answer_seconds(self, cell: CellConfig) -> float:
        """Of one cell's answers and verdicts, its disguised prompts being longer to read."""
        prompts = self.disguised.get(cell.jailbreak.name)
        reading = cell.evaluation.n_harmful * prompts.mean if prompts else 0
        return cell_seconds(cell, self.known, self.rate) + reading_seconds(reading, self.rate)

    def source(self, training: float, answers: float) -> str:
        """Where the seconds of training and of answers are from, in words."""
        finished = self.known.cells + sum(map(len, self.done.values()))
        if not finished:
            return self.rate.source
        words = f"measured on {finished} finished cells of this model"
        # Only untouched models may be finished, or measures, or cells that another backend answered.
        parts = (("training", training, self.known.step), ("answers", answers, self.known.answers))
        by_rate = [name for name, seconds, known in parts if seconds and not known]
        return f"{words}; {' and '.join(by_rate)} by the {self.rate.source}" if by_rate else words


def _time_words(needed: Trainings, open_cells: dict[str, CellConfig], per_row: dict[str, RowTokens], by: _Times) -> str:
    training = sum(
        training_seconds(needed.distinct[key], training_tokens(needed.distinct[key], per_row[key]), by.known, by.rate)
        for key in needed.missing
    )
    cells = open_cells.values()
    answers = sum(by.answer_seconds(cell) for cell in cells if cell.measure is None)
    measures = sum(measure_seconds(cell, by.done, by.known, by.rate, by.shape) for cell in cells if cell.measure)
    building = sum({_pair_key(cell): building_seconds(cell, by.rate) for cell in cells}.values())
    parts = {
        "training": training,
        "answers and verdicts": answers,
        "measures": measures,
        "building the pair": building,
    }
    named = [name for name, seconds in parts.items() if seconds or name in {"training", "answers and verdicts"}]
    listed = ", ".join(f"{name} {_clock(parts[name])}" for name in named)
    return f"{_clock(sum(parts.values()))} one after another ({listed}; {by.source(training, answers)})"


def _pair_key(cell: CellConfig) -> str:
    return content_key(cell_plan(cell).pair)


def _rate(cell: CellConfig, shape: Shape, rate: float | None, generate_rate: float | None) -> Rate:
    """The rate stated on the command line, else the default of the device the cell would run on."""
    for name, value in (("--rate", rate), ("--generate-rate", generate_rate)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name}={value:g}: tokens per second, above 0")
    if rate is not None:
        answer = generate_rate or rate
        return Rate(rate, answer, f"at the stated {rate:g} tokens/s in training and {answer:g} in generating")
    if generate_rate is not None:
        raise ConfigError(f"--generate-rate={generate_rate:g}: needs --rate, the tokens per second in training, too")
    import torch

    # A model of billions is not for this machine's CPU: its plan is for the GPU that it will be given.
    gpu = torch.cuda.is_available() or shape.parameters > 10**9
    return default_rate(cell, shape, gpu)


def _parameters(shape: Shape) -> str:
    return f"{shape.parameters / 1e6:,.1f} M parameters" + ("" if shape.exact else " (estimate)")


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asft plan", add_help=False)
    parser.add_argument("--rate", type=float, help="tokens per second in training")
    parser.add_argument("--generate-rate", type=float, help="tokens per second in generating; --rate's by default")
    return parser
