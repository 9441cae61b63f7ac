"""A generator read out of a state dict, with what was assumed of it because no tensor says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.generators.ranges import read_range
from ggl.generators.state_dicts.asked import read_activation, read_list
from ggl.generators.state_dicts.chain import Link, find_chain, square_side
from ggl.generators.state_dicts.geometry import Geometry, find_geometry
from ggl.generators.state_dicts.labels import Labels, find_labels
from ggl.generators.state_dicts.layers import question, read_layers, refusal
from ggl.generators.state_dicts.network import Plan, build_network
from ggl.generators.state_dicts.places import Place, find_places

__all__ = ["Asked", "Reading", "read_generator"]

EPSILON = 1e-5
"""Of torch's batch normalizations, where their author named none."""

LARGEST_EPSILON = 10.0


@dataclass(frozen=True)
class Asked:
    """What a state dict does not say, as the user did; None where nothing was said.

    Attributes:
        activation: between the layers: one for all, or "a/b/c", one behind each layer with weights but the
            last: names of `ggl.generators.state_dicts.asked.ACTIVATIONS`, or "none".
        end: the function that the network ends with, "tanh" or "sigmoid", or "low:high" for none.
        eps: ε of the batch normalizations, one for all or one each.
        image_size: height and width that the network makes.
        strides: of the kernels, one each.
        join: how the vector of a label joins the latent: "times", "first" or "last".
        classes: labels that the first layer reads one-hot.
    """

    activation: str | None = None
    end: str | None = None
    eps: str | None = None
    image_size: int | None = None
    strides: str | None = None
    join: str | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Reading:
    """A generator: vectors (n, inputs) to images.

    Attributes:
        plan: its network; `build_network` makes it.
        labels: how they enter.
        assumed: what no tensor says and nobody said, a phrase each.
        doubts: why this may be another network than the file's, a sentence each.
    """

    plan: Plan
    labels: Labels
    assumed: tuple[str, ...]
    doubts: tuple[str, ...] = ()

    def network(self) -> nn.Sequential:
        """Return the network in float64, nothing folded."""
        return build_network(self.plan)


def read_generator(path: str | Path, state: Mapping[str, Tensor], asked: Asked, *, in_order: bool) -> Reading:
    """Return the generator that a state dict and what was asked for determine.

    Args:
        path: the file, for messages.
        state: its tensors by name.
        asked: what the tensors do not say.
        in_order: as for `ggl.generators.state_dicts.layers.read_layers`.

    Raises:
        WeightsError: a layer is not understood.
        InputError: something is left open, or what was said does not fit.
    """
    layers = read_layers(path, state, in_order=in_order)
    chain = find_chain(layers)
    labels = find_labels(layers, chain[0].inputs, asked.join, asked.classes)
    places = find_places(layers, chain)
    geometry = _geometry(path, chain, places, asked)
    plan = Plan(
        chain=chain,
        places=places,
        geometry=geometry,
        activations=_activations(path, chain, places, geometry, asked.activation),
        epsilons=_epsilons(path, chain, asked.eps),
        end=read_range(asked.end or "tanh"),
        image_shape=_image_shape(chain[-1], geometry),
    )
    return Reading(plan, labels, _assumed(plan, asked, labels.join))


def _geometry(path: str | Path, chain: list[Link], places: list[Place], asked: Asked) -> Geometry | None:
    if all(link.way == "linear" for link in chain):
        if asked.image_size is not None or asked.strides is not None:
            raise InputError(f"{path}: image_size= and strides= are for convolutions, and it has none")
        return None
    strides = None
    if asked.strides is not None:
        try:
            strides = [int(stride) for stride in asked.strides.split("/")]
        except ValueError as error:
            raise InputError(
                f"{path}: strides=: expected whole numbers such as 1/2/2, found {asked.strides}"
            ) from error
    return find_geometry(path, chain, places, asked.image_size, strides)


def _activations(
    path: str | Path,
    chain: list[Link],
    places: list[Place],
    geometry: Geometry | None,
    asked: str | None,
) -> list[nn.Module | None]:
    doubled = frozenset[int]() if geometry is None else geometry.doubled
    _check_room(path, chain, places, doubled)
    there = [place.activated(doubled=i + 1 in doubled) for i, place in enumerate(places)]
    names = read_list(path, "activation", asked or "relu", len(places), "layers but the last")
    each = "/" in (asked or "")
    return [read_activation(name) if there[i] or each else None for i, name in enumerate(names)]


def _check_room(path: str | Path, chain: list[Link], places: list[Place], doubled: frozenset[int]) -> None:
    """Refuse maps with more behind them than an activation, unless it must be dropout, which does nothing.

    Instance normalizations, upsampling and padding have no tensors either.
    """
    for i, (place, after) in enumerate(zip(places, chain[1:], strict=True)):
        unseen = (place.room or 0) - (i + 1 in doubled) - (not place.before_norm)
        dropout = chain[i].norm is not None and after.way == "transposed" and after.kernel % 2 == 0
        if unseen > 0 and after.way != "linear" and not dropout:
            raise refusal(
                path,
                f"room for {unseen} more without tensors beside an activation behind {chain[i].layer.name} "
                "(an instance normalization, upsampling, padding or dropout)",
            )


def _epsilons(path: str | Path, chain: list[Link], asked: str | None) -> list[float]:
    count = sum(link.norm is not None for link in chain)
    if asked is None:
        return [EPSILON] * count
    if count == 0:
        raise question(path, "eps=: expected batch normalizations in the file, found none")
    texts = read_list(path, "eps", asked, count, "batch normalizations")
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise InputError(f"{path}: eps=: expected numbers, found {asked!r}") from error
    if not all(0 < value <= LARGEST_EPSILON for value in values):
        raise InputError(
            f"{path}: eps=: expected numbers above 0, at most {LARGEST_EPSILON:g}, found {asked}"
        )
    return values


def _image_shape(last: Link, geometry: Geometry | None) -> tuple[int, int, int]:
    if geometry is not None:
        return last.outputs, geometry.side, geometry.side
    channels = next(c for c in (1, 3) if square_side(last.outputs, c))
    side = square_side(last.outputs, channels) or 0
    return channels, side, side


def _assumed(plan: Plan, asked: Asked, join: str | None) -> tuple[str, ...]:
    """Return what no tensor says and nobody said, then the order in which the network is read."""
    phrases = []
    if asked.activation is None and any(plan.activations):
        phrases.append("ReLU between the layers, where the numbers in their names leave room (activation=)")
    if asked.end is None:
        phrases.append("tanh at the end (range=)")
    if asked.eps is None and plan.epsilons:
        phrases.append(f"{EPSILON:g} as the epsilon of batch normalizations (eps=)")
    if asked.join is None and join is not None:
        phrases.append("a label's vector times the latent (join=)")
    if plan.geometry is not None and plan.geometry.doubled:
        phrases.append("upsampling to the nearest pixel")
    return (*phrases, f"the order: {_order(plan)}", "latents that are standard normal")


def _order(plan: Plan) -> str:
    """Return the network in words."""
    steps = iter(() if plan.geometry is None else plan.geometry.steps)
    words = []
    for i, link in enumerate(plan.chain):
        words += ["upsampling"] if plan.doubles(i) else []
        words += [link.layer.name if link.way == "linear" else _kernel_words(link, next(steps))]
        function = plan.activations[i] if i < len(plan.places) else None
        norm = [] if link.norm is None else [link.norm.name]
        activation = [] if function is None else [str(function)]
        before = i < len(plan.places) and plan.places[i].before_norm
        words += [*activation, *norm] if before else [*norm, *activation]
    return ", ".join([*words, plan.end.name])


def _kernel_words(link: Link, step: tuple[int, int, int]) -> str:
    return f"{link.layer.name} ({link.way}, stride {step[0]}, padding {step[1]})"
