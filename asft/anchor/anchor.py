"""``Anchor``: what the penalty needs to know of the alignment direction, per module name."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from asft.anchor.building import build_form, update_spectrum
from asft.anchor.difference import CheckpointPair
from asft.anchor.forms import FORMS, AnchoredModule, LowRank, on_host
from asft.anchor.names import stem
from asft.anchor.saved_adapter import SavedAdapter, read_adapter
from asft.anchor.spec import AnchorSpec, FormName, Variant
from asft.door import open_weights
from asft.store.anchors import LAYOUT, read_meta, write_meta
from asft.store.errors import DamagedEntry
from asft.store.integrity import set_aside

logger = logging.getLogger(__name__)
_CLAIMS = ".claims"
_PLAIN = ("name", "out_features", "in_features", "norm", "error_bound", "assumed")
_MUCH = 1024  # MiB

Surrogate = Literal["projector", "normalised"]


class Anchor(Mapping[str, AnchoredModule]):
    """A frozen mapping from module name to its alignment direction, in model order.

    Look-ups take a name with or without the backbone prefix (``model.``, ``transformer.``), because a bare
    backbone and a model with a head spell the same module differently. An anchor lives in host memory; the
    penalty moves what it multiplies by to the model's device.
    """

    def __init__(self, modules: Sequence[AnchoredModule]) -> None:
        if not modules:
            raise ValueError("An anchor needs at least one module; none was given.")
        self._modules = {module.name: module for module in modules}
        self._by_stem = {stem(name): module for name, module in self._modules.items()}
        if len(self._by_stem) != len(modules):
            raise ValueError("Module names of an anchor must be unique, the backbone prefix aside.")

    def __getitem__(self, name: str) -> AnchoredModule:
        return self._by_stem[stem(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def __repr__(self) -> str:
        kinds = Counter(module.form.kind for module in self.values())
        held = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"Anchor({len(self)} modules: {held}; {self.memory / 2**20:.1f} MiB)"

    @property
    def memory(self) -> int:
        """Bytes held by all forms."""
        return sum(module.memory for module in self.values())

    @property
    def error_bound(self) -> float:
        """The largest ‖Ĉ − Ĉ_k‖₂ over modules; 0 when every form is exact."""
        return max(module.error_bound for module in self.values())

    @classmethod
    def build(
        cls,
        base: str | Path,
        aligned: str | Path,
        targets: Sequence[str],
        *,
        variant: Variant = "asft",
        form: FormName = "auto",
        rank: int | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cache_dir: str | Path | None = None,
    ) -> Anchor:
        """Stream V = W_aligned − W_base of the target modules out of two checkpoints (AsFT, arXiv:2506.08473).

        Args:
            base, aligned: directories of safetensors before and after alignment (or one file each).
            targets: module names or trailing path components, as in ``LoraConfig.target_modules``.
            variant: which operator to build, see :mod:`asft.anchor.spec`.
            form: its representation, see :class:`~asft.anchor.spec.AnchorSpec`.
            rank: k of ``form="rank_k"`` and of ``variant="projector"``.
            seed: of ``variant="random"``.
            device: where to compute.
            cache_dir: reuse or store the result here under a key made of the target weights' bytes and all
                settings. Modules are then written as they are built and mapped from the files, so that the
                anchor takes no memory that the system cannot take back. Processes that build the same anchor
                at once share its modules out.

        Raises:
            ValueError: one line with the offending value; see :class:`~asft.anchor.difference.CheckpointPair`
                and :class:`~asft.anchor.spec.AnchorSpec`.
        """
        spec = AnchorSpec(variant, form, rank, seed)
        pair = CheckpointPair(base, aligned, targets)
        spec.check_shapes({name: (m.out_features, m.in_features) for name, m in pair.modules.items()})
        made = partial(_anchored, pair, spec, device)
        if cache_dir is None:
            return cls([made(name) for name in pair.modules])._told()
        settings = json.dumps([LAYOUT, asdict(spec)], sort_keys=True)
        key = hashlib.sha256(f"{pair.digest()}/{settings}".encode()).hexdigest()[:32]
        directory = Path(cache_dir) / key
        _store(directory, list(pair.modules), made)
        return cls(_load(directory))._told()

    def _told(self) -> Anchor:
        """Logs what it takes, aloud where that is much or where ``form="auto"`` has chosen an approximation."""
        bound, memory = self.error_bound, self.memory / 2**20
        level = logging.INFO if bound or memory > _MUCH else logging.DEBUG
        kept = f"approximate, error at most {bound:.2g}" if bound else "exact"
        logger.log(level, "the anchor of %d modules takes %.1f MiB of memory and is %s", len(self), memory, kept)
        return self

    @classmethod
    def from_adapter(
        cls, adapter: str | Path, *, surrogate: Surrogate = "projector", device: str | torch.device = "cpu"
    ) -> Anchor:
        """Harmful directions from a LoRA adapter fine-tuned on harmful data (AsFT_Alt, the paper's Table 8).

        With Δ_h = s·B_hA_h per module the penalty acts on the part of ΔW *along* Δ_h: R = λ‖Ĉ_h ΔW‖². Both
        surrogates are exact and cost two products with an o×r matrix.

        Args:
            surrogate: ``projector`` takes Ĉ_h = QQᵀ onto the column space of Δ_h; ``normalised`` takes
                Ĉ_h = Δ_hΔ_hᵀ/‖Δ_h‖, as AsFT's code does with V.

        Raises:
            ValueError: unknown surrogate, not a plain LoRA adapter, or a module whose Δ_h is zero.
        """
        if surrogate not in get_args(Surrogate):
            raise ValueError(f"surrogate={surrogate!r} is unknown; allowed: {', '.join(get_args(Surrogate))}.")
        saved = read_adapter(adapter)
        return cls([_harmful(saved, name, surrogate, device) for name in saved.keys])

    def save(self, directory: str | Path) -> None:
        """Write the anchor to a new directory: safetensors and ``anchor.json``."""
        if Path(directory).exists():
            raise ValueError(f"directory={str(directory)!r} exists: give a new one.")
        target = Path(directory).absolute()
        # Its own folder: unlike a cache's key, a name says nothing of what a killed save has left there.
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for number, module in enumerate(self.values()):
                _write(_file(unfinished, number), module)
            _finish(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    @classmethod
    def load(cls, directory: str | Path) -> Anchor:
        """Read what :meth:`save` or a cache wrote; ValueError for anything else."""
        return cls(_load(Path(directory)))


def _anchored(pair: CheckpointPair, spec: AnchorSpec, device: str | torch.device, name: str) -> AnchoredModule:
    v = pair.difference(name, device)
    logger.debug("anchor: %s, %d×%d", name, *v.shape)
    norm = float(torch.linalg.matrix_norm(v))
    form, bound = build_form(v, spec, name)
    return AnchoredModule(name, v.shape[0], v.shape[1], norm, on_host(form), bound, pair.modules[name].assumed)


def _harmful(saved: SavedAdapter, name: str, surrogate: Surrogate, device: str | torch.device) -> AnchoredModule:
    a, b = (saved.tensors[key].to(device) for key in saved.keys[name])
    u, sigma = update_spectrum(a, saved.scaling(name) * b)
    if len(sigma) == 0:
        raise ValueError(
            f"adapter={str(saved.path)!r}: the update of module {name!r} is zero, so it has no direction: "
            "train it on harmful rows first."
        )
    norm = float(torch.linalg.vector_norm(sigma))
    s = torch.ones_like(sigma) if surrogate == "projector" else sigma.square() / norm
    return AnchoredModule(name, b.shape[0], a.shape[1], norm, on_host(LowRank(u, s, "along")))


def _store(directory: Path, names: Sequence[str], made: Callable[[str], AnchoredModule]) -> None:
    """Write modules to ``directory``, named by their contents' key, unless they are there whole; one is in memory.

    Processes that come at once, however they were started, share the modules out; what a killed one has finished is
    not made again. One safetensors file per module and a readable ``anchor.json``, complete or absent: written beside
    the final place and renamed when finished. A directory that is not what was written is set aside and made anew.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(f".{directory.name}.partial")
    if directory.is_dir():
        with _lock(directory, fcntl.LOCK_EX):
            if directory.is_dir() and _whole(directory):
                return
    with _lock(directory, fcntl.LOCK_SH):  # held by all who build; nobody renames the folder meanwhile
        if not directory.is_dir():
            unfinished.mkdir(exist_ok=True)
            _write_parts(unfinished, names, made)
    with _lock(directory, fcntl.LOCK_EX):
        if unfinished.is_dir():
            (unfinished / _CLAIMS).unlink(missing_ok=True)
            _finish(unfinished, directory)
    if not directory.is_dir():  # somebody has cleared the unfinished folder away in a moment when none held a lock
        _store(directory, names, made)


def _write_parts(folder: Path, names: Sequence[str], made: Callable[[str], AnchoredModule]) -> None:
    """Makes the modules that nobody is at, then waits for the others, in place of one that ends before it is done."""
    with (folder / _CLAIMS).open("w") as claims:  # a process at a module has locked the byte of its number
        for how in (fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX):
            for number, name in enumerate(names):
                file = _file(folder, number)
                with suppress(BlockingIOError):
                    fcntl.lockf(claims, how, 1, number)
                    if not file.exists():
                        _write(file, made(name))
                    fcntl.lockf(claims, fcntl.LOCK_UN, 1, number)


@contextmanager
def _lock(directory: Path, how: int) -> Iterator[None]:
    with Path(f"{directory}.lock").open("a+") as file:  # NFS shares a lock with readers and gives it whole to writers
        fcntl.flock(file, how)
        yield


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.safetensors"


def _finish(unfinished: Path, directory: Path) -> None:
    write_meta(unfinished, [_entry(file) for file in sorted(unfinished.glob("*.safetensors"))])
    os.replace(unfinished, directory)


def _write(file: Path, module: AnchoredModule) -> None:
    entry = {field: getattr(module, field) for field in _PLAIN} | {"form": module.form.kind, "side": module.form.side}
    written = file.with_suffix(".tmp")
    save_file(module.form.tensors(), written, {"module": json.dumps(entry)})
    os.replace(written, file)


def _entry(file: Path) -> dict[str, Any]:
    with open_weights(file) as handle:
        return {**json.loads(handle.metadata()["module"]), "file": file.name}


def _whole(directory: Path) -> bool:
    """Whether a cached anchor is what was written; if not, it is moved out of the way."""
    try:
        _load(directory)
    except DamagedEntry as error:
        target = set_aside(directory, directory.parent)
        logger.warning("damaged anchor: %s. Set aside in %s, built anew", error, target)
        return False
    return True


def _load(directory: Path) -> list[AnchoredModule]:
    """Read what :func:`_store` wrote; every byte is checked (:func:`read_meta`), tensors are mapped from files."""
    modules = []
    for entry in read_meta(directory)["modules"]:
        file = directory / entry["file"]
        try:
            form = FORMS[entry["form"]](**load_file(file), side=entry["side"])
        except (SafetensorError, TypeError) as error:  # TypeError: other tensors than the form's
            raise DamagedEntry(f"{file}: is no {entry['form']} of an anchor ({error})") from None
        plain = {field: entry[field] for field in _PLAIN if field in entry}  # older files lack ``assumed``
        modules.append(AnchoredModule(**plain, form=form))
    return modules
