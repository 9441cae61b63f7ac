"""Where the host waits for a device: operations whose result or shape it has to know before it goes on."""

import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["HostReads"]

aten: Any = torch.ops.aten

READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.repeat_interleave,
    aten.bincount,
}
"""Beside copies between host and device, and boolean indices: what makes a number or a shape of values."""

UNSIZED = {aten.repeat_interleave: "output_size"}
"""Of these, what does not where the caller says the size."""

ON_A_CPU = {"check_labels"}
"""Functions that read on a CPU and do not on a GPU."""

COPIES = {aten._to_copy, aten.copy_}


class HostReads(TorchDispatchMode):
    """Counts the host's waits within a `with`, by the line of this project that makes it wait.

    It works on every device: on a CPU nothing waits, but the same operations are counted, and those of what
    would lie on the host with them. Copies to a GPU count unless they are `non_blocking`.

    Args:
        device: of the values whose reads count.

    Attributes:
        lines: how often the host waits, by "file:line operation".
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.lines: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the operation and note where the host waits for it."""
        given = dict(kwargs or {})
        result = func(*args, **given)
        there = any(isinstance(a, Tensor) and a.device.type == self.device.type for a in (*args, result))
        if there and _waits(func.overloadpacket, args, given, result) and (place := _place()) is not None:
            self.lines[f"{place} {func.overloadpacket.__name__}"] += 1
        return result

    def total(self) -> int:
        """Return how often the host waits."""
        return self.lines.total()


def _waits(operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> bool:
    if operation in READS:
        return kwargs.get(UNSIZED.get(operation, "")) is None
    if operation in (aten.index, aten.index_put, aten.index_put_):
        indices = [i for i in args[1] if isinstance(i, Tensor)]
        return any(i.dtype == torch.bool or i.device != args[0].device for i in indices)
    if operation in COPIES:
        target, source = (result, args[0]) if operation is aten._to_copy else (args[0], args[1])
        unequal = target.device != source.device
        hidden = kwargs.get("non_blocking", False) or (operation is aten.copy_ and len(args) > 2 and args[2])
        return unequal and not (target.is_cuda and hidden)
    return False


def _place() -> str | None:
    """Return the innermost line of this project outside this module; None in what only a CPU does."""
    frames = [frame for frame in reversed(traceback.extract_stack()) if _is_ours(frame.filename)]
    if not frames:
        return "elsewhere"
    file = frames[0].filename.rpartition("/ggl/")[2]
    return None if frames[0].name in ON_A_CPU else f"{file}:{frames[0].lineno}"


def _is_ours(file: str) -> bool:
    return "/ggl/" in file and "site-packages/" not in file and not file.endswith("host_reads.py")
