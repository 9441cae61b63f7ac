"""Normalization written out in plain operations, whose second derivatives `torch.func.vmap` gets right.

Under `vmap`, torch's own backward passes of layer, batch and instance normalization take the saved mean and
deviation for constants, so that a gradient of a gradient lacks a term: a silently wrong slope.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["NormalizationWrittenOut"]


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    return _affine(_normalized(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return _by_channel(_normalized(input, (0, *range(2, input.dim())), eps), weight, bias)


def _instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return _by_channel(_normalized(input, tuple(range(2, input.dim())), eps), weight, bias)


def _normalized(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centered = x - x.mean(dims, keepdim=True)
    return centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (x.dim() - 2))
    return _affine(x, *(None if p is None else p.view(shape) for p in (weight, bias)))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scaled = x if weight is None else x * weight
    return scaled if bias is None else scaled + bias


_WRITTEN_OUT: dict[object, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
}


class NormalizationWrittenOut(TorchFunctionMode):
    """While it is entered, normalization by statistics of the input is computed by plain operations."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Compute by plain operations what is written out here, everything else as it is."""
        return _WRITTEN_OUT.get(func, func)(*args, **(kwargs or {}))
