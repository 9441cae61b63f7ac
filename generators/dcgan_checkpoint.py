"""Priors from plain generators of others: what their tensors do not say is asked for, or assumed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ggl.base.errors import InputError, WeightsError
from ggl.base.options import specification
from ggl.base.weight_files import locate
from ggl.base.weights import load_state, tensors_of
from ggl.generators.stages import Chain, StagedPrior
from ggl.generators.state_dicts.fit import fitted
from ggl.generators.state_dicts.network import folded
from ggl.generators.state_dicts.reading import Asked

__all__ = ["DCGAN", "DigiFace", "read_state"]

GENERATOR_KEYS = (
    "netG_state_dict",
    "generator_state_dict",
    "G_state_dict",
    "netG",
    "generator",
    "G",
    "state_dict",
)
"""Where checkpoints that hold more than a generator keep it, by how surely the name means one."""

PART = re.compile(r"(net_?|model_?)?(g|gen|generator)(_ema|_model)?", re.IGNORECASE)
"""What the tensors of a generator are named under, where a file has another network's beside them."""

OTHER_PART = re.compile(r"(net_?|model_?)?(d|disc|discriminator|critic|encoder|e)(_model)?", re.IGNORECASE)


class DCGAN(StagedPrior):
    """A plain generator from a state dict: DCGAN's, MLPs, upsampling ones, with or without labels.

    What the tensors determine: linear layers, transposed and plain convolutions, batch normalizations
    (evaluated by their running statistics), a table of labels, and their order. What they do not is
    asked for, or assumed and said in `assumed`: ReLU between and tanh at the end are those of DCGAN
    (arXiv 1511.06434).

    Args:
        path: the file: torch (read as tensors only) or `.safetensors`.
        key: the entry of the file, or the prefix of its tensors' names, that is the generator;
            None tries the usual ones, then the file as a whole.
        size: height and width in pixels that images are reduced to by the mean over areas; None
            keeps the network's own.
        activation: between the layers: "relu", "leaky-relu:0.2", ...; "a/b/c" has one behind each layer.
        range: the function at the end, "tanh" or "sigmoid", or "low:high" for values without one.
        eps: ε of the batch normalizations, 1e-5 by default; "a/b/c" has one for each.
        image_size: height and width that the network makes, where its kernels leave that open.
        strides: "a/b/c", of the kernels, where these and the image's size leave them open.
        join: how a label's vector joins the latent: "times" it, "first" or "last" beside it.
        classes: labels that the first layer reads one-hot beside the latent.

    Raises:
        WeightsError: the file cannot be read, or a layer in it is not understood.
        InputError: something is left open or does not fit; `size` is not between 1 and the network's own.
    """

    def __init__(
        self,
        path: str,
        *,
        key: str | None = None,
        size: int | None = None,
        activation: str | None = None,
        range: str | None = None,  # noqa: A002
        eps: str | None = None,
        image_size: int | None = None,
        strides: str | None = None,
        join: Literal["times", "first", "last"] | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        options = {"activation": activation, "range": range, "eps": eps, "image_size": image_size}
        entry = {"strides": strides, "join": join, "classes": classes}
        self.name = specification(f"dcgan:{path}", {"key": key, "size": size, **options, **entry})
        self.licence = "that of the weights file"
        state = read_state(path, key)
        _check_alone(path, state)
        asked = Asked(activation, range, eps, image_size, strides, join, classes)
        reading = fitted(path, state, asked, in_order=Path(path).suffix != ".safetensors")
        self.assumed, self.doubts = reading.assumed, reading.doubts
        self.labels, self.end = reading.labels, reading.plan.end
        self.latent_dim, self.num_classes = reading.labels.latent_dim, reading.labels.num_classes
        channels, native, _ = reading.plan.image_shape
        if size is not None and not 1 <= size <= native:
            raise InputError(f"prior {self.name}: expected a size of 1 to {native} pixels, found {size}")
        self.resized = size is not None and size != native
        self.image_shape = (channels, size or native, size or native)
        self.generator = folded(reading.network())
        first = torch.zeros(1, dtype=torch.long)
        self.chain = Chain(self.generator, self.labels.joined(torch.zeros(1, self.latent_dim), first))
        self.stages = self.chain.stages

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1]; `labels` are ignored where there are no classes."""
        self.check_labels(labels)
        return self._images(self.generator(self.labels.joined(z, labels)))

    def features(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None, stage: int
    ) -> Float[Tensor, "n size"]:
        """Return what is before the network's weighted layer number `stage` + 1."""
        self.check_labels(labels)
        return self.chain.begin(self.generator, self.labels.joined(z, labels), stage)

    def finish(
        self,
        a: Float[Tensor, "n size"],
        z: Float[Tensor, "n d"],  # noqa: ARG002
        labels: Int[Tensor, " n"] | None,  # noqa: ARG002
        stage: int,
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of a stage's activations, which latents and labels are in already."""
        return self._images(self.chain.finish(self.generator, a, stage))

    def _images(self, values: Tensor) -> Tensor:
        images = self.end.to_unit(values)
        return F.interpolate(images, self.image_shape[1:], mode="area") if self.resized else images


class DigiFace(DCGAN):
    """Rendered faces, 64 px RGB, 100 latent dimensions: a DCGAN that Chien Liu trained on DigiFace-1M.

    The weights come with the package gan_face_generate, under the MIT licence; DigiFace-1M itself
    (Microsoft, arXiv 2210.02579), whose faces are rendered and not photographed, is for
    non-commercial research.

    Args:
        size: height and width in pixels that images are reduced to; None keeps 64.

    Raises:
        WeightsError: the weights are not at hand, or were altered.
        InputError: `size` is not between 1 and 64.
    """

    def __init__(self, *, size: int | None = None) -> None:
        path = str(locate("digiface-dcgan64") / "weights.tar")
        super().__init__(path, key="netG_state_dict", size=size, activation="relu", eps="1e-5", range="tanh")
        self.name, self.assumed = specification("digiface-dcgan64", {"size": size}), ()
        self.licence = "MIT; trained on DigiFace-1M, which is for non-commercial research"


def _check_alone(path: str, state: Mapping[str, Tensor]) -> None:
    """Raise `WeightsError` where names say that the tensors are of a generator and of something else."""
    parts = {name.partition(".")[0]: None for name in state}
    generators = [part for part in parts if PART.fullmatch(part)]
    if generators and len(parts) > 1 and any(OTHER_PART.fullmatch(part) for part in parts):
        raise WeightsError(
            f"{path}: expected a generator alone, found the parts {', '.join(parts)}; name it with "
            f"key={generators[0]}"
        )


def read_state(path: str | Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the state dict that is a file's entry `key`, or the tensors named `key.`…, or a usual entry.

    Raises:
        WeightsError: as `ggl.base.weights.load_tensors`, or there is nothing under `key`.
    """
    path = Path(path)
    state = load_state(path)
    if not isinstance(state, dict):
        return tensors_of(path, state)
    if key is None:
        usual = (state[name] for name in GENERATOR_KEYS if isinstance(state.get(name), dict))
        return tensors_of(path, next(usual, state))
    return tensors_of(path, _part(path, state, key))


def _part(path: Path, state: Mapping[object, object], key: str) -> object:
    """Return a file's entry `key`, or what is named `key.`… in it or in its state dict."""
    if isinstance(state.get(key), dict):
        return state[key]
    inner = state.get("state_dict")
    named = {str(name): value for name, value in (inner if isinstance(inner, dict) else state).items()}
    prefix = f"{key}."
    part = {name.removeprefix(prefix): named[name] for name in named if name.startswith(prefix)}
    if not part:
        found = ", ".join(sorted({name.partition(".")[0] for name in named}))
        raise WeightsError(f"{path}: expected an entry {key!r}, found {found}; name one of those with key=")
    return part
