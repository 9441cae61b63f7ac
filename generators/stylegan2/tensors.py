"""A generator's tensors under the official names, and what the tensors cannot tell."""

import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["Settings", "dense", "named", "take"]

STANDARD = "use a StyleGAN2 or StyleGAN2-ADA skip generator of the standard configurations"
LARGEST = 1e6
"""Of a setting; published ones go up to 256."""
MOST_BLOCKS = 16
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Put the file's path before the errors about its content."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Settings:
    """What a generator computes beyond what the shapes of its tensors say."""

    lr_multiplier: float = 0.01
    """Learning-rate multiplier of the mapping network's layers, a factor of their weights and biases."""
    conv_clamp: float | None = None
    """Largest magnitude of a layer's output; None for no limit."""
    num_fp16_res: int = 0
    """How many of the highest resolutions were trained in float16."""

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "Settings":
        """Read the constructor's arguments of an official generator, those of its parts nested.

        Those of the parts may stand beside the parts too.

        Raises:
            WeightsError: another architecture than the skip generator, another activation, a number
                out of range, or a setting that stands there twice with two values.
        """
        mapping = _part(settings, "mapping_kwargs", ("lr_multiplier",))
        shared = ("conv_clamp", "num_fp16_res", "architecture", "activation")
        synthesis = _part(settings, "synthesis_kwargs", shared)
        for part, option, wanted in (
            (synthesis, "architecture", "skip"),
            (synthesis, "activation", "lrelu"),
            (mapping, "activation", "lrelu"),
        ):
            if part.get(option, wanted) != wanted:
                raise WeightsError(
                    f"expected {option} {wanted!r}, found {_short(part[option])}, which is not supported; "
                    f"{STANDARD}"
                )
        return cls(
            lr_multiplier=_factor(mapping, "lr_multiplier") or cls.lr_multiplier,
            conv_clamp=_factor(synthesis, "conv_clamp"),
            num_fp16_res=_count(synthesis, "num_fp16_res"),
        )


def _short(value: object) -> str:
    return reprlib.repr(value)[:40]


def _part(settings: Mapping[str, object], name: str, shared: tuple[str, ...]) -> Mapping[str, object]:
    """Return the arguments of a part, and those of its `shared` ones that stand beside it."""
    part = settings.get(name) or {}
    if not isinstance(part, Mapping):
        raise WeightsError(f"expected {name} as a table, found {_short(part)}; correct the settings")
    beside = {option: settings[option] for option in shared if option in settings}
    for option, value in beside.items():
        if option in part and part[option] != value:
            raise WeightsError(
                f"expected one {option}, found {_short(value)} and, in {name}, {_short(part[option])}; "
                "correct the settings"
            )
    return {**beside, **part}


def _factor(part: Mapping[str, object], name: str) -> float | None:
    value = part.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST:
        raise WeightsError(
            f"expected a number above 0, at most {LARGEST:g}, for {name}, found {_short(value)}; "
            "correct the settings"
        )
    return float(value)


def _count(part: Mapping[str, object], name: str) -> int:
    value = part.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in range(MOST_BLOCKS + 1):
        raise WeightsError(
            f"expected a whole number of 0 to {MOST_BLOCKS} for {name}, found {_short(value)}; "
            "correct the settings"
        )
    return int(value)


def dense(name: str, value: object) -> Tensor:
    """Return the value if it is a tensor of real numbers in memory of its own; nothing is copied.

    Raises:
        WeightsError: it is not, or it is empty.
    """
    if not isinstance(value, Tensor):
        raise WeightsError(f"expected a tensor {name!r}, found {_short(value)}; {STANDARD}")
    if value.is_nested or value.layout != torch.strided or value.is_meta or value.dtype not in DTYPES:
        kind = "one without values" if value.is_meta else f"{value.layout}, {value.dtype}"
        raise WeightsError(f"expected {name!r} dense, of float16 to float64, found {kind}; {STANDARD}")
    # A view of stride 0 stands for far more values than the file holds.
    if not 0 < value.numel() <= value.untyped_storage().nbytes() // value.itemsize:
        raise WeightsError(f"expected {name!r} with values, found shape {tuple(value.shape)}; {STANDARD}")
    return value


def take(tensors: Mapping[str, object], name: str, shape: tuple[int | None, ...]) -> Tensor:
    """Return the float32 tensor of that name and shape; None stands for any length of a dimension.

    Raises:
        WeightsError: the tensor is missing, is no dense one of finite numbers, or has another shape.
    """
    if name not in tensors:
        raise WeightsError(f"expected a tensor {name!r}, found none; {STANDARD}")
    tensor = dense(name, tensors[name])
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise WeightsError(f"expected {name!r} of shape ({wanted}), found {found}; {STANDARD}")
    tensor = tensor.detach().to(torch.float32)
    if not tensor.isfinite().all():
        raise WeightsError(
            f"expected {name!r} of finite numbers, found NaN or infinity; fetch the file again"
        )
    return tensor
