"""Load a victim by name: built from a seed, or filled from a weight file."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ggl.base.errors import GGLError, InputError, users_code
from ggl.base.network_weights import file_shapes, read_weights
from ggl.base.random import global_stream, stream_seed
from ggl.victims.catalog import check_victim_name, victims
from ggl.victims.outputs import bare_module, with_output

__all__ = ["load_victim", "read_num_classes"]

PROBES = (10, 11)
"""Numbers of classes of two networks whose shapes tell what depends on it."""


def load_victim(
    name: str,
    *,
    in_channels: int,
    num_classes: int | None,
    image_size: int,
    seed: int = 0,
    weights: str | Path | None = None,
    output: str | None = None,
    key: str | None = None,
    training: bool = False,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Return a victim network, in eval mode unless asked otherwise, on the CPU.

    Args:
        name: a registered name, or `package.module:function`, the user's own code, which is called with
            the keyword arguments `in_channels`, `num_classes` and `image_size`.
        in_channels: channels of its images, at least 1.
        num_classes: number of its logits, at least 1; None reads it off the weight file.
        image_size: height and width of its images in pixels.
        seed: names the random initialization; the global random state stays as it was.
        weights: a weight file whose tensors replace the random ones, as
            `ggl.base.network_weights.read_weights` reads it.
        output: which of the outputs the logits are, where the user's network returns several: a name or a
            number; by default "logits", or the only tensor.
        key: the file's entry that is the victim, or the beginning of its tensors' names; None finds it.
        training: whether it is in train mode, in which the file may lack running statistics.
        say: is told in a line what was found in the file, where it is no plain state dict.

    Raises:
        UnknownNameError: no victim has that name.
        InputError: the victim cannot take these sizes, the user's function returns no `nn.Module` of Python
            (TorchScript is refused), or neither `num_classes` nor the file says how many classes there are.
        UserCodeError: the user's function raised.
        WeightsError: the weight file cannot be read, or its names or shapes are not the victim's.

    Examples:
        >>> victim = ggl.load_victim("resnet18", in_channels=3, num_classes=10, image_size=32, seed=0)
        >>> victim(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if num_classes is None:
        num_classes = _classes_of_file(name, in_channels, image_size, weights, key)
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    victim = _build(name, sizes, seed).train(training)
    if weights is not None:
        read = read_weights(weights, victim, key)
        victim.load_state_dict(read.tensors)
        if say is not None and read.note:
            say(read.note)
    return with_output(victim, output)


def read_num_classes(
    name: str, weights: str | Path, *, in_channels: int, image_size: int, key: str | None = None
) -> int | None:
    """Return how many classes a victim has by the shapes of its weight file; None where they do not say it.

    Two networks of other numbers of classes tell which shapes grow with it; so it works for every head, and
    says nothing of a network that takes no notice of `num_classes`.

    Args:
        name: as for `load_victim`, as are the others.
        weights: the file.
        in_channels: channels of its images.
        image_size: height and width of its images in pixels.
        key: the file's entry.

    Raises:
        As `load_victim`.
    """
    sizes = {"in_channels": in_channels, "image_size": image_size}
    try:
        few, more = (_build(name, {**sizes, "num_classes": n}, 0) for n in PROBES)
    except GGLError:  # a network of one number of classes alone; whatever else is wrong is found again
        return None
    found, above = file_shapes(weights, few, key), more.state_dict()
    counts = set()
    for tensor, low in few.state_dict().items():
        high, given = above[tensor].shape, found.get(tensor)
        if high == low.shape or given is None or len(given) != low.ndim:
            continue
        for a, b, c in zip(low.shape, high, given, strict=True):
            if a != b:
                counts.add(PROBES[0] + (c - a) / (b - a) * (PROBES[1] - PROBES[0]))
    count = counts.pop() if len(counts) == 1 else 0.0
    return int(count) if count >= 1 and float(count).is_integer() else None


def _classes_of_file(
    name: str, in_channels: int, image_size: int, weights: str | Path | None, key: str | None
) -> int:
    if weights is None:
        raise InputError(f"victim {name}: expected num_classes, or a weight file that says it; found neither")
    found = read_num_classes(name, weights, in_channels=in_channels, image_size=image_size, key=key)
    if found is None:
        raise InputError(
            f"{weights}: expected shapes that tell how many classes victim {name} has, found none; give "
            "num_classes"
        )
    return found


def _build(name: str, sizes: Mapping[str, int], seed: int) -> nn.Module:
    for argument, value in sizes.items():
        if value < 1:
            raise InputError(f"victim {name}: expected {argument} to be at least 1, found {value}")
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
