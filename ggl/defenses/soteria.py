"""Soteria: the columns of a linear layer's gradient that belong to the most telling features go."""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ggl.base.errors import InputError
from ggl.defenses.base import ATTACKERS, Defense, number_text, option_text
from ggl.defenses.client import Client
from ggl.defenses.pruning import mask_of_zeros
from ggl.gradients import Gradients, View

__all__ = ["Soteria", "feature_scores", "lowest_scored"]

CHUNK = 64
"""Features whose derivatives are taken in one backward pass."""


class Soteria(Defense):
    """Zeroes a linear layer's gradient for the `share` of its features r with the least ‖∂r/∂x‖ / |r|.

    Sun et al., Soteria (arXiv 2012.06043): of all ways to zero `share` of the representation r, the one
    that moves the image that r stands for the farthest takes the largest |r| / ‖∂r/∂x‖, the lowest scores
    here. Exactly ⌊share · features⌋ columns of the weight's gradient go, ties broken by position; the
    bias and all other parameters are shared as they are.

    The attackers "adaptive" and "informed" read the mask off that weight's zeros; "drop" leaves it out.

    Args:
        share: of the features, from 0 to below 1.
        layer: the linear layer whose input is r; None for the victim's last one.
    """

    attackers: ClassVar[tuple[str, ...]] = (*ATTACKERS, "drop")

    def __init__(self, share: float, *, layer: str | None = None) -> None:
        if not 0 <= share < 1:
            raise InputError(f"soteria: expected a share from 0 to below 1, found {share:g}")
        self.zeroed, self.layer = share, layer
        self.name = f"soteria:{number_text(share)}" + option_text("layer", layer)

    def share(self, client: Client, generator: torch.Generator) -> Gradients:
        gradients = client.gradient()
        layer = _linear_layer(client.model, self.layer)
        weight = _weight_of(layer)
        if weight not in gradients:
            raise InputError(f"soteria: expected layer {layer!r} to be trained, found its weight frozen")
        zeroed = lowest_scored(feature_scores(client, layer), self.zeroed)
        shared = {name: g.clone() for name, g in gradients.items()}
        shared[weight][:, zeroed.to(shared[weight].device)] = 0
        return shared

    def adapt(self, observed: Gradients, attacker: str, model: nn.Module | None) -> View:
        weight = self._defended(observed, model)
        if attacker == "drop":
            return View(observed, ignored=frozenset({weight}))
        return View(observed, mask_of_zeros({weight: observed[weight]}))

    def _defended(self, observed: Gradients, model: nn.Module | None) -> str:
        """Return the defended weight's name; of the last matrix where there is no model to look into."""
        if model is not None:
            return _weight_of(_linear_layer(model, self.layer))
        matrices = [name for name, g in observed.items() if g.dim() == 2]
        wanted = [name for name in matrices if self.layer is None or name == _weight_of(self.layer)]
        if not wanted:
            found = ", ".join(matrices) or "none"
            raise InputError(f"soteria: expected the weight of a linear layer, found {found}")
        return wanted[-1]


def feature_scores(client: Client, layer: str) -> Float[Tensor, " features"]:
    """Return the score of every feature that a linear layer reads, Σ over the batch of ‖∂r/∂x‖₂ / |r|.

    The derivatives are exact, of the model as it stands, with the noise of the client's own gradient.
    Where images mix (batch normalization in train mode), the derivative of an image's feature is that of
    the batch's sum by that image, as in Soteria's code. An image for which both norm and feature are zero
    (a dead unit) adds nothing to the sum. A feature that is zero for the whole batch scores infinity, and
    so goes last: its column of the gradient is zero already.

    Raises:
        InputError: the layer does not read one vector an image, once in a forward pass.
    """
    images = client.images.to(client.oracle.device, client.oracle.dtype).detach().requires_grad_(True)
    with torch.enable_grad():
        representation = _representation(client, layer, images)
        norms = _derivative_norms(representation, images)
    size = representation.detach().abs()
    dead = (size == 0) & (norms == 0)
    scores = torch.where(dead, 0.0, norms / size).sum(0)
    return scores.masked_fill((size == 0).all(0), torch.inf)


def lowest_scored(scores: Float[Tensor, " features"], share: float) -> Bool[Tensor, " features"]:
    """Return which ⌊share · features⌋ features score lowest, ties broken by position."""
    count = int(share * len(scores) + 1e-9)
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.index_fill(0, scores.argsort(stable=True)[:count], True)


def _representation(client: Client, layer: str, images: Tensor) -> Float[Tensor, "b features"]:
    """Return what the layer reads, on a copy of the model whose parameters ask for no derivative."""
    model = client.copied_model().requires_grad_(False)
    inputs: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model(images)
    hook.remove()
    if len(inputs) != 1 or inputs[0].dim() != 2 or len(inputs[0]) != len(images):
        found = ", ".join(str(tuple(given.shape)) for given in inputs) or "none"
        raise InputError(
            f"soteria: expected layer {layer!r} to read one vector an image, found inputs {found}"
        )
    return inputs[0]


def _derivative_norms(representation: Tensor, images: Tensor) -> Float[Tensor, "b features"]:
    """Return ‖∂r/∂x‖₂ of every image and feature, a chunk of features in one batched backward pass."""
    if not representation.requires_grad:
        return torch.zeros_like(representation)
    columns = []
    for rows in torch.eye(representation.shape[1]).to(representation).split(CHUNK):
        directions = rows[:, None].expand(-1, *representation.shape)
        (derivatives,) = torch.autograd.grad(
            representation, images, directions, retain_graph=True, is_grads_batched=True
        )
        columns.append(derivatives.flatten(2).norm(dim=2))
    return torch.cat(columns).T


def _linear_layer(model: nn.Module, wanted: str | None) -> str:
    """Return the name of the wanted linear layer, or of the model's last."""
    known = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not known:
        raise InputError("soteria: expected a victim with a linear layer, found none")
    if wanted is not None and wanted not in known:
        raise InputError(f"soteria: no linear layer is named {wanted!r}; there are: {', '.join(known)}")
    return known[-1] if wanted is None else wanted


def _weight_of(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"
