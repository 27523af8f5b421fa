"""``asft audit``: is a fine-tune still safe, and what is the cheapest repair?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from asft.commands.flags import Flags, job_of, number, whole
from asft.config import ConfigError
from asft.console import console, quiet_libraries, results, show_log
from asft.store.integrity import write_whole

if TYPE_CHECKING:  # loads torch
    from asft.cells.job import Job


def audit(arguments: list[str]) -> int:
    """Prints the verdict, the scores and what moved; ends with 1 where ``--fail-if`` holds or no repair holds."""
    options, job = _parsed(arguments)
    quiet_libraries()
    show_log()
    asked = {name: getattr(options, name) for name in ("base", "prompts", "task", "max_new_tokens", "batch_size")}
    asked |= {name: getattr(options, name) for name in ("dtype", "device")}
    more = {"safe": options.safe, "harmful": options.harmful}
    if options.plan:
        return _planned(options, job, {**asked, **more})
    from asft.auditing.exam import PUBLIC  # loads torch
    from asft.auditing.results import broken, parse_condition
    from asft.auditing.run import audited, exam, repaired, require_repairable
    from asft.auditing.subject import require_absent

    out = options.out
    if options.repair and (options.prompts is None or options.task is None or out is None):
        raise ConfigError(f"--repair: needs --prompts, --task and --out. Public sets of malicious prompts: {PUBLIC}")
    scores = ["over_refusal", "ability", "coherence", *(["hs"] if options.prompts else [])]
    scores += ["accuracy"] if options.task else []
    measured = ["drift", "kl", *scores, *(f"{name}_difference" for name in scores)]
    for condition in options.fail_if:
        parse_condition(condition, measured)
    idle = [name for name in ("max_hs", "safe", "harmful") if getattr(options, name) is not None]
    if idle and not options.repair:
        raise ConfigError(f"--{idle[0].replace('_', '-')}: says how to repair; add --repair, or leave it out")
    if options.repair and not _unfinished(out / "audit.json"):
        require_absent(out / "repaired")
    found, judge = None, job.cell.judge if job else None
    asked |= {"rule": options.rule, "judge": judge, "kept": out / "answers" if out else None}
    with exam(options.tuned, options.aligned, **asked) as questions:
        if options.repair:
            require_repairable(questions, **more)
        report = audited(questions, margin=options.margin, modules=bool(options.modules))
        if options.repair:
            write_whole(out / "audit.json", _json({**report.to_dict(), "repair": None}))
            wish = {"max_accuracy_loss": options.max_accuracy_loss, "max_hs": options.max_hs}
            tried = {"modules": options.modules is not False, **more}
            found = repaired(questions, out / "repaired", margin=options.margin, **wish, **tried)
        document = {**report.to_dict(), "repair": found.to_dict() if found else None}
        if out:
            write_whole(out / "audit.json", _json(document))
            write_whole(out / "audit.html", report.html(found))
    failed = broken(report, options.fail_if)
    if options.json:
        print(json.dumps(document, default=str))  # a terminal obeys no escape in ASCII
    else:
        terminal = results()
        for part in (report, found):
            if part is not None:
                terminal.print(part, soft_wrap=True)
        if not options.prompts:
            terminal.print(f"Give --prompts. Public sets: {PUBLIC}", soft_wrap=True)
        if out:
            terminal.print(f"{out / 'audit.html'}, {out / 'audit.json'}", soft_wrap=True)
    for reason in failed:
        console.print(Text.assemble(("asft audit:", "bold red"), f" failed: {reason}"), soft_wrap=True)
    return 1 if failed or (found is not None and (found.chosen is None or found.failed)) else 0


def _planned(options: argparse.Namespace, job: Job | None, asked: dict[str, Any]) -> int:
    from asft.auditing.plan import planned
    from asft.store.entries import Store

    store = job.store if job else Store(Path("outputs"))
    asked |= {"modules": options.modules, "repair": options.repair, "store": store}
    for what, found in planned(options.tuned, options.aligned, **asked):
        results().print(f"{what:<9}{found}", soft_wrap=True)
    return 0


def _parsed(arguments: list[str]) -> tuple[argparse.Namespace, Job | None]:
    flags = Flags("audit", "another judge and its keys, e.g. judge=llama_guard; with --plan also outputs=FOLDER")
    points = number(0, 100)
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
    flags.add_argument(
        "--modules",
        action=argparse.BooleanOptionalAction,
        help="HS without each group of modules and with it alone (at most 32 times as many answers); --no-modules: nor "
        "does --repair look for modules",
    )
    flags.add_argument(
        "--margin", type=points, default=5.0, metavar="POINTS", help="no loss is shown where HS rises by less (5)"
    )
    flags.add_argument("--repair", action="store_true", help="search a repair without the data; writes DIR/repaired")
    flags.add_argument("--safe", metavar="ROWS", help="malicious requests refused, or an adapter: tries SafeMERGE")
    flags.add_argument("--harmful", metavar="ROWS", help="malicious requests answered, or an adapter: tries RESTA")
    flags.add_argument("--max-accuracy-loss", type=points, default=1.0, metavar="POINTS", help="of a repair (1)")
    flags.add_argument("--max-hs", type=points, metavar="PERCENT", help="of a repair (the aligned model's + margin)")
    flags.add_argument(
        "--fail-if",
        action="append",
        default=[],
        metavar="'hs > 5'",
        help="end with 1 where this holds; also lost, unsure",
    )
    flags.add_argument("--plan", action="store_true", help="say what all this takes, and load no weights")
    flags.add_argument("--json", action="store_true", help="print the result as JSON")
    flags.add_argument("--max-new-tokens", type=whole(), default=128, metavar="N", help="of each answer (128)")
    flags.add_argument("--batch-size", type=whole(), default=16, metavar="N", help="prompts at once (16)")
    flags.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="by default the checkpoint's own")
    flags.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options, words = flags.split(arguments)
    return options, job_of(words, "judge", *(["outputs"] if options.plan else []))


def _unfinished(path: Path) -> bool:
    """Whether an audit wrote its scores and was killed before it wrote its repair."""
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["repair"] is None


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n"
