"""The most memory that a piece of work takes."""

import resource
from pathlib import Path

import torch

__all__ = ["PeakMemory"]

CLEAR_PEAK = "5"
"""What resets a Linux process's peak of resident memory, written to its clear_refs."""


class PeakMemory:
    """The most memory in bytes since it was made: of a GPU's allocator, or of the process.

    Where the system can't reset a process's peak, it is the peak since the process began.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        clear = Path("/proc/self/clear_refs")
        if clear.exists():
            clear.write_text(CLEAR_PEAK)

    def read(self) -> int:
        """Return it."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        status = Path("/proc/self/status")
        if status.exists():
            peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            return int(peak.split()[1]) * 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
