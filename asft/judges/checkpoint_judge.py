"""What the judges that are themselves a model share: a checkpoint, loaded once a process and lent cell by cell."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.door import require_safetensors
from asft.hub import first_commit
from asft.judges.base import Judge
from asft.models.checkpoints import checkpoint_identity, fetch_checkpoint

if TYPE_CHECKING:  # torch and transformers take seconds to load, and a report needs neither
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger(__name__)


@plain_dataclass(frozen=True)
class Loaded:
    """A judge's model and tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


Loader = Callable[[Path, str, str], Loaded]  # folder, dtype, and the key to name in messages


@dataclass(frozen=True)
class CheckpointJudge(Judge):
    """Base class of judges that are a checkpoint.

    Attributes:
        model: hub id or local folder; safetensors only, and no code of the repository's is run.
        revision: of the hub repository; a branch stays at the commit of its first download.
        dtype: of the judge's weights.
        batch_size: answers judged at once.
        device: ``auto`` is the first GPU where there is one.
    """

    practical: ClassVar[frozenset[str]] = frozenset({"batch_size", "device"})
    model: str = ""
    revision: str = "main"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    batch_size: Annotated[int, Field(ge=1)] = 16
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def check(self) -> None:
        """Looks for the checkpoint, which downloads it on first use: a sweep must not learn of its lack at the end."""
        self.folder()

    def folder(self) -> Path:
        """Where the checkpoint lies; ValueError where it is out of reach."""
        return _folder(self.model, self.revision)

    def settings(self) -> dict[str, Any]:
        """A local checkpoint is known by its contents."""
        settings = super().settings()
        folder = Path(self.model).expanduser()
        if not folder.is_dir():
            return settings
        return {**settings, "model": checkpoint_identity(folder)}

    @contextmanager
    def lend(self, load: Loader) -> Iterator[Loaded]:
        """The judge on its device for as long as it judges.

        It is loaded once a process and rests in host memory in between, so that a sweep's next training has the
        GPU for itself and the next cell finds the judge loaded.
        """
        import torch

        from asft.models.pair import resolve_device

        folder = self.folder()
        loaded = _load_once(load, folder, self.dtype, json.dumps(checkpoint_identity(folder), sort_keys=True))
        device = resolve_device(self.device)
        loaded.model.to(device)
        try:
            yield loaded
        finally:
            if device.type == "cuda":
                loaded.model.to("cpu")
                torch.cuda.empty_cache()


@functools.cache  # the hub is asked once a process, not once a cell
def _folder(source: str, revision: str) -> Path:
    folder = fetch_checkpoint(source, first_commit(source, revision), "judge.model")
    require_safetensors(folder, "judge.model")
    return folder


@functools.lru_cache(maxsize=2)  # an ensemble alternates between two judges that are models
def _load_once(load: Loader, folder: Path, dtype: str, _identity: str) -> Loaded:
    log.info("loading the judge %s (%s), once for all cells of this process", folder.name, dtype)
    return load(folder, dtype, "judge.model")
