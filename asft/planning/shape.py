"""A model's size, from its configuration where that is on this machine, else from its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from asft.cells.cell import CellConfig
from asft.cells.keys import pair_settings
from asft.config import OrganismModel, PretrainedModel
from asft.store.entries import Store, content_key

# The embedded pair before it is built (asft/models/organism/architectures.py).
_ORGANISM_PARAMETERS, _ORGANISM_WIDTH, _ORGANISM_LAYERS, _ORGANISM_VOCABULARY = 900_000, 128, 4, 1152
_SIZE_IN_NAME = re.compile(r"(?<![a-z\d.])(\d+(?:\.\d+)?)\s*([bm])(?![a-z])", re.IGNORECASE)
_ASPECT = 128  # width per layer of the Llama family: 4096 / 32
_USUAL_VOCABULARY = 32_000


@dataclass(frozen=True)
class Shape:
    """What memory and time depend on.

    Attributes:
        parameters: of one side of the pair.
        layers, width, kv_width, vocabulary: of the decoder; ``kv_width`` is that of all key heads together.
        adapted: (outputs, inputs) of each linear module that ``training.target_modules`` names.
        exact: whether all this was read from a configuration.
    """

    parameters: int
    layers: int
    width: int
    kv_width: int
    vocabulary: int
    adapted: tuple[tuple[int, int], ...]
    exact: bool

    def lora_parameters(self, rank: int) -> int:
        """r · (o + i) over the adapted modules."""
        return rank * sum(outputs + inputs for outputs, inputs in self.adapted)


def model_shape(cell: CellConfig) -> Shape:
    """The shape of the cell's aligned model.

    Raises:
        ValueError: when there is no configuration here and the name tells no size.
    """
    targets = cell.training.target_modules
    if (folder := aligned_folder(cell)) is not None:
        return _from_config(folder, targets)
    if isinstance(cell.model, OrganismModel):
        width = _ORGANISM_WIDTH
        adapted = ((width, width),) * (_ORGANISM_LAYERS * len(targets))
        return Shape(_ORGANISM_PARAMETERS, _ORGANISM_LAYERS, width, width, _ORGANISM_VOCABULARY, adapted, False)
    name = cell.model.aligned if isinstance(cell.model, PretrainedModel) else cell.model.name
    parameters = parameters_in_name(name)
    if parameters is None:
        raise ValueError(
            f"model={cell.model.name}: {name} is not on this machine and its name tells no size (such as 7b); "
            "download its config.json first, e.g. `hf download ID config.json`"
        )
    return _by_size(parameters, targets)


def aligned_folder(cell: CellConfig) -> Path | None:
    """The aligned side's folder if it, or at least its ``config.json``, is on this machine; nothing is downloaded."""
    if isinstance(cell.model, PretrainedModel):
        return local_snapshot(cell.model.aligned, cell.model.aligned_revision)
    folder = Store(cell.outputs).path("pairs", content_key(pair_settings(cell))) / "aligned"
    return folder if (folder / "config.json").exists() else None


def local_snapshot(source: str, revision: str) -> Path | None:
    """A local folder, or a hub repository's folder in the cache, that holds a ``config.json``."""
    from huggingface_hub import try_to_load_from_cache

    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return None
    found = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def parameters_in_name(name: str) -> int | None:
    """7_000_000_000 for ``Llama-2-7b-chat-hf``; None where no size stands in the name."""
    found = _SIZE_IN_NAME.findall(re.sub(r"[_/-]", " ", name))
    if not found:
        return None
    number, unit = found[-1]
    return round(float(number) * (10**9 if unit.lower() == "b" else 10**6))


def _by_size(parameters: int, targets: tuple[str, ...]) -> Shape:
    """A decoder of that size in the Llama family's proportions: N ≈ 12 · layers · width²."""
    layers = max(1, round((parameters / (12 * _ASPECT**2)) ** (1 / 3)))
    width = _ASPECT * layers
    adapted = ((width, width),) * (layers * len(targets))
    return Shape(parameters, layers, width, width, _USUAL_VOCABULARY, adapted, False)


def _from_config(folder: Path, targets: tuple[str, ...]) -> Shape:
    """The model class that ``config.json`` names, built without memory on the meta device."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    adapted = tuple(
        (module.weight.shape[0], module.weight.shape[1])
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in targets
    )
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_width = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_width = head_width * (getattr(text, "num_key_value_heads", None) or heads)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Shape(parameters, text.num_hidden_layers, text.hidden_size, kv_width, text.vocab_size, adapted, True)
