"""Anyone's generator network by class and file: `module:Class,weights=FILE,range=tanh`."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import InputError, users_code
from ggl.base.network_weights import read_weights
from ggl.base.options import build, parameters_of, read_options
from ggl.base.random import global_streams_kept
from ggl.generators.base import Prior
from ggl.generators.calling import Hints, LabelForm, find_call
from ggl.generators.plausibility import FITS, enough_samples, misfit_text, norm_misfits
from ggl.generators.ranges import read_range

__all__ = ["OwnNetwork", "load_own"]

OWN_WEIGHTS = "own"
"""Instead of a file: the constructor brings the weights itself."""

SLACK = 0.05
"""Of the range's width, by which values may leave it: clipping in a network of half precision, ..."""


class OwnNetwork(Prior):
    """A network that turns latents, and labels where it takes some, into images.

    How it is called is found by trying (`ggl.generators.calling`), and stands among `assumed`.

    Args:
        name: the specification that loads it again.
        network: its weights are loaded already.
        arguments: of its constructor, by name, which may say the latent dimension and the classes.
        range: what its values are: "tanh" (-1 to 1), "sigmoid" (0 to 1) or "low:high"; None finds which
            of the first two.
        latent_dim: None finds it.
        num_classes: None finds them.
        labels: None finds the form.
        size: height and width in pixels that images are reduced to by the mean over areas.

    Raises:
        InputError: no call makes images, values are not of the range, or the network draws noise.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        arguments: Mapping[str, object],
        *,
        range: str | None = None,  # noqa: A002
        latent_dim: int | None = None,
        num_classes: int | None = None,
        labels: LabelForm | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.licence = name, "not stated"
        self.network = network.float().eval().requires_grad_(False)
        try:
            self.call = find_call(self.network, Hints(latent_dim, num_classes, labels, arguments))
        except InputError as error:
            raise InputError(f"prior {name!r}: {error}") from error
        self.latent_dim, self.num_classes = self.call.latent_dim, self.call.num_classes
        channels, height, width = self.call.image_shape
        if size is not None and not (height == width and 1 <= size <= height):
            raise InputError(f"prior {name!r}: expected a size of 1 to {height} pixels, found {size}")
        self.resized = size is not None and size != height
        self.image_shape = (channels, size or height, size or width)
        samples = self._look()
        self.end = _range(name, range, samples)
        found = [f"called with {self.call.words()}", "latents that are standard normal"]
        if range is None:
            found.insert(1, f"values from {self.end.low:g} to {self.end.high:g}, as its samples are (range=)")
        self.assumed = tuple(found)

    def _look(self) -> Tensor:
        """Return what the network makes of samples; what its normalizations meet there may raise doubts.

        Raises:
            InputError: the same latents make other images.
        """
        count = enough_samples(self.call.image_shape)
        z = torch.randn(count, self.latent_dim, generator=torch.Generator().manual_seed(0))
        labels = None if self.num_classes is None else torch.arange(count) % self.num_classes
        values: list[Tensor] = []
        misfits = norm_misfits(self.network, lambda: values.append(self._values(z, labels)))
        misfit = sum(misfits) / max(1, len(misfits))
        self.doubts = () if misfit <= FITS else (misfit_text(misfit),)
        few = z[:2], None if labels is None else labels[:2]
        if not torch.equal(self._values(*few), self._values(*few)):
            raise InputError(
                f"prior {self.name!r}: expected the same image for the same latent, found another: it draws "
                "noise; write an own prior that fixes it (docs/add-a-prior.md)"
            )
        return values[0]

    def decode(
        self, z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "n channels height width"]:
        """Return the images of latents `z`, in [0, 1]; `labels` are ignored where there are no classes."""
        self.check_labels(labels)
        images = self.end.to_unit(self._values(z, labels))
        return F.interpolate(images, self.image_shape[1:], mode="area") if self.resized else images

    def _values(self, z: Tensor, labels: Tensor | None) -> Tensor:
        with users_code(f"prior {self.name!r}"):
            made = self.call(self.network, z, labels)
        if not isinstance(made, Tensor) or made.numel() != len(z) * torch.Size(self.call.image_shape).numel():
            raise InputError(f"prior {self.name!r}: expected {len(z)} images, found another number")
        return made.reshape(-1, *self.call.image_shape)


OPTIONS = {
    "weights": str,
    "key": str,
    **{
        name: parameter.annotation
        for name, parameter in parameters_of("a network", OwnNetwork).items()
        if parameter.kind is parameter.KEYWORD_ONLY
    },
}
"""Of a specification, beside those of the network's constructor, which go before."""


def load_own(specification: str, factory: Any, text: str | None) -> object:
    """Return what a class or function of the user's makes: a prior's parts as they are, a network as a prior.

    Options go to the constructor where it has such a parameter, else to `OwnNetwork`; "weights" and "key"
    always name the file.

    Raises:
        InputError: options that nobody takes, a network without weights or that makes no images.
        WeightsError: the file cannot be read, or is not the network's.
        UserCodeError: the user's code raised.
    """
    what = f"prior {specification!r}"
    is_network = isinstance(factory, nn.Module)
    parameters = {} if is_network else parameters_of(what, factory)
    constructor: list[str] = []
    own: list[str] = []
    for part in text.split(",") if text else []:
        option, equals, _ = part.partition("=")
        option = option.strip()
        mine = equals and option in OPTIONS and (option not in parameters or option in ("weights", "key"))
        (own if mine else constructor).append(part)
    arguments: dict[str, object] = {}
    with global_streams_kept():
        made = factory if is_network else _made(what, factory, ",".join(constructor), arguments)
        if not isinstance(made, nn.Module) or isinstance(made, Prior) or hasattr(made, "decode"):
            if own:
                raise InputError(
                    f"{what}: expected a network for {', '.join(own)}, found {type(made).__name__}, a prior"
                )
            return made
        options = read_options(what, ",".join(own), OPTIONS)
        _load_weights(what, made, options.pop("weights", None), options.pop("key", None))
        return OwnNetwork(specification, made, arguments, **options)


def _made(what: str, factory: Callable[..., object], text: str, arguments: dict[str, object]) -> object:
    """Return what the factory makes, and put what it was called with, defaults too, into `arguments`."""

    def noted(**options: object) -> object:
        bound = inspect.signature(factory).bind(**options)
        bound.apply_defaults()
        arguments.update(bound.arguments)
        with users_code(what):
            return factory(**options)

    noted.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]
    return build(what, noted, text)


def _load_weights(what: str, network: nn.Module, path: str | None, key: str | None) -> None:
    """Load a file into a network, however the file packs it.

    Raises:
        InputError: no file was named.
        WeightsError: it cannot be read, or its tensors are not the network's.
    """
    if path is None:
        raise InputError(
            f"{what}: expected the file of its weights, weights=FILE, or weights={OWN_WEIGHTS} where it "
            "brings them itself; found none"
        )
    if path == OWN_WEIGHTS:
        return
    network.load_state_dict(read_weights(path, network.eval(), key).tensors)


def _range(name: str, asked: str | None, values: Tensor) -> Any:
    """Return the range that was asked for, else the one that samples show.

    Raises:
        InputError: samples are of another range.
    """
    low, high = float(values.min()), float(values.max())
    found = read_range(asked or ("sigmoid" if low >= 0 else "tanh"))
    slack = SLACK * (found.high - found.low)
    if ":" not in found.name and not (found.low - slack <= low and high <= found.high + slack):
        raise InputError(
            f"prior {name!r}: expected values from {found.low:g} to {found.high:g} ({found.name}), found "
            f"{low:.3g} to {high:.3g} in {len(values)} samples; say what is black and what is white, "
            "range=LOW:HIGH"
        )
    return found
