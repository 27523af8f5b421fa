"""Stands in for vLLM: its names, signatures and refusals (of version 0.33, as far as we use them), on transformers.

vLLM itself needs a CUDA device. Prompts are answered one at a time, the end token is among an answer's tokens, and what
vLLM would refuse is refused.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class EngineCore:
    running: bool = True

    def shutdown(self, timeout: float | None = None) -> None:
        self.running = False


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    repetition_penalty: float = 1.0
    detokenize: bool = True


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self) -> None:
        if self.lora_int_id < 1:
            raise ValueError(f"id must be > 0, got {self.lora_int_id}")
        assert self.lora_path, "lora_path cannot be empty"


class LLM:
    made: list[LLM] = []  # noqa: RUF012  # emptied by install()

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        gpu_memory_utilization: float = 0.92,
        enforce_eager: bool = False,
        max_model_len: int | None = None,
        generation_config: str = "auto",
        trust_remote_code: bool = False,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
    ) -> None:
        assert dtype in {"auto", "float32", "bfloat16", "float16"}
        assert max_lora_rank in RANKS
        assert not trust_remote_code
        assert generation_config == "vllm", "else the checkpoint's sampling defaults slip in"
        assert not any(engine.llm_engine.engine_core.running for engine in LLM.made), "two engines share one GPU"
        self.checkpoint, self.max_model_len = model, max_model_len
        self.loras, self.max_lora_rank = enable_lora, max_lora_rank
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.llm_engine, self.asked, self.adapters = SimpleNamespace(engine_core=EngineCore()), 0, set[str]()
        LLM.made.append(self)

    @torch.inference_mode()
    def generate(
        self,
        prompts: list[TokensPrompt],
        sampling_params: SamplingParams | None = None,
        *,
        use_tqdm: bool = True,
        lora_request: LoRARequest | None = None,
    ) -> list[SimpleNamespace]:
        assert self.llm_engine.engine_core.running
        assert sampling_params is not None
        assert sampling_params.temperature == 0.0
        if lora_request is not None:
            assert self.loras, "LoRA is not enabled"
            if lora_request.lora_path not in self.adapters:
                self.model = PeftModel.from_pretrained(self.model, lora_request.lora_path).eval()
                self.adapters.add(lora_request.lora_path)
                assert self.model.peft_config["default"].r <= self.max_lora_rank
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, prompt: list[int], sampling: SamplingParams) -> SimpleNamespace:
        assert sampling.max_tokens is not None
        assert self.max_model_len is None or len(prompt) + sampling.max_tokens <= self.max_model_len
        assert sampling.ignore_eos, "else the tokenizer's end token stops, too"
        self.asked += 1
        ids = torch.tensor([prompt])
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=sampling.max_tokens,
            eos_token_id=sampling.stop_token_ids,
            pad_token_id=0,
            repetition_penalty=sampling.repetition_penalty,
        )
        assert not sampling.detokenize, "our tokenizer makes the text"
        answer = SimpleNamespace(index=0, text="", token_ids=output[0, len(prompt) :].tolist())
        return SimpleNamespace(prompt_token_ids=prompt, outputs=[answer])


def install(monkeypatch: pytest.MonkeyPatch) -> list[LLM]:
    """Puts the modules in place for one test; returns the engines that are made."""
    monkeypatch.setattr(LLM, "made", [])
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams, "TokensPrompt": TokensPrompt},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.distributed": {},
        "vllm.distributed.parallel_state": {"cleanup_dist_env_and_memory": lambda shutdown_ray=False: None},
    }
    for name, attributes in contents.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = [str(Path(__file__).parent)]
        for attribute, value in attributes.items():
            setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, name, module)
    return LLM.made
