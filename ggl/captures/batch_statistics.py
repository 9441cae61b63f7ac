"""The statistics of a client's own batch, out of the running statistics before and after its training."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ggl.gradients.batch_statistics import BatchNorm, BatchStatistics, normalization_layers

__all__ = ["implied_statistics"]

NEGATIVE = 1e-3
"""Below this share of the running variance, with its sign, an implied variance is no rounding error."""


def implied_statistics(
    victim: nn.Module, before: Mapping[str, Tensor], after: Mapping[str, Tensor], *, steps: int = 1
) -> tuple[BatchStatistics | None, str]:
    """Return the batch statistics that an update of running statistics implies, or None, and why.

    A step in train mode takes r to (1 - m) r + m s, so that s = (r' - (1 - m) r) / m; after K steps
    s = (r' - (1 - m)ᴷ r) / (1 - (1 - m)ᴷ) is a mean of the steps' statistics with weights (1 - m)ᴷ⁻ᵏ, k from
    1. A layer without a momentum averages all batches that it counts. Layers whose statistics did not move
    (in eval mode) are left out.

    Args:
        victim: the client's network, which knows the layers and their momentum.
        before: its state dict before the training, buffers included.
        after: and after.
        steps: local steps, where the layers do not count batches.

    Returns:
        The statistics, and "" beside them; or None, and a sentence that says what is missing or wrong.
    """
    layers = normalization_layers(victim)
    if not layers:
        return None, "the victim has no batch normalization that keeps running statistics"
    names = [f"{name}.{part}" for name in layers for part in ("running_mean", "running_var")]
    missing = [name for name in names if name not in before or name not in after]
    if missing:
        return None, f"the update holds no {missing[0]!r}: the client does not send its running statistics"
    moved = {name: layer for name, layer in layers.items() if _moved(name, before, after)}
    if not moved:
        return None, "running statistics did not move: the client trained in eval mode, or does not send them"
    means: dict[str, Tensor] = {}
    variances: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, layer in moved.items():
        counted = _counted(name, before, after)
        taken.add(counted or steps)
        kept = _kept(layer, name, before, counted or steps)
        if kept is None:
            return None, f"{name!r} has a momentum of 0, or counts no batches to average over"
        means[name], variances[name] = (
            _implied(before[f"{name}.{part}"], after[f"{name}.{part}"], kept)
            for part in ("running_mean", "running_var")
        )
        least = float((variances[name] / before[f"{name}.running_var"].double().clamp_min(1e-12)).min())
        if not torch.isfinite(means[name]).all() or not least >= -NEGATIVE:
            return None, (
                f"{name!r} would have a variance of {float(variances[name].min()):.3g}: its running "
                f"statistics did not move by a momentum of {layer.momentum} in {counted or steps} step(s)"
            )
    if len(taken) > 1:
        return None, f"layers count different numbers of batches: {', '.join(map(str, sorted(taken)))}"
    return BatchStatistics(means, variances, taken.pop()), ""


def _moved(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> bool:
    parts = (f"{name}.running_mean", f"{name}.running_var")
    return any(not torch.equal(before[part], after[part]) for part in parts)


def _counted(name: str, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> int:
    """Return how many batches the layer counted, 0 where it does not say."""
    key = f"{name}.num_batches_tracked"
    return max(int(after[key]) - int(before[key]), 0) if key in before and key in after else 0


def _kept(layer: BatchNorm, name: str, before: Mapping[str, Tensor], steps: int) -> float | None:
    """Return the share of the earlier statistics that is in the later ones, None where nothing is told."""
    if layer.momentum is not None:
        return (1 - layer.momentum) ** steps if layer.momentum > 0 else None
    key = f"{name}.num_batches_tracked"
    if key not in before:
        return None
    return int(before[key]) / (int(before[key]) + steps)


def _implied(old: Tensor, new: Tensor, kept: float) -> Tensor:
    implied = (new.double() - kept * old.double()) / (1 - kept)
    return implied.to(old.dtype) if old.dtype in (torch.float32, torch.float64) else implied.float()
