"""LPIPS, the learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), on AlexNet.

The network is the `lpips` package's (an extra); its weights come from files that are already here:
the catalog's entry `lpips-alexnet`, or torchvision's AlexNet checkpoint in torch.hub's folder.
Everything is read as tensors only, nothing is executed.
"""

import importlib.util
import io
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ggl.base.distribution import install_command
from ggl.base.errors import InputError, WeightsError
from ggl.base.files import sha256
from ggl.base.weight_files import locate
from ggl.base.weights import load_tensors
from ggl.measures.metrics import check_pair
from ggl.measures.published import CHECKPOINT, ENTRY

__all__ = ["LPIPS_HINT", "LPIPS_NOTE", "Lpips", "load_lpips", "lpips_note"]

FETCH = "ggl weights fetch lpips-alexnet (64 MB)"

LPIPS_HINT = (
    f"LPIPS is not measured: its weights are not at hand; run {FETCH}"
    if importlib.util.find_spec("lpips")
    else f"LPIPS is not measured: it is not installed; run {install_command('lpips')}, then {FETCH}"
)

EXPECTED = "expected AlexNet's convolutions and the five heads of LPIPS"

CONVOLUTIONS = (0, 3, 6, 8, 10)
"""Positions of the five convolutions in torchvision's `alexnet().features`."""

SMALLEST_SIDE = 64
"""The side of the patches on which the heads were calibrated; AlexNet itself needs 31 px."""

LPIPS_NOTE = (
    f"LPIPS: images under {SMALLEST_SIDE} px are enlarged to {SMALLEST_SIDE} px first; such figures compare "
    "with one another, not with those of other work"
)


class Lpips:
    """The distance itself: call it on two batches of images.

    Args:
        weights: AlexNet's convolutions under torchvision's names (`features.0.weight`) and the five
            heads under the `lpips` package's (`lin0.model.1.weight`).

    Raises:
        WeightsError: a tensor is missing; at the first call, one is of another shape.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        try:
            self._weights = _renamed(weights)
        except KeyError as error:
            raise WeightsError(f"{EXPECTED}: it lacks {error}") from error

    @cached_property
    def _network(self) -> nn.Module:
        """Made when it is first asked: what is imported for it takes a second or more."""
        return _network(self._weights)

    @torch.no_grad()
    def __call__(self, a: Float[Tensor, "n c h w"], b: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Return the distance of each pair of images in [0, 1], at least 0; 0 where identical.

        One channel is repeated to three. Images whose shorter side is below 64 px are enlarged
        bilinearly until it is 64; larger ones are taken as they are.

        Raises:
            InputError: the shapes differ, or there are neither one nor three channels.
        """
        check_pair(a, b)
        if a.shape[1] not in (1, 3):
            raise InputError(f"LPIPS takes images of 1 or 3 channels, found {a.shape[1]}")
        distance: Tensor = self._network.to(a.device)(_prepare(a), _prepare(b), normalize=True)
        return distance.flatten()


def load_lpips() -> Lpips | None:
    """Return LPIPS, or None (see `LPIPS_HINT`) where its package or its weights are not at hand.

    Looks for the catalog's entry first, then for torchvision's `alexnet-owt-*.pth` in torch.hub's folder.
    Never downloads.

    Raises:
        WeightsError: a file is there but damaged.
    """
    package = importlib.util.find_spec("lpips")
    if package is None or package.origin is None:
        return None
    if ENTRY.is_here:
        return Lpips(_from_flax(_read_arrays((locate(ENTRY.name) / CHECKPOINT).read_bytes())))
    checkpoint = next(Path(torch.hub.get_dir(), "checkpoints").glob("alexnet-owt-*.pth"), None)
    return Lpips(_torchvision_weights(checkpoint, Path(package.origin).parent)) if checkpoint else None


def lpips_note(side: int) -> str | None:
    """Return what is to be said beside an LPIPS of images of `side` pixels; None where nothing is."""
    return LPIPS_NOTE if side < SMALLEST_SIDE else None


def _prepare(images: Tensor) -> Tensor:
    images = images.float().expand(-1, 3, -1, -1)
    height, width = images.shape[-2:]
    scale = SMALLEST_SIDE / min(height, width)
    if scale <= 1:
        return images
    size = (round(height * scale), round(width * scale))
    return functional.interpolate(images, size, mode="bilinear", align_corners=False)


def _network(weights: Mapping[str, Tensor]) -> nn.Module:
    """Return the package's network, with weights under its own names."""
    import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", "The parameter 'pretrained'|Arguments other than a weight enum")
        network: nn.Module = lpips.LPIPS(pretrained=False, pnet_rand=True, verbose=False)  # type: ignore[no-untyped-call]
    network.scaling_layer = lpips.ScalingLayer()  # type: ignore[no-untyped-call]
    scaling = network.scaling_layer.state_dict(prefix="scaling_layer.")
    try:
        network.load_state_dict({**scaling, **weights}, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{EXPECTED}: {error}") from error
    return network.requires_grad_(False).eval()


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights under the names of `lpips.LPIPS`, which lists every head twice."""
    state = {}
    for k, position in enumerate(CONVOLUTIONS):
        for part in ("weight", "bias"):
            state[f"net.slice{k + 1}.{position}.{part}"] = weights[f"features.{position}.{part}"]
        state[f"lin{k}.model.1.weight"] = state[f"lins.{k}.model.1.weight"] = weights[
            f"lin{k}.model.1.weight"
        ]
    return state


def _torchvision_weights(checkpoint: Path, package: Path) -> dict[str, Tensor]:
    prefix = checkpoint.stem.rpartition("-")[2]
    if not sha256(checkpoint).startswith(prefix):
        raise WeightsError(f"{checkpoint}: expected a SHA-256 that starts with {prefix}; delete the file")
    return {**load_tensors(checkpoint), **load_tensors(package / "weights" / "v0.1" / "alex.pth")}


def _from_flax(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return flax's (h, w, in, out) kernels as torch's (out, in, h, w), under the names of `Lpips`."""
    weights = {}
    for k, position in enumerate(CONVOLUTIONS):
        convolution = f"AlexNet_0/Conv_{k}"
        weights[f"features.{position}.weight"] = arrays[f"{convolution}/kernel"].permute(3, 2, 0, 1)
        weights[f"features.{position}.bias"] = arrays[f"{convolution}/bias"]
        weights[f"lin{k}.model.1.weight"] = arrays[f"NetLinLayer_{k}/Conv_0/kernel"].permute(3, 2, 0, 1)
    return weights


def _read_arrays(content: bytes) -> dict[str, Tensor]:
    """Return the float32 arrays of a pickled tree of dictionaries, by their paths ("a/b/kernel").

    Raises:
        WeightsError: the pickle is damaged, or names anything but a float32 array.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, TypeError, ValueError) as error:
        raise WeightsError(f"expected a pickle of float32 arrays only; refused ({error})") from error
    return dict(_leaves(tree, ""))


def _leaves(tree: object, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, _Array):
        yield path, tree.tensor
    elif isinstance(tree, dict):
        for name, branch in tree.items():
            yield from _leaves(branch, f"{path}/{name}" if path else str(name))
    else:
        raise WeightsError(f"expected a float32 array at {path!r}, found {type(tree).__name__}")


class _DType:
    """Stands in for `numpy.dtype` while unpickling."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands in for `numpy.ndarray` while unpickling."""

    tensor: Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if (dtype.order, dtype.code, column_major) != ("<", "f4", False):
            raise pickle.UnpicklingError(f"an array of {dtype.order}{dtype.code}, not of row-major <f4")
        self.tensor = torch.from_numpy(np.frombuffer(content, "<f4").reshape(shape).copy())


def _empty_array(*_: object) -> _Array:
    return _Array()


class _ArrayUnpickler(pickle.Unpickler):
    STAND_INS: Mapping[tuple[str, str], Callable[..., object]] = {
        ("numpy", "dtype"): _DType,
        ("numpy", "ndarray"): _Array,
        ("numpy.core.multiarray", "_reconstruct"): _empty_array,
        ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    }

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in self.STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.STAND_INS[module, name]
