"""Which LoRA factors of a model an anchor acts on, and which models it must refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Embedding, MultiheadAttention, ParamWrapper, _ConvNd
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from transformers.pytorch_utils import Conv1D

from asft.anchor.anchor import Anchor
from asft.anchor.names import plain_name, stem
from asft.anchor.saved_adapter import check_config
from asft.anchor.sharding import Sharding, reshard

NOT_LINEAR = (_ConvNd, Embedding, MultiheadAttention, ParamWrapper)
TURNED = (
    "is a Conv1D, which stores its weight i×o, and was read as o×i, since there is no config.json that names a class: "
    "put the model's own beside the weights"
)
BUILD_HINT = "build the anchor with the adapter's target_modules"


@dataclass(frozen=True, eq=False, slots=True)
class LoraFactors:
    """One adapted linear module: W + s·B A, with the parameters A (r×i) and B (o×r) themselves; s is α/r or α/√r."""

    name: str
    a: Tensor
    b: Tensor
    scaling: float
    layer: LoraLayer

    @property
    def turned(self) -> bool:
        """Whether the base weight is stored i×o (Conv1D)."""
        return isinstance(self.layer.get_base_layer(), Conv1D)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel or torch.compile."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return unwrap(model.module)
    if isinstance(model, OptimizedModule):
        return unwrap(model._orig_mod)
    return model


def lora_factors(model: nn.Module, *, sharded: bool = False) -> list[LoraFactors]:
    """The active LoRA factors of a PEFT model, in model order.

    ValueError for no LoRA layer, another adapter type, a LoRA variant whose update is not s·BA, several active
    adapters, one that is merged into the base weight, or parameters sharded over processes, unless ``sharded``, which
    lets those of FSDP2 pass.
    """
    model = unwrap(model)
    reshard(model)
    layers = {
        plain_name(name): layer
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer) and not isinstance(layer, TrainableTokensLayer)
    }
    active = {adapter for layer in layers.values() for adapter in layer.active_adapters}
    active |= {model.active_adapter} if isinstance(model, PeftModel) else set()  # of a kind that has no such layers
    for adapter, config in getattr(model, "peft_config", {}).items():  # PEFT's models, and transformers' add_adapter
        if adapter in active:
            check_config(config.to_dict(), f"The adapter {adapter!r}")
    found = [factors for name, layer in layers.items() for factors in _factors(name, layer)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no active LoRA layer: wrap it with get_peft_model, or use "
            "FullAsFTCallback for full-parameter training."
        )
    if Sharding.of({factors.name: (factors.a, factors.b) for factors in found}) and not sharded:
        raise ValueError(f"Module {found[0].name!r} is sharded over processes, and its weights are needed whole.")
    return found


def _factors(name: str, layer: BaseTunerLayer) -> list[LoraFactors]:
    """The active factors of one adapter layer: one, or none where no adapter is active."""
    kind = type(layer).__name__
    if isinstance(layer, AdaLoraLayer) or not isinstance(layer, LoraLayer):
        raise ValueError(f"Adapter layer {kind} at {name!r} is not supported: its update is not BA; use LoRA.")
    if isinstance(layer, NOT_LINEAR):
        raise ValueError(f"LoRA on {kind} at {name!r} is not supported: only linear modules are.")
    check_unmerged(name, layer)
    adapters = [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]
    if len(adapters) > 1:
        raise ValueError(f"Module {name!r} has {len(adapters)} active adapters {adapters}: activate one.")
    for adapter in adapters:
        variant = type(layer.lora_variant[adapter]).__name__ if adapter in layer.lora_variant else None
        label = variant or ("lora_bias" if layer.lora_bias.get(adapter) else None)
        if label:
            raise ValueError(f"{label} is not supported (layer {name!r}): its update is not BA; use plain LoRA.")
        a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        return [LoraFactors(name, a, b, float(layer.scaling[adapter]), layer)]
    return []


def check_unmerged(name: str, layer: LoraLayer) -> None:
    """Raise ValueError where the adapter of module ``name`` is merged into the base weight now."""
    if layer.merged:
        raise ValueError(
            f"Module {name!r} has its adapter merged into the base weight, where a change of BA has no effect: call "
            "unmerge_adapter() first."
        )


def match(anchor: Anchor, factors: Sequence[LoraFactors], *, allow_partial: bool) -> list[LoraFactors]:
    """The factors that the anchor covers.

    ValueError if none is, a shape differs, or (unless ``allow_partial``) one side has a module that the other lacks.
    """
    covered = [factor for factor in factors if factor.name in anchor]
    if not covered:
        raise ValueError(
            f"The anchor covers no LoRA module: it has {next(iter(anchor))!r}, the adapter "
            f"{factors[0].name!r}: {BUILD_HINT}."
        )
    for factor in covered:
        check_shape(anchor, factor.name, (factor.b.shape[0], factor.a.shape[1]), turned=factor.turned)
    if allow_partial:
        return covered
    bare = [factor.name for factor in factors if factor.name not in anchor]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(factors)} LoRA modules have no anchor, first {bare[0]!r}: {BUILD_HINT}, "
            "or pass allow_partial=True."
        )
    adapted = {stem(factor.name) for factor in factors}
    idle = [name for name in anchor if stem(name) not in adapted]
    if idle:
        raise ValueError(
            f"{len(idle)} of {len(anchor)} anchored modules have no LoRA, first {idle[0]!r}: {BUILD_HINT}, "
            "or pass allow_partial=True."
        )
    return covered


def check_shape(anchor: Anchor, name: str, shape: tuple[int, int], *, turned: bool) -> None:
    """Raise ValueError unless module ``name`` of the model is as large as the anchor's, (o, i).

    A square one that the model has ``turned`` (i×o, Conv1D) must not have been taken as o×i for want of a class.
    """
    expected = (anchor[name].out_features, anchor[name].in_features)
    if shape != expected:
        raise ValueError(
            f"Module {name!r} is {shape[0]}×{shape[1]} in the model but {expected[0]}×{expected[1]} in the "
            "anchor: build the anchor from checkpoints of this model."
        )
    if turned and anchor[name].assumed:
        raise ValueError(f"Module {name!r} {TURNED}, and build the anchor again.")
