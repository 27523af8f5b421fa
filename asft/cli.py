"""The command line of ``asft``: each command is a function of its own name in ``asft.commands``."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress

from rich.text import Text

from asft.commands import COMMANDS
from asft.console import console, print_anywhere
from asft.text import instead

_EXAMPLES = """
  asft run method=asft                          one cell
  asft run -m experiment=table2                 the sweep behind a table
  asft report experiment=table2                 its page

`asft COMMAND --help` has a command's own flags. KEY=VALUE is Hydra's: `asft run
--help` lists the groups, `asft run --cfg job` prints a configuration, and
eval "$(asft run -sc install=bash)" completes commands, keys and values."""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``asft``; exits 2 on a mistake of the user's, 1 when a cell failed."""
    print_anywhere()
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else ""
    if first.startswith(("-sc", "--shell-completion")):  # the shell's completion calls the bare program
        arguments = _completion(arguments)
    elif first in {"", "help", "-h", "--help"}:
        print(usage())
        raise SystemExit(0 if first else 2)
    if {"-V", "--version"} & set(arguments):
        print(f"asft-lab {importlib.metadata.version('asft-lab')}")
        raise SystemExit(0)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        command, rest = _command(arguments)
        from asft.distributed.team import started_together  # `asft --help` loads no library

        if command != "run" and (processes := started_together()) > 1:
            raise ValueError(f"only asft run works in several processes ({processes} were started); start one")
        raise SystemExit(_call(command, rest))
    except (ValueError, OSError) as error:
        # Copying a folder gathers what befell each file; on a full disk it is the same of all.
        told: object = error.args[0][0][-1] if isinstance(error, shutil.Error) else error
        if isinstance(error, FileNotFoundError) and error.errno and not error.filename:  # os.getcwd() names none
            told = "the current folder is not there any more; change to another"
        elif isinstance(error, OSError) and error.filename:
            told = f"{error.filename}: {error.strerror}"
        console.print(Text.assemble((f"asft {first}:", "bold red"), f" {told}"), soft_wrap=True)
        raise SystemExit(2) from None


def _call(command: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"asft.commands.{command.split()[0]}")  # torch takes seconds to load
    code: int = getattr(module, command.replace(" ", "_"))(arguments)
    return code


def usage() -> str:
    """The page of ``asft --help``."""
    lines = [f"  {name:<15}{text}" for name, text in COMMANDS.items()]
    about = "asft: fine-tune language models without losing their safety (arXiv:2506.08473)\n"
    return "\n".join([about, *lines, _EXAMPLES])


def _command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command, of one word or two, and what follows it."""
    first, second = (*arguments, "", "")[:2]
    if first in COMMANDS:
        return first, arguments[1:]
    if f"{first} {second}" in COMMANDS:
        return f"{first} {second}", arguments[2:]
    actions = [name for name in COMMANDS if name.startswith(f"{first} ")]
    if actions and second in {"-h", "--help"}:
        print("\n".join(f"  {name:<15}{COMMANDS[name]}" for name in actions))
        raise SystemExit(0)
    if actions:
        raise ValueError(f"say `asft {'`, `asft '.join(actions)}`")
    raise ValueError(f"unknown command {first}{instead(first, COMMANDS)}")


def _completion(arguments: list[str]) -> list[str]:
    """Completes a command by itself; for what follows one, the command line that has Hydra complete it."""
    line = os.environ.get("COMP_LINE", "")
    commands, before = (
        [name.split() for name in COMMANDS],
        line.split()[1:] if line.endswith(" ") else line.split()[1:-1],
    )
    if nexts := [words[len(before)] for words in commands if words[: len(before)] == before != words]:
        print("\n".join(dict.fromkeys(nexts)))
        raise SystemExit(0)
    command = next((words for words in commands if before[: len(words)] == words), [])
    if command and line.split()[-1].startswith("-") and not line.endswith(" "):
        with redirect_stdout(io.StringIO()) as page, suppress(SystemExit):
            _call(" ".join(command), ["--help"])
        print("\n".join(re.findall(r"(?<=[ ,] )--?[a-z-]+", page.getvalue())))
        raise SystemExit(0)
    os.environ["COMP_LINE"] = line.replace(" " + " ".join([*command, ""]), " ", 1)  # Hydra knows of no commands
    return ["run", *arguments]
