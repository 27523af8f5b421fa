"""A command's own flags beside Hydra's KEY=VALUE words, and its page of help."""

from __future__ import annotations

import argparse
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from asft.cells.compose import CONFIG_NAME, config_dir, enumerate_cells
from asft.cells.job import Job
from asft.commands import COMMANDS
from asft.config import ConfigError
from asft.text import instead

WORDS = "KEY=VALUE"
_INFO = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]  # as Hydra has them
_HOW = f"tell how it was composed: {', '.join(_INFO)}"


class Flags(argparse.ArgumentParser):
    """The flags of one command; :meth:`split` tells them from Hydra's words, in any order.

    Args:
        command: as it is typed after ``asft``; its line in :data:`asft.commands.COMMANDS` heads the page of help.
        words: what KEY=VALUE words stand for; "" where the command takes none.
        needed: whether there has to be a word.
    """

    def __init__(self, command: str, words: str = "", *, needed: bool = False) -> None:
        super().__init__(prog=f"asft {command}", description=COMMANDS[command], allow_abbrev=False)
        self._words, self._needed = words, needed

    def split(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The flags' values, and the words; ConfigError for what is neither a flag here nor of the form KEY=VALUE."""
        if self._words:
            self.add_argument("words", nargs="+" if self._needed else "*", metavar=WORDS, help=self._words)
        if quoted := [word for word in arguments if word.startswith("-") and " " in word and "=" in word.split()[-1]]:
            raise ConfigError(f"{quoted[0]!r}: a flag and words in one argument; take the quotes off")
        options, unknown = self.parse_known_intermixed_args(list(arguments))
        if unknown:
            known = [text for action in self._actions for text in action.option_strings if text not in {"-h", "--help"}]
            known += [f"and {WORDS}"] if self._words else []
            raise ConfigError(f"{unknown[0]}: unknown flag{instead(unknown[0], known)}")
        words: list[str] = getattr(options, "words", [])
        for word in words:
            if "=" not in word[1:] and not word.startswith("~"):
                shown = word if word.strip() else repr(word)
                raise ConfigError(f"{shown}: not of the form {WORDS}, e.g. experiment=table2")
        return options, words

    def error(self, message: str) -> NoReturn:
        """Told as every mistake of the user's: in one line, by :func:`asft.cli.main`."""
        raise ConfigError(f"{message}; `{self.prog} --help` explains")


def number(least: float, most: float = math.inf, kind: Callable[[str], float] = float) -> Callable[[str], float]:
    """The type of a flag whose value is a finite number from ``least`` to ``most``."""
    name = "a whole number" if kind is int else "a number"
    bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and value < math.inf):
            raise argparse.ArgumentTypeError(f"{text}: allowed: {name}, {bounds}")
        return value

    return read


def whole(least: int = 1, most: float = math.inf) -> Callable[[str], float]:
    """As :func:`number`, of a whole one."""
    return number(least, most, int)


def job_of(words: Sequence[str], *keys: str) -> Job | None:
    """The cell of words that set no other keys, for a command that needs but a part of it; None without words."""
    if wrong := [word for word in words if word.lstrip("+~").split("=")[0].split(".")[0] not in keys]:
        raise ConfigError(f"{wrong[0]}: only {' and '.join(f'{key}=…' for key in keys)} can be set here")
    return enumerate_cells(words, sweep=False).cells[0] if words else None


class SweepFlags(Flags):
    """Those of a command that looks at all cells of a sweep, whether or not ``-m`` is repeated."""

    def __init__(self, command: str, *, needed: bool = False) -> None:
        super().__init__(command, "the words after `asft run -m`, e.g. experiment=table2", needed=needed)
        self.add_argument("-m", "--multirun", action="store_true", help="changes nothing: all cells are looked at")


def run_flags() -> Flags:
    """Those of ``asft run``, whose page lists the groups, too."""
    flags = Flags("run", "a configuration's keys and groups; with -m A,B,C is an axis of a sweep")
    flags.add_argument("-m", "--multirun", action="store_true", help="every cell of the sweep")
    flags.add_argument("-c", "--cfg", choices=["job", "hydra", "all"], help="print the configuration; nothing is run")
    flags.add_argument("--resolve", action="store_true", help="with --cfg: interpolations replaced by values")
    flags.add_argument("-p", "--package", help="with --cfg: this part of it alone, e.g. method")
    flags.add_argument("-i", "--info", nargs="?", const="all", choices=_INFO, metavar="WHAT", help=_HOW)
    flags.add_argument("-sc", "--shell-completion", metavar="install=bash", help="print the shell's completion")
    lines = ["groups, of which each has a choice (GROUP=NAME):"]
    for group in sorted(path for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra"):
        names = ", ".join(sorted(path.stem for path in group.glob("*.yaml")))
        lines.append(textwrap.fill(f"{group.name}: {names}", 79, subsequent_indent="  "))
    lines += ["", "keys of no group (KEY=VALUE); `asft run --cfg job` prints all keys:"]
    for key, text in re.findall(r"(?m)^(\w+):.* # (.+)$", (config_dir() / f"{CONFIG_NAME}.yaml").read_text("utf-8")):
        lines.append(textwrap.fill(f"{key}: {text}", 79, subsequent_indent="  "))
    flags.formatter_class, flags.epilog = argparse.RawDescriptionHelpFormatter, "\n".join(lines)
    return flags


def asked_of_hydra(options: argparse.Namespace) -> list[str]:
    """The flags by which Hydra is asked about a configuration, as it knows them; empty where a cell is to be run."""
    asked = {name: getattr(options, name) for name in ("cfg", "info", "shell_completion", "resolve", "package")}
    if not any(asked[name] for name in ("cfg", "info", "shell_completion")):
        if options.resolve or options.package:
            raise ConfigError(f"{'--resolve' if options.resolve else '--package'}: is a flag of --cfg; add --cfg job")
        return []
    told = []
    for name, value in asked.items():
        if value:
            told += [f"--{name.replace('_', '-')}", *([] if value is True else [value])]
    return told
