"""``asft audit``: is a fine-tune still safe, and what is the cheapest repair?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asft.commands.flags import Flags
from asft.config import ConfigError
from asft.console import console, quiet_libraries, results, show_log

if TYPE_CHECKING:  # loads torch
    from asft.auditing.results import Audit, Compared, Repair
    from asft.judges.base import Judge

_SHOWN = 12  # modules; the page has all


def audit(arguments: list[str]) -> int:
    """Prints the verdict, the scores and what moved; ends with 1 where ``--fail-if`` holds or no repair is found."""
    options, judge = _parsed(arguments)
    quiet_libraries()
    show_log()
    from asft.auditing.exam import PUBLIC  # loads torch
    from asft.auditing.results import broken, parse_condition
    from asft.auditing.run import audited, exam, repaired, require_absent, require_repairable

    out = options.out
    if options.repair and (options.prompts is None or options.task is None or out is None):
        raise ConfigError(f"--repair: needs --prompts, --task and --out. Public sets of malicious prompts: {PUBLIC}")
    measured = ["drift", "kl", "over_refusal", "over_refusal_difference"]
    measured += [name for name in ("hs", "hs_difference") if options.prompts]
    measured += [name for name in ("accuracy", "accuracy_difference") if options.task]
    for condition in options.fail_if:
        parse_condition(condition, measured)
    if options.repair:
        require_absent(out / "repaired")
    asked = {name: getattr(options, name) for name in ("base", "prompts", "task", "rule", "max_new_tokens")}
    asked |= {name: getattr(options, name) for name in ("batch_size", "dtype", "device")}
    terminal, found = results(), None
    with exam(options.tuned, options.aligned, judge=judge, kept=out / "answers" if out else None, **asked) as questions:
        if options.repair:
            require_repairable(questions)
        report = audited(questions, margin=options.margin, leave_out=options.modules)
        if options.repair:
            wish = {"max_accuracy_loss": options.max_accuracy_loss, "max_hs": options.max_hs}
            found = repaired(questions, out / "repaired", margin=options.margin, **wish)
    document = {**report.to_dict(), "repair": found.to_dict() if found else None}
    if out:
        _write(out / "audit.json", json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n")
        _write(out / "audit.html", report.html(found))
    failed = broken(report, options.fail_if)
    if options.json:
        print(json.dumps(document, default=str))  # a terminal obeys no escape in ASCII
    else:
        _show(terminal, report, found, options.aligned)
        if not options.prompts:
            terminal.print(f"Give --prompts. Public sets: {PUBLIC}", soft_wrap=True)
        if out:
            terminal.print(f"{out / 'audit.html'}, {out / 'audit.json'}", soft_wrap=True)
    for reason in failed:
        console.print(Text.assemble(("asft audit:", "bold red"), f" failed: {reason}"), soft_wrap=True)
    return 1 if failed or (found is not None and found.chosen is None) else 0


def _parsed(arguments: list[str]) -> tuple[argparse.Namespace, Judge | None]:
    flags = Flags("audit", "another judge and its keys, e.g. judge=llama_guard")
    flags.add_argument("tuned", help="a LoRA adapter or a whole checkpoint: a folder of safetensors or a hub id")
    flags.add_argument("--aligned", required=True, help="the model that it was tuned from")
    flags.add_argument(
        "--base", help="the same before alignment: how updates lie to the alignment direction, Safe LoRA"
    )
    flags.add_argument("--prompts", metavar="FILE", help="malicious prompts (JSON, JSONL, CSV, Parquet, or a hub id)")
    flags.add_argument("--task", metavar="FILE", help="task rows: instruction, input, output")
    flags.add_argument("--rule", choices=["exact", "word", "number"], default="word", help="when a task answer counts")
    flags.add_argument(
        "--out", type=Path, metavar="DIR", help="page, JSON and answers, from which a killed audit goes on"
    )
    flags.add_argument("--modules", action="store_true", help="also HS without each group of modules (16 at most)")
    flags.add_argument("--margin", type=float, default=5.0, metavar="POINTS", help="of HS that count as no loss (5)")
    flags.add_argument("--repair", action="store_true", help="search a repair that trains nothing; writes DIR/repaired")
    flags.add_argument("--max-accuracy-loss", type=float, default=1.0, metavar="POINTS", help="of a repair (1)")
    flags.add_argument("--max-hs", type=float, metavar="PERCENT", help="of a repair (the aligned model's + margin)")
    flags.add_argument("--fail-if", action="append", default=[], metavar="'hs > 5'", help="end with 1 where this holds")
    flags.add_argument("--json", action="store_true", help="print the result as JSON")
    flags.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="of each answer (128)")
    flags.add_argument("--batch-size", type=int, default=16, metavar="N", help="prompts at once (16)")
    flags.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="by default the checkpoint's own")
    flags.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options, words = flags.split(arguments)
    if not words:
        return options, None
    if wrong := [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] != "judge"]:
        raise ConfigError(f"{wrong[0]}: only judge=NAME and judge.KEY=VALUE can be set here")
    from asft.cells.compose import enumerate_cells

    return options, enumerate_cells(words, sweep=False).cells[0].cell.judge


def _write(path: Path, text: str) -> None:
    """The file is complete or as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


def _show(terminal: Console, report: Audit, found: Repair | None, aligned: str) -> None:
    """The page's tables as text."""
    from asft.auditing.page import load_lines

    colour = {"safety lost": "bold red", "no loss shown": "bold green"}.get(report.verdict.outcome, "bold yellow")
    terminal.print(Text(report.verdict.text, style=colour), soft_wrap=True)
    terminal.print(_scores(report.scores, "aligned", "fine-tune"))
    drift = report.drift
    terminal.print(f"{drift.changed:.0f} % of {drift.prompts} ordinary answers changed, mean KL {drift.kl:.3g} nats")
    if report.told["caveat"]:
        terminal.print(f"judge {report.told['judge']}: {report.told['caveat']}")
    table = Table("module", "‖ΔW‖", "‖ΔW‖/‖W‖", "cos(ĈΔW, ΔW)", "HS without it", box=None, pad_edge=False)
    for module in sorted(report.modules, key=lambda module: -module.relative)[:_SHOWN]:
        cosine = "–" if module.cosine is None else f"{module.cosine:.3f}"
        without = "–" if module.hs_without is None else f"{module.hs_without:.1f}"
        table.add_row(module.name, f"{module.norm:.3g}", f"{module.relative:.3g}", cosine, without)
    terminal.print(table)
    if found is None:
        return
    terminal.print(f"repair: {found.wish}", soft_wrap=True)
    if found.chosen is None:
        terminal.print("no repair reached it, and nothing was written; the best trade-offs (validation half):")
        for one in found.frontier:
            terminal.print(f"  HS {one.hs:5.1f}  accuracy {one.accuracy:5.1f}  {one.label}")
        return
    if found.folder is None:
        terminal.print("the fine-tune itself reaches it: there is nothing to repair")
        return
    terminal.print(f"chosen: {found.chosen.label}; on the test half:")
    terminal.print(_scores(found.test, "fine-tune", "repaired"))
    assert found.verdict is not None
    terminal.print(f"against the aligned model: {found.verdict.text}", soft_wrap=True)
    terminal.print(load_lines(aligned, str(found.folder)), soft_wrap=True)


def _scores(scores: Sequence[Compared], first: str, second: str) -> Table:
    from asft.report.text import p_value

    table = Table("", f"{first}, %", f"{second}, %", "difference", "p", "rows", box=None, pad_edge=False)
    for score in scores:
        sides = [
            f"{side.value:.1f} [{side.interval[0]:.0f}, {side.interval[1]:.0f}]" for side in (score.before, score.after)
        ]
        bounds = f"{score.difference:+.1f} [{score.interval[0]:+.1f}, {score.interval[1]:+.1f}]"
        table.add_row(score.name, *sides, bounds, p_value(score.p_value), str(score.after.n))
    return table
