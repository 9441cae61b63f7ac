"""A flow-matching prior: a few deterministic steps carry its noise, the latent, to an image."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError, WeightsError
from ggl.base.weight_files import locate
from ggl.base.weights import load_tensors_and_metadata
from ggl.generators.base import Prior
from ggl.generators.flow.network import SIZE, CodeFlow, Decoder, PixelFlow, carry
from ggl.generators.formats import format_of

__all__ = ["LARGEST", "FashionFlow32", "FlowPrior", "FlowSettings"]

STEPS = 8
LARGEST = 4096
"""Of any size in a file's settings."""
KEY = "settings"
"""Of the settings in the file's metadata."""


@dataclass(frozen=True)
class FlowSettings:
    """The sizes of a flow's networks.

    Attributes:
        channels: of an image.
        num_classes: of the training data.
        code: length of the codes that the flow makes and a decoder reads; 0 where it makes the pixels.
        width: of the network that makes codes.
        depth: its blocks.
    """

    channels: int
    num_classes: int
    code: int
    width: int = 256
    depth: int = 3

    @property
    def latent_dim(self) -> int:
        """How many numbers of noise there are."""
        return self.code or self.channels * SIZE**2

    def flow(self) -> nn.Module:
        """Return the untrained flow."""
        if self.code:
            return CodeFlow(self.code, self.num_classes, self.width, self.depth)
        return PixelFlow(self.channels, self.num_classes)

    def decoder(self) -> nn.Module:
        """Return what makes images of the flow's ends; without codes it has no weights."""
        shape = (self.channels, SIZE, SIZE)
        return Decoder(self.channels, self.code) if self.code else nn.Unflatten(1, shape)

    def to_metadata(self) -> dict[str, str]:
        """Return what `of` reads."""
        return {KEY: json.dumps(asdict(self))}

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "FlowSettings":
        """Read the settings from a file's metadata.

        Raises:
            WeightsError: they are not there, or a size is missing, unknown or no count.
        """
        text = metadata.get(KEY, "")
        try:
            found = json.loads(text)
        except (RecursionError, ValueError):
            found = None
        names = [field.name for field in fields(cls)]
        if not isinstance(found, dict) or {*found} != {*names}:
            raise WeightsError(
                f"expected a flow's {', '.join(names)} as JSON under {KEY!r}, found {text[:60]!r}"
            )
        for name, size in found.items():
            least = 0 if name == "code" else 1
            if type(size) is not int or not least <= size <= LARGEST:
                raise WeightsError(f"expected {name} from {least} to {LARGEST}, found {size!r}")
        return cls(**found)


class FlowPrior(Prior):
    """A flow-matching prior, 32 px, with classes: what `ggl.generators.flow.train` writes.

    Args:
        path: the `.safetensors` file.
        steps: from noise to image. The flow was learned for all times, so that any number will do: fewer
            are faster, more follow it more closely.

    Raises:
        InputError: no step at all, or another kind of file.
        WeightsError: the file cannot be read, or its tensors are not those of such a flow.
    """

    def __init__(self, path: str, steps: int = STEPS) -> None:
        super().__init__()
        if not 1 <= steps <= LARGEST:
            raise InputError(f"flow: expected 1 to {LARGEST} steps, found {steps}")
        self.name = f"flow:{path}" if steps == STEPS else f"flow:{path},steps={steps}"
        self.licence = "that of the weights file"
        self.steps = steps
        tensors, settings = _read(Path(path))
        self.latent_dim, self.num_classes = settings.latent_dim, settings.num_classes
        self.image_shape = (settings.channels, SIZE, SIZE)
        with torch.device("meta"):
            self.flow, self.decoder = settings.flow(), settings.decoder()
        _check_tensors(Path(path), tensors, self.state_dict())
        self.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
        self.eval().requires_grad_(False)

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels 32 32"]:
        """Return the images of latents `z` and labels (n,), in [0, 1]."""
        self.check_labels(labels)
        ends = carry(lambda x, time: self.flow(x, time, labels), z, self.steps)
        images: Tensor = (self.decoder(ends) + 1) / 2
        return images


class FashionFlow32(FlowPrior):
    """Clothes, 32 px grey, 10 classes, 128 latent dimensions; bundled, a flow trained here (MIT).

    Args:
        steps: as of `FlowPrior`.
    """

    heldout = "fashion-mnist-heldout"

    def __init__(self, steps: int = STEPS) -> None:
        super().__init__(str(locate("fashion-flow32") / "fashion-flow32.safetensors"), steps)
        self.name = "fashion-flow32" if steps == STEPS else f"fashion-flow32:steps={steps}"
        self.licence = "MIT"


def _read(path: Path) -> tuple[dict[str, Tensor], FlowSettings]:
    if path.suffix != ".safetensors":
        raise InputError(
            "flow: expected the .safetensors file that python -m ggl.generators.flow.train writes, "
            f"found {path}"
        )
    tensors, metadata = load_tensors_and_metadata(path)
    try:
        return tensors, FlowSettings.of(metadata)
    except WeightsError as error:
        raise WeightsError(
            f"{path}: {format_of(tensors) or error}; train one with python -m ggl.generators.flow.train"
        ) from error


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    for name in sorted({*tensors, *wanted}):
        found, like = tensors.get(name), wanted.get(name)
        shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (like, found)]
        if shapes[0] != shapes[1]:
            expected, got = ("none" if shape is None else f"shape {shape}" for shape in shapes)
            raise WeightsError(f"{path}: expected {expected} of {name} in this flow, found {got}")
        if found is not None and not (found.is_floating_point() and found.isfinite().all()):
            raise WeightsError(f"{path}: expected finite numbers in {name}, found others; train it again")
