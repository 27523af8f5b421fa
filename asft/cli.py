"""The command line of ``asft``; :data:`_COMMANDS` names its commands.

``asft run`` is Hydra's own entry, with a check of every cell before the first one starts and a summary after
the last one ended.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence

from rich.markup import escape

from asft.console import console
from asft.distributed.team import started_together

USAGE = """\
asft: fine-tune language models without losing their safety (AsFT, arXiv:2506.08473)

  asft run [KEY=VALUE …]                 train and score one cell
  asft run -m experiment=table2 …        launch the sweep behind a table or figure
                                         (torchrun --nproc-per-node N -m asft run …: N GPUs for each cell)
  asft report experiment=table2 …        write the table beside the paper's: Markdown, CSV, LaTeX, HTML
                                         (--format pdf|tex adds the table and figures for print)
  asft landscape experiment=fig1 …       the harmful score around the aligned model, measured and drawn
  asft status experiment=table2 …        which cells are done, running, failed or missing, and the time left
  asft store verify                      read every byte of the store and set damaged entries aside
  asft store gc [experiment=table2 …]    list what can go; --yes deletes it
  asft store export FILE experiment=table2 …
                                         a finished table as one file; asft store import FILE brings it in
  asft dashboard [--serve] …             every finished cell as one site that opens offline
  asft track experiment=table2 …         show finished cells to W&B (tracker.mode=offline|online) or TensorBoard
                                         (--workspace, --report save W&B pages grouped as the table is)
  asft judge experiment=table2 judge=NAME …
                                         another judge on stored answers; --agreement JUDGE adds Cohen's κ
  asft plan experiment=table2 …          cells, trainings, memory, hours, downloads and disk before launching
  asft doctor experiment=table2 …        what an experiment needs and this machine lacks
  asft align model=NAME …                make a model pair ready (build, safety-tune or download it)
  asft anchor inspect model=NAME …       the alignment direction's spectrum: is AsFT more than weight decay?
  asft project ADAPTER --base … --aligned … --out DIR
                                         repair a LoRA adapter on disk with Safe LoRA

Configuration is Hydra's: `asft run --cfg job` prints it, `asft run --help` lists the groups, and
`eval "$(asft run -sc install=bash)"` completes keys and values in the shell.
"""

_COMMANDS = "run, report, landscape, status, store, dashboard, track, judge, plan, doctor, align, anchor, project"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``asft``; exits 2 on a mistake of the user's, 1 when a cell failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command.startswith(("-sc", "--shell-completion")):  # the shell's completion calls the bare program
        command, rest = "run", arguments
    if command in {"-V", "--version"}:
        print(f"asft-lab {importlib.metadata.version('asft-lab')}")
        raise SystemExit(0)
    if command in {"", "help", "-h", "--help"}:
        print(USAGE)
        raise SystemExit(0 if command else 2)
    if command not in {"project", "run", "store"} and {"-h", "--help"} & set(rest):
        print(USAGE)
        raise SystemExit(0)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if command != "run" and (processes := started_together()) > 1:
            raise ValueError(f"only asft run works in several processes ({processes} were started); start one")
        raise SystemExit(_dispatch(command, rest))
    except (ValueError, OSError) as error:  # OSError: a path that cannot be read or written names itself
        console.print(f"[bold red]asft {command}:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        console.print("interrupted; finished stages are kept, the next run goes on from them")
        raise SystemExit(130) from None


def _dispatch(command: str, rest: list[str]) -> int:
    """Runs a command; imports only what it needs, since torch takes seconds to load."""
    if command == "run":
        from asft.commands.run import run

        return run(rest)
    if command == "report":
        from asft.commands.report import report

        return report(rest)
    if command == "landscape":
        from asft.commands.landscape import landscape

        return landscape(rest)
    if command == "status":
        from asft.commands.status import status

        return status(rest)
    if command == "dashboard":
        from asft.commands.dashboard import dashboard

        return dashboard(rest)
    if command == "track":
        from asft.commands.track import track

        return track(rest)
    if command == "store":
        from asft.commands.store import store

        return store(rest)
    if command == "judge":
        from asft.commands.judge import judge

        return judge(rest)
    if command == "plan":
        from asft.commands.plan import plan

        return plan(rest)
    if command == "doctor":
        from asft.commands.doctor import doctor

        return doctor(rest)
    if command == "align":
        from asft.commands.align import align

        return align(rest)
    if command == "anchor":
        from asft.commands.anchor import anchor

        return anchor(rest)
    if command == "project":
        from asft.commands.project import project

        return project(rest)
    raise ValueError(f"unknown command {command}; allowed: {_COMMANDS}")
