"""Which layers the layerwise backend knows, and the gradient factors of each."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.gradients.convolutions import ConvolutionWeight
from ggl.gradients.factors import Dense, EmbeddingWeight, Factors, LinearWeight

__all__ = ["FACTORS", "CandidateBatchNorm", "with_candidate_batch_norm"]

LayerFactors: TypeAlias = Callable[[Any, Tensor, Tensor], dict[str, Factors]]
"""From a layer, its input (n, b, ...) and its output gradient (n, b, ...) to factors by parameter."""


BatchNorm: TypeAlias = nn.modules.batchnorm._BatchNorm


class CandidateBatchNorm(nn.Module):
    """Batch normalization by batch statistics, each candidate's own, over a flattened population.

    `batch` images in a row belong to one candidate; the caller sets it before a forward pass. Running
    statistics are left alone: they do not enter the gradient.
    """

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = norm.weight
        self.bias: nn.Parameter | None = norm.bias
        self.eps, self.batch = norm.eps, 1

    def normalize(self, x: Tensor) -> Tensor:
        """Return x (n · batch, channels, ...) normalized within each candidate and channel."""
        grouped = x.unflatten(0, (-1, self.batch)).transpose(0, 1)
        flat = F.batch_norm(grouped.flatten(1, 2), None, None, training=True, eps=self.eps)
        return flat.view_as(grouped).transpose(0, 1).reshape_as(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized, scaled and shifted x."""
        normalized = self.normalize(x)
        if self.weight is None or self.bias is None:
            return normalized
        shape = (1, -1, *[1] * (x.dim() - 2))
        return normalized * self.weight.view(shape) + self.bias.view(shape)


def with_candidate_batch_norm(model: nn.Module) -> None:
    """Replace, in place, every batch normalization that uses batch statistics."""
    for name, child in model.named_children():
        if isinstance(child, BatchNorm) and (child.training or child.running_mean is None):
            setattr(model, name, CandidateBatchNorm(child))
        else:
            with_candidate_batch_norm(child)


def _linear(layer: nn.Linear, a: Tensor, e: Tensor) -> dict[str, Factors]:
    n = len(a)
    inputs, errors = a.reshape(n, -1, a.shape[-1]), e.reshape(n, -1, e.shape[-1])
    factors: dict[str, Factors] = {"weight": LinearWeight(inputs, errors)}
    if layer.bias is not None:
        factors["bias"] = Dense(errors.squeeze(1) if errors.shape[1] == 1 else errors.sum(1))
    return factors


def _conv2d(layer: nn.Conv2d, a: Tensor, e: Tensor) -> dict[str, Factors]:
    left, right, up, down = layer._reversed_padding_repeated_twice
    padding = (up, left)
    if layer.padding_mode != "zeros" or (left, up) != (right, down):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(a.flatten(0, 1), (left, right, up, down), mode)
        a, padding = padded.unflatten(0, a.shape[:2]), (0, 0)
    kernel, stride, dilation = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation)
    factors: dict[str, Factors] = {
        "weight": ConvolutionWeight(a, e, kernel, stride, padding, dilation, layer.groups)
    }
    if layer.bias is not None:
        factors["bias"] = Dense(e.sum((1, 3, 4)))
    return factors


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


def _normalization(normalize: Callable[[Any, Tensor], Tensor], channels_last: bool) -> LayerFactors:
    """Return the factors of a layer γ · normalize(a) + β, its channels in dimension 1 or last."""

    def factors(layer: Any, a: Tensor, e: Tensor) -> dict[str, Factors]:
        normalized = normalize(layer, a.flatten(0, 1)).unflatten(0, e.shape[:2])
        kept = layer.weight.dim() if channels_last else 1
        over = tuple(range(1, e.dim() - kept)) if channels_last else (1, *range(3, e.dim()))
        result: dict[str, Factors] = {"weight": Dense((e * normalized).sum(over))}
        if layer.bias is not None:
            result["bias"] = Dense(e.sum(over))
        return result

    return factors


def _eval_batch_norm(layer: BatchNorm, a: Tensor, e: Tensor) -> dict[str, Factors]:
    """Return the factors by the library's own gradient, with every image's channels as channels of one."""
    n, b, channels = e.shape[:3]
    images = [x.reshape(1, n * b * channels, -1) for x in (e, a)]
    buffers = dict(layer.named_buffers())
    mean, variance = (buffers[name].repeat(n * b) for name in ("running_mean", "running_var"))
    _, weight, bias = torch.ops.aten.native_batch_norm_backward(
        *images, torch.ones_like(mean), mean, variance, None, None, False, layer.eps, [False, True, True]
    )
    each: dict[str, Factors] = {"weight": Dense(weight.view(n, b, channels).sum(1))}
    if layer.bias is not None:
        each["bias"] = Dense(bias.view(n, b, channels).sum(1))
    return each


def _group_norm(layer: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, layer.num_groups, eps=layer.eps)


def _layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, eps=layer.eps)


def _candidate_batch_norm(layer: CandidateBatchNorm, x: Tensor) -> Tensor:
    return layer.normalize(x)


def _embedding(layer: nn.Embedding, a: Tensor, e: Tensor) -> dict[str, Factors]:
    n = len(a)
    return {"weight": EmbeddingWeight(a.reshape(n, -1), e.reshape(n, -1, e.shape[-1]), layer.num_embeddings)}


FACTORS: dict[type[nn.Module], LayerFactors] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm1d: _eval_batch_norm,
    nn.BatchNorm2d: _eval_batch_norm,
    CandidateBatchNorm: _normalization(_candidate_batch_norm, channels_last=False),
    nn.GroupNorm: _normalization(_group_norm, channels_last=False),
    nn.LayerNorm: _normalization(_layer_norm, channels_last=True),
    nn.Embedding: _embedding,
}
"""The exact layer types that the layerwise backend knows; a subclass may compute something else."""
