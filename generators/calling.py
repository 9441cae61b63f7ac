"""How somebody else's generator network is called: the shape of its latents, and its labels, by trying."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from ggl.base.errors import InputError, cause

__all__ = ["Call", "Hints", "LabelForm", "find_call"]

LabelForm: TypeAlias = Literal["none", "index", "onehot", "maps", "first", "last"]
"""What a network takes as labels: nothing; numbers (n,); one-hot rows (n, k), or maps (n, k, 1, 1); one-hot
rows within its latents, before or behind the rest, which nothing but the user can say."""

LATENT_NAMES = re.compile(
    r"(n_?z|z_?dim|dim_?z|z_?size|(latent|noise|input|code)_?(dim|size|dims|channels)|nlatent|latent)"
)
CLASS_NAMES = re.compile(
    r"((num|n|nb)_?(classes|class|labels|cls)|nclass|classes|class_num|(label|class)_dim)"
)
LABEL_ARGUMENT = re.compile(r"label|class|cond|cls|^y$|^c$|target|attr", re.IGNORECASE)

TRIED = 2
"""Latents of a trial."""


@dataclass(frozen=True)
class Hints:
    """What is known of a network before it is tried.

    Attributes:
        latent_dim: as asked for, else None.
        num_classes: as asked for, else None.
        labels: as asked for, else None.
        arguments: of its constructor, by name.
    """

    latent_dim: int | None
    num_classes: int | None
    labels: LabelForm | None
    arguments: Mapping[str, object]

    def numbers(self, network: nn.Module, names: re.Pattern[str]) -> list[int]:
        """Return the whole numbers above 0 of such names among the arguments, then the attributes."""
        both = [*self.arguments.items(), *vars(network).items()]
        return [v for name, v in both if names.fullmatch(name) and type(v) is int and v > 0]


@dataclass(frozen=True)
class Call:
    """How a network is called.

    Attributes:
        latent_dim: d.
        maps: whether it takes latents (n, d, 1, 1) instead of (n, d).
        labels: what it takes as labels.
        labels_first: whether labels are its first argument.
        num_classes: None without labels.
        image_shape: of what it returns, (n, c, h, w) or flat.
    """

    latent_dim: int
    maps: bool
    labels: LabelForm
    labels_first: bool
    num_classes: int | None
    image_shape: tuple[int, int, int] = (0, 0, 0)

    def __call__(
        self, network: Callable[..., object], z: Float[Tensor, "n d"], labels: Int[Tensor, " n"] | None
    ) -> object:
        """Return what the network makes of latents and labels."""
        given = labels
        if labels is not None and self.labels not in ("none", "index"):
            given = F.one_hot(labels, self.num_classes or -1).to(z)
        if given is not None and self.labels in ("first", "last"):
            z = torch.cat((given, z) if self.labels == "first" else (z, given), dim=1)
        latents = z[:, :, None, None] if self.maps else z
        if given is None or self.labels in ("none", "first", "last"):
            return network(latents)
        if self.labels == "maps":
            given = given[:, :, None, None]
        return network(given, latents) if self.labels_first else network(latents, given)

    def words(self) -> str:
        """Return the call in words."""
        inside = (self.num_classes or 0) if self.labels in ("first", "last") else 0
        latents = f"latents (n, {self.latent_dim + inside}{', 1, 1' if self.maps else ''})"
        if self.labels == "none":
            return latents
        if self.labels in ("first", "last"):
            return f"{latents}, {self.num_classes} labels one-hot among them, {self.labels}"
        forms = {"index": "by number", "onehot": "one-hot", "maps": "one-hot, as maps of one pixel"}
        order = f"labels {forms[self.labels]}, {self.num_classes} classes"
        return f"{order}, then {latents}" if self.labels_first else f"{latents}, then {order}"


def find_call(network: nn.Module, hints: Hints) -> Call:
    """Return the first way to call a network, in eval mode, that returns images of 1 or 3 channels.

    Raises:
        InputError: none does; the message says what was tried and what the network last raised.
    """
    count, labels_first, optional = _arguments(network)
    if count > 2:
        raise InputError(
            f"expected a network that takes latents, or latents and labels, found one that takes {count} "
            "arguments; write an own prior (docs/add-a-prior.md)"
        )
    raised: list[str] = []
    odd: list[str] = []
    for call in _calls(network, hints, count == 2, optional, labels_first):
        found = _tried(network, call, raised, odd)
        if found is not None:
            return found
    if not raised and not odd:
        raise InputError(_missing(network, hints, conditional=count == 2))
    raise InputError(
        f"expected images of 1 or 3 channels, found none in {len(raised) + len(odd)} ways to call it: with "
        f"{[*odd, *raised][0]}; say latent_dim=, num_classes= and labels=index, onehot or maps, or write "
        "an own prior (docs/add-a-prior.md)"
    )


def _missing(network: nn.Module, hints: Hints, *, conditional: bool) -> str:
    known = hints.latent_dim is not None or bool(_latent_dims(network, hints, []))
    missing = "num_classes=" if known and conditional else "latent_dim="
    return f"nothing says how it is called: give {missing}"


def _arguments(network: nn.Module) -> tuple[int, bool, bool]:
    """Return how many arguments a network needs, whether labels come first, whether they may be given."""
    parameters = inspect.signature(network.forward).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in positional if p.default is p.empty]
    others = [p.name for p in positional[len(needed) :]]
    is_label = [bool(LABEL_ARGUMENT.search(name)) for name in needed]
    return max(1, len(needed)), is_label == [True, False], bool(others and LABEL_ARGUMENT.search(others[0]))


def _calls(
    network: nn.Module, hints: Hints, needs_labels: bool, may_have_labels: bool, labels_first: bool
) -> Iterator[Call]:
    """Yield the calls to try, the likelier first."""
    conditional = needs_labels or hints.labels in ("first", "last")
    conditional |= may_have_labels and hints.labels != "none"
    widths = _widths(network)
    tables = [m for m in network.modules() if isinstance(m, nn.Embedding)]
    known = [hints.num_classes] if hints.num_classes else hints.numbers(network, CLASS_NAMES)
    counts = list(dict.fromkeys([*known, *(table.num_embeddings for table in tables)]))
    taken = [*(table.embedding_dim for table in tables), *counts]
    if conditional:
        forms: Sequence[LabelForm] = ("index", "onehot", "maps")
        if hints.labels is not None:
            forms = (hints.labels,)
        for d in _latent_dims(network, hints, taken):
            guessed = [] if counts else [width - d for width in widths if width > d]
            for form in forms:
                for k in dict.fromkeys([*counts, *(guessed if form != "index" else [])]):
                    for maps in (False, True):
                        yield Call(d, maps, form, labels_first, k)
    if not needs_labels and hints.labels in (None, "none"):
        for d in _latent_dims(network, hints, taken):
            for maps in (False, True):
                yield Call(d, maps, "none", False, None)


def _widths(network: nn.Module) -> list[int]:
    """Return what the first layers take."""
    found = []
    for module in network.modules():
        if isinstance(module, nn.Linear):
            found.append(module.in_features)
        elif isinstance(module, nn.ConvTranspose2d | nn.Conv2d):
            found.append(module.in_channels)
    return found[:3]


def _latent_dims(network: nn.Module, hints: Hints, taken: Sequence[int]) -> list[int]:
    """Return the latent dimensions to try: asked for, by name, then by what the first layers take."""
    if hints.latent_dim is not None:
        return [hints.latent_dim]
    widths = _widths(network)
    beside = [width - part for width in widths for part in taken if width > part]
    return list(dict.fromkeys([*hints.numbers(network, LATENT_NAMES), *beside, *widths]))


@torch.no_grad()
def _tried(network: nn.Module, call: Call, raised: list[str], odd: list[str]) -> Call | None:
    """Return the call with the shape of its images; else None, and why in one of the lists."""
    z = torch.randn(TRIED, call.latent_dim, generator=torch.Generator().manual_seed(0))
    ends = None if call.num_classes is None else torch.tensor([0, call.num_classes - 1])
    try:
        made = call(network, z, ends)
        other = made if ends is None else call(network, z, ends.flip(0))
    except Exception as error:  # noqa: BLE001  # somebody else's network may raise anything
        raised.append(f"{call.words()}: {cause(error)}")
        return None
    shape = _image_shape(made)
    if shape is None or not isinstance(made, Tensor) or not isinstance(other, Tensor):
        odd.append(f"{call.words()}: {_found(made)}")
        return None
    if ends is not None and (call.num_classes or 0) > 1 and torch.equal(made, other):
        odd.append(f"{call.words()}: pictures in which labels change nothing")
        return None
    return Call(
        call.latent_dim, call.maps, call.labels, call.labels_first, call.num_classes, image_shape=shape
    )


def _found(made: object) -> str:
    return f"values of shape {tuple(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"


def _image_shape(made: object) -> tuple[int, int, int] | None:
    """Return (c, h, w) of images (n, c, h, w), or of rows that are square images of 1 or 3 channels."""
    if not isinstance(made, Tensor) or not made.is_floating_point() or made.shape[:1] != (TRIED,):
        return None
    if made.ndim == 4 and made.shape[1] in (1, 3) and min(made.shape[2:]) > 1:
        return made.shape[1], made.shape[2], made.shape[3]
    if made.ndim == 2:
        for channels in (1, 3):
            side = round((made.shape[1] / channels) ** 0.5)
            if side > 3 and channels * side**2 == made.shape[1]:
                return channels, side, side
    return None
