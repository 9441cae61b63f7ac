"""Load a victim by name: built from a seed, or filled from a weight file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError, WeightsError
from ggl.base.random import stream_seed
from ggl.base.weights import load_tensors
from ggl.victims.catalog import victims

__all__ = ["check_state", "load_victim"]


def load_victim(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    seed: int = 0,
    weights: str | Path | None = None,
) -> nn.Module:
    """Return a victim network in eval mode, on the CPU.

    Args:
        name: a registered name, or `package.module:function`, the user's own code, which is called with
            the keyword arguments `in_channels`, `num_classes` and `image_size`.
        in_channels: channels of its images, at least 1.
        num_classes: number of its logits, at least 1.
        image_size: height and width of its images in pixels.
        seed: names the random initialization; the global random state stays as it was.
        weights: a weight file whose tensors replace the random ones, every one of them.

    Raises:
        UnknownNameError: no victim has that name.
        InputError: the victim cannot take these sizes, or the user's function returns no `nn.Module`.
        WeightsError: the weight file cannot be read, or its names or shapes are not the victim's.
    """
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    for argument, value in sizes.items():
        if value < 1:
            raise InputError(f"victim {name}: expected {argument} to be at least 1, found {value}")
    victim = _build(name, sizes, seed)
    if weights is not None:
        _fill(victim, weights)
    return victim.eval()


def _build(name: str, sizes: Mapping[str, int], seed: int) -> nn.Module:
    builder, parameter = victims.resolve(name)
    if parameter is not None:
        raise InputError(f"victim {name!r}: victims take no parameter, found {parameter!r} after the colon")
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(stream_seed(seed, "victim"))
        try:
            victim: object = builder(**sizes)
        except TypeError as error:
            raise InputError(
                f"victim {name!r}: expected a function of the keyword arguments {', '.join(sizes)} ({error})"
            ) from error
    if not isinstance(victim, nn.Module):
        raise InputError(f"victim {name!r}: expected an nn.Module, found {type(victim).__name__}")
    return victim


def _fill(victim: nn.Module, weights: str | Path) -> None:
    given = load_tensors(weights)
    check_state(weights, given, victim.state_dict())
    victim.load_state_dict(given)


def check_state(path: str | Path, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` unless a file's tensors have the names, shapes and kinds of a victim's."""
    for key in [*expected, *(key for key in given if key not in expected)]:
        wanted, came = _describe(expected.get(key)), _describe(given.get(key))
        if wanted != came:
            raise WeightsError(
                f"{path}: {key!r}: expected {wanted}, found {came}; "
                "use the architecture and sizes that the file was made with"
            )


def _describe(tensor: Tensor | None) -> str:
    if tensor is None:
        return "no such tensor"
    kind = "float" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
    return f"{kind} {list(tensor.shape)}"
