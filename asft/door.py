"""The one door through which checkpoints come in: none of their code runs, and their files bound what they cost.

Nothing else in this package calls transformers' or PEFT's loaders, or renders a chat template.
"""

from __future__ import annotations

import functools
import json
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # torch and transformers take seconds to load
    from peft import PeftModel
    from transformers import PreTrainedModel

_LAYERS = re.compile(r"(n|num)_(hidden_|encoder_|decoder_)?(layers?|blocks)|(en|de)coder_layers|depth")
_COUNT = re.compile(r"num_\w+")
_IMPLEMENTATION = re.compile(r"_?\w+_implementation\w*")
TEMPLATE_SECONDS = 10.0
_SLACK = 2**26  # numbers that a model may hold beyond what its files can: masks, tables of positions


def read_config(folder: Path) -> Any:
    """The configuration of a local checkpoint.

    Raises:
        ValueError: for one that names code of its own, or sizes that the checkpoint's files cannot have.
    """
    from transformers import AutoConfig

    _check_numbers(folder)
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of a local checkpoint; ValueError for one that is code of the checkpoint's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)


def read_model(family: Any, folder: Path, **options: Any) -> Any:
    """``family.from_pretrained`` of a local checkpoint of safetensors.

    Raises:
        ValueError: as :func:`read_config`, and for a model larger than the checkpoint's files.
    """
    import torch

    if "gguf_file" not in options:
        config = read_config(folder)
        try:
            with torch.device("meta"):
                built = build_model(family, config)
        except RuntimeError as error:  # more numbers than 64 bits count
            raise ValueError(f"{folder / 'config.json'}: no model has such sizes ({error})") from None
        numbers = sum(part.numel() for part in (*built.parameters(), *built.buffers()))
        held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if numbers > 8 * held + _SLACK:  # a bit a number is the least that any quantisation keeps
            raise ValueError(
                f"{folder / 'config.json'}: describes a model of {numbers:.3g} numbers, and the files have {held:.3g} "
                "bytes; download or save the checkpoint again"
            )
    return family.from_pretrained(folder, trust_remote_code=False, **{"use_safetensors": True, **options})


def build_model(family: Any, config: Any, **options: Any) -> PreTrainedModel:
    """``family.from_config``: a model with random weights."""
    model: PreTrainedModel = family.from_config(config, trust_remote_code=False, **options)
    return model


def read_generation_config(folder: Path) -> Any:
    """What a local checkpoint sets for generation, as transformers has it once the model is loaded."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # no generation_config.json: the model's own configuration may name its end token
        return GenerationConfig.from_model_config(read_config(folder))


def read_adapted(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A model with the LoRA adapter of a local folder of safetensors.

    Raises:
        ValueError: for an adapter that is no plain LoRA, without safetensors, or of a rank that its file cannot have.
    """
    from peft import PeftModel

    where = folder / "adapter_config.json"
    config = read_json(where)
    if config.get("peft_type") != "LORA" or config.get("megatron_config"):  # the latter names a module to import
        raise ValueError(f"{where}: only plain LoRA is loaded")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ValueError(f"{folder}: has no adapter_model.safetensors; no other format is read")
    ranks = {"r": config.get("r"), **(config.get("rank_pattern") or {})}
    largest = max((dimension for shape in _shapes(folder) for dimension in shape), default=0)
    for name, rank in ranks.items():
        if not isinstance(rank, int) or rank > largest:
            raise ValueError(f"{where}: rank {name}={rank}, and no tensor of the file has such a dimension")
    return PeftModel.from_pretrained(model, str(folder))


def render(tokenizer: Any, turns: list[dict[str, str]], *, ask: bool, template: str | None = None) -> str:
    """A conversation in the tokenizer's chat template, or in another; transformers' sandbox keeps it from the machine.

    ``ask`` adds what leads the assistant to its turn. ValueError for a template that takes too long or too much memory.
    """
    text, where = template or str(tokenizer.get_chat_template()), f"{tokenizer.name_or_path}: the chat template"
    if _raises_to_powers(text):
        raise ValueError(f"{where} computes powers (**), which can take for ever and cannot be stopped; take them out")

    def written() -> str:
        return str(tokenizer.apply_chat_template(turns, chat_template=text, tokenize=False, add_generation_prompt=ask))

    try:
        return _in_time(
            written, f"{where} takes more than {TEMPLATE_SECONDS:g} s for one conversation; it may never end"
        )
    except (MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(f"{where} goes beyond what memory holds ({type(error).__name__}); mend it") from None


@functools.lru_cache(maxsize=16)
def _raises_to_powers(template: str) -> bool:
    from jinja2 import Environment, TemplateSyntaxError

    try:
        return any(value == "**" for _, kind, value in Environment().lex(template) if kind == "operator")
    except TemplateSyntaxError:  # told by who renders it
        return False


class _Late(BaseException):
    """What no filter of a template takes for a value that it cannot convert."""


def _in_time(work: Callable[[], str], told: str) -> str:
    """What ``work`` returns, or a ValueError; outside the main thread no signal can end it, and there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        return work()

    def late(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, late)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, TEMPLATE_SECONDS, 0.1)  # again, where the first was caught
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Late:
        raise ValueError(told) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _check_numbers(folder: Path) -> None:
    """Refuses counts by which reading a configuration, or laying out its model, would take time or memory for ever."""
    where = folder / "config.json"
    if not where.is_file():
        return
    shapes = list(_shapes(folder))
    largest = max((dimension for shape in shapes for dimension in shape), default=0)
    for key, value in _settings(read_json(where)):
        most = len(shapes) if _LAYERS.fullmatch(key) else max(largest, len(shapes)) if _COUNT.fullmatch(key) else None
        if shapes and most is not None and isinstance(value, int | float) and value > max(most, 64):
            raise ValueError(
                f"{where}: {key}={value}, and the files hold {len(shapes)} tensors of at most {largest} rows or "
                "columns; download or save the checkpoint again"
            )
        if _IMPLEMENTATION.fullmatch(key) and "/" in str(value):
            raise ValueError(f"{where}: {key}={value} names code of a repository, which is never run; take it out")


def _settings(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects with its value."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield key, value
        yield from _settings(value)


def _shapes(folder: Path) -> Iterator[tuple[int, ...]]:
    """The shapes of a folder's stored tensors, from the files' headers."""
    for file in folder.glob("*.safetensors"):
        with open_weights(file) as handle:
            yield from (tuple(handle.get_slice(key).get_shape()) for key in handle.keys())  # noqa: SIM118 (no dict)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(file, "holds no JSON object")
    return value


def open_weights(file: Path) -> Any:
    """A safetensors file, opened to read its tensors one by one; ValueError if it is none, or not whole."""
    try:
        return safe_open(file, "pt")
    except (SafetensorError, OSError) as error:
        raise _broken(file, f"is no whole safetensors file ({error})") from None


def _broken(file: Path, reason: str) -> ValueError:
    with file.open("rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            return ValueError(f"{str(file)!r} is a Git LFS pointer, not the file: run `git lfs pull` there.")
    return ValueError(f"{str(file)!r} {reason}: download or save it again.")
