"""Answers by vLLM: its own scheduling and memory, our prompts, stop tokens and text.

Written against the interface of vLLM 0.33 (``LLM``, ``SamplingParams``, ``LoRARequest``, ``TokensPrompt``).
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from asft.backends.base import Answerer, Backend, Weights
from asft.config import PretrainedModel, Settings
from asft.distributed.team import team
from asft.door import read_generation_config, read_lora
from asft.store.heartbeat import tell
from asft.store.meter import release_memory
from asft.store.partial import PartialRows

log = logging.getLogger(__name__)
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM allows for max_lora_rank
_KEPT_EVERY = 256  # answers between two points that an interrupted run goes on from


@dataclass(frozen=True)
class VLLMBackend(Backend):
    """One engine a cell: started for its answers, and its memory given back after them.

    Attributes:
        gpu_memory_utilization: share of each GPU's memory that the engine takes for weights and key-value cache.
        tensor_parallel_size: GPUs that one model is split over.
        max_model_len: tokens of prompt and answer together; None is what the cell's longest prompt needs.
        enforce_eager: without CUDA graphs: slower, and less memory and time to start.
    """

    name: ClassVar[str] = "vllm"
    practical: ClassVar[frozenset[str]] = frozenset(
        {"gpu_memory_utilization", "tensor_parallel_size", "max_model_len", "enforce_eager"}
    )

    on_gpu_alone: ClassVar[bool] = True
    measures: ClassVar[bool] = False  # they move the weights about

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    tensor_parallel_size: Annotated[int, Field(ge=1)] = 1
    max_model_len: Annotated[int, Field(ge=8)] | None = None
    enforce_eager: bool = False

    def check_cell(self, cell: Settings) -> None:
        if isinstance(cell.model, PretrainedModel) and cell.model.quantization is not None:
            raise ValueError(
                f"backend=vllm: model.quantization={cell.model.quantization} keeps bitsandbytes weights, which only "
                "transformers loads as they were trained on; use backend=hf"
            )

    def check(self) -> None:
        """Raises ValueError without vLLM, without a GPU, and where a cell has several processes."""
        if team().size > 1:
            raise ValueError(
                "backend=vllm: spreads over GPUs by itself (backend.tensor_parallel_size); start one process, or use "
                "backend=hf"
            )
        if importlib.util.find_spec("vllm") is None:
            raise ValueError('backend=vllm needs the package vllm: pip install "asft-lab[vllm]", or use backend=hf')
        import torch

        if not torch.cuda.is_available():
            raise ValueError("backend=vllm: no CUDA device is visible; use backend=hf")

    def open(self, weights: Weights, batch_size: int) -> Answerer:
        """Raises ValueError when the engine does not start; vLLM makes its batches itself."""
        return _Engine(self, weights)


class _Engine:
    """A vLLM engine with the whole model, and the adapter that goes with every request."""

    def __init__(self, backend: VLLMBackend, weights: Weights) -> None:
        from vllm import LLM
        from vllm.lora.request import LoRARequest

        release_memory()  # what a training left in this process' cache would be missing there
        adapter, self.dtype = weights.adapter, weights.dtype or weights.pair.dtype
        try:
            self.engine = LLM(
                model=str(weights.checkpoint),
                tokenizer=str(weights.pair.aligned),
                trust_remote_code=False,
                dtype=self.dtype,
                tensor_parallel_size=backend.tensor_parallel_size,
                gpu_memory_utilization=backend.gpu_memory_utilization,
                max_model_len=backend.max_model_len or weights.positions,
                enforce_eager=backend.enforce_eager,
                generation_config="vllm",  # the checkpoint's sampling defaults do not slip in; ours follow below
                enable_lora=adapter is not None,
                max_lora_rank=_allowed_rank(adapter) if adapter else _RANKS[0],
            )
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"backend=vllm: the engine did not start ({reason}). Where memory is short, lower "
                "backend.gpu_memory_utilization (other programs hold some) or raise backend.tensor_parallel_size."
            ) from error
        self.adapter = LoRARequest("finetuned", 1, str(adapter)) if adapter else None
        self.tokenizer = weights.pair.tokenizer()
        self.defaults = read_generation_config(weights.checkpoint)
        self.told: dict[str, Any] = {}
        self.ends = weights.ends

    def answer(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, kept: PartialRows) -> list[str]:
        from vllm import SamplingParams, TokensPrompt

        from asft.backends.generate import stop_tokens, texts_of

        penalty = self.defaults.repetition_penalty
        ends = stop_tokens(self.defaults, self.tokenizer, self.ends)
        sampling = SamplingParams(
            temperature=0.0,  # greedy
            max_tokens=max_new_tokens,
            stop_token_ids=ends,
            ignore_eos=True,  # the stop tokens above are all of them
            repetition_penalty=1.0 if penalty is None else penalty,  # transformers takes the checkpoint's too
            detokenize=False,
        )
        answers: dict[int, str] = kept.load(str)
        missing = [row for row in range(len(prompts)) if row not in answers]
        for start in range(0, len(missing), _KEPT_EVERY):
            chunk = missing[start : start + _KEPT_EVERY]
            asked = [TokensPrompt(prompt_token_ids=list(prompts[row])) for row in chunk]
            outputs = self.engine.generate(asked, sampling, use_tqdm=False, lora_request=self.adapter)
            texts = texts_of(self.tokenizer, (output.outputs[0].token_ids for output in outputs), ends)
            found = dict(zip(chunk, texts, strict=True))
            kept.append(found)
            answers |= found
            tell(len(answers), len(prompts), "answer")
        if answers and not any(answers.values()):
            log.warning(
                "backend=vllm: all %d answers are empty, as where logits are no numbers in %s; compare with backend=hf",
                len(prompts),
                self.dtype,
            )
        return [answers[row] for row in range(len(prompts))]

    def close(self) -> None:
        """Ends the engine's own process and what it left in this one."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self.engine.llm_engine.engine_core.shutdown()
        del self.engine
        cleanup_dist_env_and_memory()


def _allowed_rank(adapter: Path) -> int:
    """The smallest rank that vLLM can be told and that holds the adapter's."""
    plain = read_lora(where := adapter / "adapter_config.json")
    if isinstance(plain.target_modules, str):
        raise ValueError(f"{where}: target_modules is an expression, which vLLM would match; use backend=hf")
    rank = plain.r
    if rank > _RANKS[-1]:
        raise ValueError(f"training.rank={rank}: backend=vllm takes adapters up to rank {_RANKS[-1]}; use backend=hf")
    return next(allowed for allowed in _RANKS if allowed >= rank)
