"""Spectral normalization folded away: weights as they act in eval mode, the division done once."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ggl.base.errors import WeightsError

__all__ = ["fold_spectral_norm"]

ORIGINAL, LEFT, RIGHT = "weight_orig", "weight_u", "weight_v"
"""What `torch.nn.utils.spectral_norm` calls a layer's weight and its two singular vectors."""


def fold_spectral_norm(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return a state dict whose spectrally normalized layers have a plain `weight`.

    A layer of `torch.nn.utils.spectral_norm` stores W and estimates u, v of its first singular
    vectors; in eval mode every call applies W / σ with σ = uᵀ W v, W flattened to (out, rest)
    (arXiv 1802.05957, algorithm 1). σ is taken in float64.

    Args:
        tensors: a state dict in which every `weight_orig` has its `weight_u` and `weight_v`.
        path: where it was read, for messages.

    Raises:
        WeightsError: a σ that is not a positive number.
    """
    folded = {}
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        if last == ORIGINAL:
            u, v = tensors[f"{prefix}.{LEFT}"], tensors[f"{prefix}.{RIGHT}"]
            folded[f"{prefix}.weight"] = tensor / _spectral_norm(tensor, u, v, f"{path}: {prefix}")
        elif last not in (LEFT, RIGHT):
            folded[name] = tensor
    return folded


def _spectral_norm(weight: Tensor, u: Tensor, v: Tensor, where: str) -> float:
    sigma = float(torch.dot(u.double(), torch.mv(weight.double().flatten(1), v.double())))
    if not 0 < sigma < float("inf"):
        raise WeightsError(
            f"{where}: expected a positive spectral norm, found {sigma:g}; fetch the file again"
        )
    return sigma
