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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, StringConstraints, ValidationError
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # torch and transformers take seconds to load
    from peft import PeftModel
    from transformers import PreTrainedModel

_LAYERS = re.compile(r"(n|num)_(hidden_|encoder_|decoder_)?(layers?|blocks)|(en|de)coder_layers|depths?")
_COUNT = re.compile(r"num_\w+")
_IMPLEMENTATION = re.compile(r"_?\w+_implementation\w*")
_FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_(?:embedding_)?[AB](?:\.weight)?")
_Name = Annotated[str, StringConstraints(pattern=r"\A[\w.]+\z")]
_Pattern = Annotated[str, StringConstraints(pattern=r"\A\^?[\w.]+\z")]
# Fields of an adapter's JSON that say where it came from, or belong to something else that it would have to name, too.
_NO_MATTER = {
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode", "loftq_config", "megatron_core",
    "peft_version", "qalora_group_size", "revision", "runtime_config",
}  # fmt: skip
TEMPLATE_SECONDS = 10.0
INDEX_NAME = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SLACK = 2**26  # numbers that a model may hold beyond what its files can: masks, tables of positions


def read_config(folder: Path) -> Any:
    """The configuration of a local checkpoint.

    Raises:
        ValueError: for one that names code of its own, or sizes that the checkpoint's files cannot have, and for
            whatever else transformers makes of it.
    """
    from transformers import AutoConfig

    _check_numbers(folder)
    with _telling(folder / "config.json"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def read_tokenizer(folder: Path, **options: Any) -> Any:
    """The tokenizer of a local checkpoint; ValueError for one that is code of the checkpoint's."""
    from transformers import AutoTokenizer

    with _telling(folder / "tokenizer_config.json"):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)


def read_model(family: Any, folder: Path, **options: Any) -> Any:
    """``family.from_pretrained`` of a local checkpoint of safetensors.

    Raises:
        ValueError: as :func:`read_config`, for a model larger than the checkpoint's files, and for files elsewhere.
    """
    import torch

    if "gguf_file" not in options:
        config, where = read_config(folder), folder / "config.json"
        check_own_weights(folder)
        if (folder / INDEX_NAME).exists():
            indexed_files(folder)
        if (folder / "generation_config.json").exists():
            read_generation_config(folder)
        with _telling(where), torch.device("meta"):  # among others: more numbers than 64 bits count
            built = build_model(family, config)
        numbers = sum(part.numel() for part in (*built.parameters(), *built.buffers()))
        held = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if numbers > 8 * held + _SLACK:  # a bit a number is the least that any quantisation keeps
            raise ValueError(
                f"{where}: describes a model of {numbers:.3g} numbers, and the files have {held:.3g} "
                "bytes; download or save the checkpoint again"
            )
    return family.from_pretrained(folder, trust_remote_code=False, **{"use_safetensors": True, **options})


def check_own_weights(folder: Path) -> None:
    """ValueError for a checkpoint of which transformers would load other files than those named as always."""
    config = folder / "config.json"
    if (folder / "adapter_config.json").exists() or (config.exists() and "transformers_weights" in read_json(config)):
        raise ValueError(
            f"{folder}: a checkpoint with adapter_config.json, or transformers_weights in its config.json, names "
            "weights elsewhere, which are not loaded; take that out"
        )


def require_safetensors(folder: Path, key: str) -> None:
    """Refuses a checkpoint without safetensors, naming the pickles found instead: they could run code when loaded."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    # What is not fetched is not seen: of a hub repository of pickles alone, only its JSON files arrive.
    held = f" but only pickles ({', '.join(pickles[:3])}), which can run code when loaded" if pickles else ""
    raise ValueError(
        f"{key}={folder}: holds no *.safetensors{held}. Give a revision that has safetensors (the hub's "
        "conversion service offers one as refs/pr/N), or convert the checkpoint once in a sandbox."
    )


def indexed_files(folder: Path) -> list[Path]:
    """The files that a checkpoint's index names; ValueError unless each is a safetensors file of the same folder."""
    where = folder / INDEX_NAME
    names = read_json(where).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{where}: names no file (no weight_map): download or save it again")
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{where}: names {name!r:.100}, and only safetensors files beside it are read")
    files = [folder / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{where}: names {missing[0]!r}, which is not there ({len(missing)} missing): complete the download"
        )
    return files


def build_model(family: Any, config: Any, **options: Any) -> PreTrainedModel:
    """``family.from_config``: a model with random weights."""
    model: PreTrainedModel = family.from_config(config, trust_remote_code=False, **options)
    return model


def read_generation_config(folder: Path) -> Any:
    """What a local checkpoint sets for generation, as transformers has it once the model is loaded."""
    from transformers import GenerationConfig

    if (where := folder / "generation_config.json").is_file():
        with _telling(where):
            return GenerationConfig.from_pretrained(folder)
    config = read_config(folder)  # it may name the model's end token
    with _telling(folder / "config.json"):
        return GenerationConfig.from_model_config(config)


class PlainLora(BaseModel):
    """What an adapter's JSON may say. Where names would be read as regular expressions, they are names.

    The modules to adapt are those of the file's keys, whatever ``target_modules`` and its like say, and an
    initialisation is of no effect where the file's weights follow; those that change the base's weights are refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    peft_type: Literal["LORA"]
    task_type: (
        Literal["CAUSAL_LM", "FEATURE_EXTRACTION", "QUESTION_ANS", "SEQ_2_SEQ_LM", "SEQ_CLS", "TOKEN_CLS"] | None
    ) = None
    r: PositiveInt = 8
    lora_alpha: FiniteFloat = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    rank_pattern: dict[_Pattern, PositiveInt] | None = None
    alpha_pattern: dict[_Pattern, FiniteFloat] | None = None
    modules_to_save: list[_Name] | None = None
    trainable_token_indices: list[int] | dict[_Name, list[int]] | None = None
    ensure_weight_tying: bool = False
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] = Field(True, exclude=True)
    target_modules: list[str] | str | None = Field(None, exclude=True)
    exclude_modules: list[str] | str | None = Field(None, exclude=True)
    layers_to_transform: list[int] | int | None = Field(None, exclude=True)
    layers_pattern: list[str] | str | None = Field(None, exclude=True)


def read_lora(where: Path) -> PlainLora:
    """What an ``adapter_config.json`` says; ValueError unless it is a plain LoRA's."""
    told = {key: value for key, value in read_json(where).items() if value is not None and key not in _NO_MATTER}
    try:  # an unknown field that is empty says nothing
        return PlainLora.model_validate({k: v for k, v in told.items() if v or k in PlainLora.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{where}: {place}={first['input']!r:.100}: {first['msg']}; only plain LoRA is loaded"
        ) from None


def read_adapted(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A model with the LoRA adapter of a local folder of safetensors.

    Raises:
        ValueError: for an adapter that is no plain LoRA, without safetensors, or of a rank that its file cannot have.
    """
    from peft import LoraConfig, PeftModel

    where, file = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    plain = read_lora(where)
    if not file.is_file():
        raise ValueError(f"{folder}: has no adapter_model.safetensors; no other format is read")
    with open_weights(file) as handle:
        keys = list(handle.keys())
    largest = max((dimension for shape in _filled(folder) for dimension in shape), default=0)
    for name, rank in {"r": plain.r, **(plain.rank_pattern or {})}.items():
        if rank > largest:
            raise ValueError(f"{where}: rank {name}={rank}, and no tensor of the file has such a dimension")
    for name in plain.modules_to_save or ():
        if not any(f".{name}." in key for key in keys):
            raise ValueError(f"{where}: modules_to_save names {name!r}, and {file.name} holds nothing of it")
    targets = sorted({match[1] for key in keys if (match := _FACTOR.fullmatch(key))})
    if not targets:
        raise ValueError(
            f"{file}: holds no weights of an adapter under PEFT's names (base_model.model.….lora_A.weight)"
        )
    with _telling(where):
        config = LoraConfig(**plain.model_dump(exclude_none=True), target_modules=targets)
        return PeftModel.from_pretrained(model, str(folder), config=config)


def render(tokenizer: Any, turns: list[dict[str, Any]], *, ask: bool, template: str | None = None) -> str:
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
    shapes = _filled(folder)
    if not shapes:
        raise ValueError(f"{folder}: its *.safetensors hold no numbers; download or save the checkpoint again")
    largest = max((dimension for shape in shapes for dimension in shape), default=0)
    for key, value in _settings(read_json(where)):
        most = len(shapes) if _LAYERS.fullmatch(key) else max(largest, len(shapes)) if _COUNT.fullmatch(key) else None
        if most is not None and isinstance(value, int | float) and value > max(most, 64):
            raise ValueError(
                f"{where}: {key}={value}, and the files hold {len(shapes)} tensors of at most {largest} rows or "
                "columns; download or save the checkpoint again"
            )
        if _IMPLEMENTATION.fullmatch(key) and "/" in str(value):
            raise ValueError(f"{where}: {key}={value} names code of a repository, which is never run; take it out")


def _settings(node: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested objects with its value, or with each of a list's."""
    for key, value in node.items() if isinstance(node, dict) else ():
        for each in value if isinstance(value, list) else [value]:
            yield key, each
            yield from _settings(each)


def _filled(folder: Path) -> list[tuple[int, ...]]:
    """The shapes of a folder's stored tensors that hold a number."""
    return [shape for shape in stored_shapes(folder).values() if 0 not in shape]


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a folder's stored tensors by name, from the headers of its files; no weight is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with open_weights(file, "np") as handle:  # torch takes seconds to load
            names = handle.keys()  # of no dict
            shapes |= {name: tuple(handle.get_slice(name).get_shape()) for name in names}
    return shapes


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError if it holds none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _broken(file, "holds no JSON object")
    return value


def open_weights(file: Path, framework: Literal["pt", "np"] = "pt") -> Any:
    """A safetensors file, opened to read its tensors one by one; ValueError if it is none, or not whole."""
    try:
        return safe_open(file, framework)
    except (SafetensorError, OSError) as error:
        raise _broken(file, f"is no whole safetensors file ({error})") from None


@contextmanager
def _telling(file: Path) -> Iterator[None]:
    """Makes one line, with the file's name, of whatever a library raises at what others wrote."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"{file}: cannot be read ({reason:.300})") from error


def _broken(file: Path, reason: str) -> ValueError:
    with file.open("rb") as stream:
        if stream.read(40).startswith(b"version https://git-lfs"):
            return ValueError(f"{str(file)!r} is a Git LFS pointer, not the file: run `git lfs pull` there.")
    return ValueError(f"{str(file)!r} {reason}: download or save it again.")
