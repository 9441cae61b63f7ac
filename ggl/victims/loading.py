"""Load a victim by name: built from a seed, or filled from a weight file."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError, WeightsError, users_code
from ggl.base.random import global_stream, stream_seed
from ggl.base.weights import load_tensors
from ggl.victims.catalog import check_victim_name, victims
from ggl.victims.outputs import bare_module, with_output

__all__ = ["check_state", "load_victim"]


def load_victim(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int,
    seed: int = 0,
    weights: str | Path | None = None,
    output: str | None = None,
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
        output: which of the outputs the logits are, where the user's network returns several: a name or a
            number; by default "logits", or the only tensor.

    Raises:
        UnknownNameError: no victim has that name.
        InputError: the victim cannot take these sizes, or the user's function returns no `nn.Module` of
            Python: TorchScript is refused.
        UserCodeError: the user's function raised.
        WeightsError: the weight file cannot be read, or its names or shapes are not the victim's.
    """
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    for argument, value in sizes.items():
        if value < 1:
            raise InputError(f"victim {name}: expected {argument} to be at least 1, found {value}")
    victim = _build(name, sizes, seed)
    if weights is not None:
        _fill(victim, weights)
    return with_output(victim, output).eval()


def _build(name: str, sizes: Mapping[str, int], seed: int) -> nn.Module:
    check_victim_name(name)
    builder, parameter = victims.resolve(name)
    what = f"victim {name!r}"
    if parameter is not None:
        raise InputError(f"{what}: victims take no parameter, found {parameter!r} after the colon")
    with global_stream(stream_seed(seed, "victim")), torch.device("cpu"), users_code(what):
        if not _takes(builder, sizes):
            raise InputError(f"{what}: expected a function of the keyword arguments {', '.join(sizes)}")
        victim: object = builder(**sizes)
    found = bare_module(victim, what)
    for key, weight in found.named_parameters():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise InputError(f"{what}: expected parameters of known shapes, found {key!r} of a lazy layer")
    return found


def _takes(builder: Callable[..., object], sizes: Mapping[str, int]) -> bool:
    """Whether a function can be called with these keyword arguments; true where nobody can tell."""
    try:
        inspect.signature(builder).bind(**sizes)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


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
