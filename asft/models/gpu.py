"""What there is of GPUs."""

from __future__ import annotations

import os
import shutil


def unseen_gpu() -> str:
    """Why ``device=auto`` is the CPU on a machine with a GPU; empty where torch sees a GPU, or there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    import torch  # takes seconds to load

    if torch.cuda.is_available():
        return ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if listed is None else f", and CUDA_VISIBLE_DEVICES={listed}"
    return (
        f"device=auto: nvidia-smi is here, but torch sees no GPU (torch {torch.__version__} is built for "
        f"{built}{hidden}); install a torch that this GPU's driver can run, or set device=cpu"
    )


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES lists them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]
