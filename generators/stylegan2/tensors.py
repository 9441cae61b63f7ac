"""A generator's tensors under the official names, and what the tensors cannot tell."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["Settings", "take"]


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

        Raises:
            WeightsError: another architecture than the skip generator, or another activation.
        """
        mapping, synthesis = (_part(settings, part) for part in ("mapping_kwargs", "synthesis_kwargs"))
        for part, option, wanted in (
            (synthesis, "architecture", "skip"),
            (synthesis, "activation", "lrelu"),
            (mapping, "activation", "lrelu"),
        ):
            if part.get(option, wanted) != wanted:
                raise WeightsError(
                    f"StyleGAN2 file: expected {option} {wanted!r}, found {part[option]!r}, "
                    "which is not supported; use a generator of the standard configurations"
                )
        return cls(
            lr_multiplier=_number(mapping, "lr_multiplier") or cls.lr_multiplier,
            conv_clamp=_number(synthesis, "conv_clamp"),
            num_fp16_res=int(_number(synthesis, "num_fp16_res") or 0),
        )


def _part(settings: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = settings.get(name) or {}
    if not isinstance(part, Mapping):
        raise WeightsError(f"StyleGAN2 file: expected {name} as a table, found {type(part).__name__}")
    return part


def _number(part: Mapping[str, object], name: str) -> float | None:
    value = part.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise WeightsError(f"StyleGAN2 file: expected a number for {name}, found {value!r}")
    return float(value)


def take(tensors: Mapping[str, Tensor], name: str, shape: tuple[int | None, ...]) -> Tensor:
    """Return the float32 tensor of that name and shape; None stands for any length of a dimension.

    Raises:
        WeightsError: the tensor is missing or has another shape.
    """
    if name not in tensors:
        raise WeightsError(
            f"StyleGAN2 file: expected a tensor {name!r}, found none; "
            "use a StyleGAN2 or StyleGAN2-ADA skip generator"
        )
    found = tuple(tensors[name].shape)
    if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise WeightsError(f"StyleGAN2 file: expected {name!r} of shape ({wanted}), found {found}")
    return tensors[name].detach().to(torch.float32)
