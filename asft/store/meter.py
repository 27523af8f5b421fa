"""Peak memory of one stage: resident memory of the process, and of the GPU where one is at work."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Measures from the start of its ``with`` block; blocks may nest, and an outer one sees the inner one's peak.

    Linux can set the process's high-water mark back; elsewhere the peak is that since the process began.
    """

    def __init__(self) -> None:
        self.host_mb, self.gpu_mb = 0.0, 0.0

    def __enter__(self) -> PeakMemory:
        for outer in _open:
            outer._look()
        _open.append(self)
        _reset()
        return self

    def __exit__(self, *_: object) -> None:
        for meter in _open:
            meter._look()
        _open.remove(self)

    def _look(self) -> None:
        self.host_mb = max(self.host_mb, _host_peak())
        self.gpu_mb = max(self.gpu_mb, _gpu_peak())


_open: list[PeakMemory] = []


def _reset() -> None:
    try:
        _CLEAR.write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return
    finally:
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)


def _host_peak() -> float:
    """MiB."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    except (OSError, StopIteration):
        scale = 1024**2 if sys.platform == "darwin" else 1024  # macOS counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def _gpu_peak() -> float:
    """MiB over all devices of this process; 0 where no GPU is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    peaks = [torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())]
    return sum(peaks) / 1024**2


def release_memory() -> None:
    """Gives back what nothing uses any more, in circles too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
