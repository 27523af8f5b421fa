"""Module names as checkpoints, model classes and PEFT spell them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

# What PEFT puts in front of a base module's name.
PEFT_PREFIX = "base_model.model."
# What torch.compile and activation checkpointing put into the names of what they wrap.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")
# The attribute under which transformers keeps the backbone of a model with a head; checkpoints of the bare
# backbone leave it out.
BACKBONE_PREFIXES = ("model.", "transformer.")


def plain_name(name: str) -> str:
    """The name of a module or weight in its class, without what PEFT and wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS).removeprefix(PEFT_PREFIX)


def stem(name: str) -> str:
    """A module's name without the backbone prefix, the part in which all spellings agree."""
    for prefix in BACKBONE_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def spellings(name: str) -> tuple[str, ...]:
    """The ways to write ``name``, as given first: with either backbone prefix and without one."""
    return (name, *(f"{prefix}{stem(name)}" for prefix in ("", *BACKBONE_PREFIXES)))


def is_target(name: str, targets: Iterable[str]) -> bool:
    """Whether ``name`` ends in one of ``targets``, compared by whole path components as PEFT does."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def unmatched(targets: Iterable[str], names: Collection[str]) -> list[str]:
    """Those of ``targets`` in which none of the names ends."""
    return [target for target in targets if not any(is_target(name, [target]) for name in names)]
