"""The fast backend: one batched forward and backward for the whole population.

Hooks keep each layer's input and output; the output gradients come from one backward pass that
never reaches a parameter. Inner products and norms are then read off each layer's factors.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from ggl.gradients.distance import Distance, Moments, distance_from_moments, plain_distance
from ggl.gradients.factors import Factors
from ggl.gradients.layers import FACTORS, CandidateBatchNorm, with_candidate_batch_norm
from ggl.gradients.loss import Loss, candidate_losses
from ggl.gradients.sampled import Sampled
from ggl.gradients.view import Gradients, Mask, View

__all__ = ["Layerwise", "UnsupportedModelError"]


BUILT_ELEMENTS = 2**24
"""Gradient coordinates that are held at once for steps that need them (64 MiB of float32)."""


class UnsupportedModelError(Exception):
    """The model does something whose gradient the layerwise backend cannot take apart."""


class Layerwise:
    """Scores candidates layer by layer, without whole gradients.

    Raises `UnsupportedModelError` at construction for a parameter outside the known layers or shared by
    two, and on scoring for a layer that is used twice or mixes images.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = copy.deepcopy(model), loss
        with_candidate_batch_norm(self.model)
        self.layers = _layers_with_parameters(self.model)
        self.names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        self.model.requires_grad_(False)
        self._overwritten: set[nn.Module] = set()

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        factors = self._factors(images, labels)
        scores, start = [], 0
        for view, count in zip(views, counts, strict=True):
            rows = slice(start, start + count)
            parts = {name: f[rows] for name, f in factors.items()}
            names = [name for name in self.names if view.needs_ignored or name not in view.ignored]
            if view.takes_moments:
                moments = self._moments(parts, view, names, count)
                scores.append(distance_from_moments(moments, view, names, distance))
            else:
                scores.append(_by_building(parts, view, names, count, distance))
            start += count
        return torch.cat(scores)

    def _moments(self, factors: dict[str, Factors], view: View, names: Sequence[str], count: int) -> Moments:
        mask = view.mask
        target = mask.apply(view.target) if mask else view.target
        zeros = torch.zeros(count, dtype=_any(view.target).dtype, device=_any(view.target).device)
        dots, squares, masked = [], [], []
        for name in names:
            unused = name not in factors
            whole = view.needs_whole_norm and not unused
            dots.append(zeros if unused else factors[name].dot(target[name]))
            squares.append(factors[name].square() if whole else zeros)
            masked.append(zeros if unused or mask is None else _masked_square(factors[name], name, mask))
        return Moments(*(torch.stack(rows, dim=1).to(zeros.dtype) for rows in (dots, squares, masked)))

    def _factors(self, images: Tensor, labels: Tensor) -> dict[str, Factors]:
        """Return the factors of every parameter that the forward pass used."""
        batch = images.shape[:2]
        flat = images.flatten(0, 1)
        if not flat.requires_grad:
            flat = flat.detach().requires_grad_()
        records, losses = self._forward(flat, labels)
        errors = torch.autograd.grad(
            losses.sum(),
            [output for _, output in records.values()],
            create_graph=images.requires_grad or labels.requires_grad,
            materialize_grads=True,
        )
        factors: dict[str, Factors] = {}
        for (layer, (inputs, output)), error in zip(records.items(), errors, strict=True):
            if len(output) != len(flat) or len(inputs) != len(flat):
                raise UnsupportedModelError(f"{self.layers[layer]} mixes images")
            if not images.requires_grad:
                inputs = inputs.detach()
            if inputs.is_floating_point():
                inputs = inputs.to(error.dtype)
            parts = FACTORS[type(layer)](layer, inputs.unflatten(0, batch), error.unflatten(0, batch))
            prefix = f"{self.layers[layer]}." if self.layers[layer] else ""
            factors |= {f"{prefix}{name}": part for name, part in parts.items()}
        return factors

    def _forward(self, flat: Tensor, labels: Tensor) -> tuple[dict[nn.Module, tuple[Tensor, Tensor]], Tensor]:
        """Run the model with hooks; run it again with copies where something was overwritten in place."""
        for module in self.model.modules():
            if isinstance(module, CandidateBatchNorm | Sampled):
                module.batch = labels.shape[1]
        records: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        versions: dict[nn.Module, tuple[int, int]] = {}

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if layer in records:
                raise UnsupportedModelError(f"{self.layers[layer]} is used twice")
            if not output.requires_grad:
                output.requires_grad_()
            a = inputs[0].clone() if layer in self._overwritten else inputs[0]
            records[layer], versions[layer] = (a, output), (a._version, output._version)
            return output.clone() if layer in self._overwritten else None

        handles = [layer.register_forward_hook(keep) for layer in self.layers]
        try:
            losses = candidate_losses(self.model, self.loss, flat, labels)
        finally:
            for handle in handles:
                handle.remove()
        overwritten = {
            layer for layer, (a, out) in records.items() if (a._version, out._version) != versions[layer]
        }
        if overwritten:
            self._overwritten |= overwritten
            return self._forward(flat, labels)
        return records, losses


def _layers_with_parameters(model: nn.Module) -> dict[nn.Module, str]:
    """Return the layers that hold trained parameters, with their names."""
    layers: dict[nn.Module, str] = {}
    seen: set[nn.Parameter] = set()
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        if type(module) not in FACTORS:
            raise UnsupportedModelError(
                f"{name or 'the model'} ({type(module).__name__}) has parameters of its own"
            )
        if seen & set(own):
            raise UnsupportedModelError(f"{name} shares a parameter with another layer")
        seen |= set(own)
        layers[module] = name
    return layers


def _by_building(
    factors: dict[str, Factors], view: View, names: Sequence[str], count: int, distance: Distance
) -> Float[Tensor, " n"]:
    """Measure gradients that are built, a few candidates' at a time."""
    block = max(1, BUILT_ELEMENTS // sum(view.target[name].numel() for name in names))

    def measure(gradients: Gradients) -> Tensor:
        return plain_distance(gradients, view, distance)

    scores = []
    for start in range(0, count, block):
        rows = slice(start, min(count, start + block))
        built = {
            name: factors[name][rows].build()
            if name in factors
            else view.target[name].new_zeros((rows.stop - start, *view.target[name].shape))
            for name in names
        }
        scores.append(vmap(measure)(built))
    return torch.cat(scores)


def _masked_square(factors: Factors, name: str, mask: Mask) -> Tensor:
    return factors.masked_square(mask.keep[name]) if name in mask.keep else factors.square()


def _any(gradients: dict[str, Tensor]) -> Tensor:
    return next(iter(gradients.values()))
