"""Random histories of one store, in several processes at once, some of which are killed on the way.

Usage: forked_histories.py NUMBER SEED FOLDER. In a history workers take cells, compute stages and read them, while
others collect garbage, verify, set aside, export and import; one is killed now and then, and one entry is damaged by a
flipped byte. Every thing that must not be is told, in one JSON object: an entry computed by two at once, computed again
though it was there, gone though it is named or in use, holding what was not written; and anything raised that is no
refusal.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from asft.store import entries
from asft.store.archive import export, import_archive
from asft.store.cleaning import clean, set_damaged_aside, verify
from asft.store.entries import Store, content_key
from asft.store.errors import DamagedEntry

WORKERS, OPERATIONS, KILLS = 3, 6, 2
WEIGHTS, ANSWERS = "stages/start", "pairs"  # two kinds whose results are free
ROUND = range(4)  # cells: 0 and 1 are named, 2 belongs to another experiment, 3 gets damaged


def settings(kind: str, number: int) -> dict[str, Any]:
    return {"kind": kind, "number": number}


def key(kind: str, number: int) -> str:
    return content_key(settings(kind, number))


NAMED = {(kind, key(kind, number)) for kind in (WEIGHTS, ANSWERS) for number in (0, 1, 3)}
ALL = {(kind, key(kind, number)) for kind in (WEIGHTS, ANSWERS) for number in ROUND}


class History:
    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")
        self.store.root.mkdir(parents=True)
        (folder / "busy").mkdir()
        self.log = folder / "log"

    def tell(self, *words: object) -> None:
        with self.log.open("a") as file:
            file.write(" ".join(map(str, words)).replace("\n", " | ") + "\n")

    def compute(self, kind: str, number: int) -> Path:
        name = f"{kind.replace('/', '-')}-{number}"

        def produce(folder: Path) -> dict[str, int]:
            busy = self.folder / "busy" / name
            if busy.exists() and (other := busy.read_text()) and alive(int(other)):
                self.tell("WRONG", name, "is computed by two at once")
            busy.write_text(str(os.getpid()))
            if (self.folder / f"has-{name}").exists():
                self.tell("WRONG", name, "was there, and is computed again")
            time.sleep(random.uniform(0, 0.004))
            (folder / "weights").write_text(name * 20)
            (folder / "weights").with_name("deep").mkdir()
            (folder / "deep" / "more").write_text(name)
            busy.write_text("")
            return {"number": number}

        path = self.store.ensure(kind, settings(kind, number), produce).path
        if (kind, key(kind, number)) in NAMED and number != 3:
            (self.folder / f"has-{name}").touch()  # from now on it is there for good
        if number != 3 and (path / "weights").read_text() != name * 20:
            self.tell("WRONG", name, "holds something else")
        return path

    def run(self, number: int | None = None) -> None:
        number = random.choice(ROUND) if number is None else number
        with self.store.claim(key("cells", number), wait=random.random() < 0.5) as ours:
            if ours:
                weights = self.compute(WEIGHTS, number)
                self.compute(ANSWERS, number)
                if number != 3:
                    (weights / "deep" / "more").read_text()  # in use as long as the cell is worked on

    def gc(self) -> None:
        clean(self.store, NAMED, delete=random.random() < 0.8)

    def verify(self) -> None:
        for kind, name, _ in verify(self.store).damaged:
            aside = set_damaged_aside(self.store, kind, name)
            with suppress(FileNotFoundError):  # collected already
                if aside and not (aside / "weights").read_text().startswith("X"):
                    self.tell("WRONG", aside, "was whole, and is set aside")

    def damage(self) -> None:
        for path in (self.store.path(kind, key(kind, 3)) / "weights" for kind in (WEIGHTS, ANSWERS)):
            with suppress(FileNotFoundError), path.open("r+b") as opened:
                opened.write(b"X")

    def export(self) -> None:
        with suppress(DamagedEntry):  # one that is damaged, or went meanwhile, is told
            file = self.folder / f"{os.getpid()}.tar.gz"
            export(self.store, ALL, file)
            if random.random() < 0.3:
                imported = import_archive(Store(self.folder / f"other-{os.getpid()}"), file)
                self.tell("exported", imported.new)

    def bring(self) -> None:
        import_archive(self.store, self.folder.parent / "brought.tar.gz")

    def worker(self, seed: int) -> NoReturn:
        code = 0
        try:
            random.seed(seed)
            for _ in range(OPERATIONS):
                operations = [self.run, self.gc, self.verify, self.damage, self.export, self.bring]
                random.choices(operations, [5, 2, 2, 1, 1, 1])[0]()
        except BaseException:
            self.tell("WRONG", "raised", traceback.format_exc())
            code = 1
        finally:
            os._exit(code)

    def play(self, seed: int) -> list[str]:
        draw = random.Random(seed)
        children = {fork(self.worker, draw.random()) for _ in range(WORKERS)}
        for _ in range(KILLS):
            time.sleep(draw.uniform(0, 0.05))
            if children:
                child = draw.choice(sorted(children))
                os.kill(child, signal.SIGKILL)
                children = children - {child} | {fork(self.worker, draw.random())}
                os.waitpid(child, 0)
        for child in children:
            os.waitpid(child, 0)
        return self.check()

    def check(self) -> list[str]:
        """The same results in the end: what was damaged is set aside, and all is there or computed."""
        self.verify()
        for number in ROUND:
            self.run(number)
        clean(self.store, None, delete=True)
        if damaged := verify(self.store).damaged:
            self.tell("WRONG", "damaged", damaged)
        for kind, name in ALL:
            if self.store.find(kind, name, whole=True) is None:
                self.tell("WRONG", kind, name, "is lost")
        left = [path.name for kind in (WEIGHTS, ANSWERS) for path in (self.store.root / kind).glob(".*")]
        if found := [name for name in left if not name.endswith(".lock")]:
            self.tell("WRONG", "left behind", found)
        told = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in told if line.startswith("WRONG")]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def fork(work: Any, seed: float) -> int:
    child = os.fork()
    if not child:
        work(seed)
    return child


def main(number: int, seed: int, folder: Path) -> None:
    entries.library_versions = dict  # type: ignore[assignment]  # a quarter of an entry's time
    source = History(folder / "source")
    for of in (0, 2):
        source.compute(WEIGHTS, of)
        source.compute(ANSWERS, of)
    export(source.store, ALL, folder / "brought.tar.gz")
    wrong, told = [], Counter[str]()
    for index in range(number):
        history = History(folder / f"{seed + index}")
        wrong += [f"{seed + index}: {line}" for line in history.play(seed + index)]
        told["histories"] += 1
        shutil.rmtree(history.folder)
    print(json.dumps({**told, "wrong": wrong[:20]}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
