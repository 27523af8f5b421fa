"""Memory of one device, stage by stage: an estimate whose formula is stated, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from asft.cells.cell import CellConfig
from asft.config import PretrainedModel
from asft.judges.base import Judge
from asft.judges.checkpoint_judge import CheckpointJudge
from asft.judges.ensemble import EnsembleJudge
from asft.planning.shape import Shape, parameters_in_name

_BYTES = {"float32": 4, "bfloat16": 2}
_CONTEXT = 2**30  # what a CUDA context and the allocator's slack take
PROMPT_TOKENS = 256  # in front of an answer that no jailbreak disguises, for the key-value cache


@dataclass(frozen=True)
class Memory:
    """Bytes on the device while training, generating and judging."""

    train: float
    generate: float
    judge: float

    @property
    def peak(self) -> float:
        """The largest stage: the three do not overlap, since a judge rests in host memory in between."""
        return max(self.train, self.generate, self.judge)


def device_memory(cell: CellConfig, shape: Shape, longest: int, prompt: int = PROMPT_TOKENS) -> Memory:
    """An estimate of device memory.

    With N parameters of b bytes, P trained ones, t = batch · longest row tokens, L layers of width h and a
    vocabulary v:

    - weights: N · b
    - training: 16 · P for LoRA (float32 weight, gradient, AdamW's two moments), 3 · N · b beside the weights for
      full fine-tuning; activations 34 · t · h · L · b/2 (Korthikanti et al. 2022, arXiv:2205.05198, Eq. 2 without
      the attention matrix, which sdpa does not keep), with gradient checkpointing t · h · b a layer and one layer
      whole; logits t · v · (b + 8)
    - the anchor's matrices of a method that has one: 4 · Σ o²
    - generating: key-value cache 2 · L · kv · b · batch · (prompt + answer), logits 4 · batch · v
    - judging: the judge's parameters times its bytes; its activations are small beside that
    - 1 GiB for the CUDA context

    Args:
        longest: tokens of the longest training row.
        prompt: tokens in front of an answer, at most.
    """
    model, training = cell.model, cell.training
    size = _BYTES[model.dtype] if isinstance(model, PretrainedModel) else 4
    weights = shape.parameters * size
    tokens = training.batch_size * longest
    layer = 34 * tokens * shape.width * size / 2
    activations = layer * shape.layers
    if training.gradient_checkpointing:
        activations = tokens * shape.width * size * shape.layers + layer
    trained = 16 * shape.lora_parameters(training.rank) if training.name == "lora" else 3 * weights
    logits = tokens * shape.vocabulary * (size + 8)
    anchor = 4 * sum(outputs**2 for outputs, _ in shape.adapted) if has_anchor(cell) else 0
    answer = prompt + max(cell.evaluation.harmful_max_new_tokens, cell.dataset.max_new_tokens)
    batch = cell.evaluation.batch_size
    cache = 2 * shape.layers * shape.kv_width * size * batch * answer
    return Memory(
        train=_CONTEXT + weights + trained + activations + logits + anchor,
        generate=_CONTEXT + weights + cache + 4 * batch * shape.vocabulary,
        judge=_CONTEXT + max((judge_bytes(judge) for judge in checkpoint_judges(cell.judge)), default=0),
    )


def has_anchor(cell: CellConfig) -> bool:
    """Whether the cell's method streams an anchor from the pair."""
    from asft.methods.asft import AsFT

    return isinstance(cell.method, AsFT)


def checkpoint_judges(judge: Judge) -> list[CheckpointJudge]:
    """The judges that are models themselves, inside an ensemble too."""
    if isinstance(judge, EnsembleJudge):
        return [found for member in judge.members.values() for found in checkpoint_judges(member)]
    return [judge] if isinstance(judge, CheckpointJudge) else []


def judge_bytes(judge: CheckpointJudge) -> int:
    """A judge's weights, by the size in its name (0 where there is none)."""
    return (parameters_in_name(judge.model) or 0) * _BYTES[judge.dtype]
