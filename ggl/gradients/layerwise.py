"""The fast backend: one batched forward and backward for the whole population.

Hooks keep each layer's input and output; the output gradients come from one backward pass that
never reaches a parameter. Inner products and norms are then read off each layer's factors.
"""

import copy
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from ggl.base.errors import InputError
from ggl.gradients.distance import Distance, Moments, distance_from_moments, plain_distance
from ggl.gradients.factors import Factors
from ggl.gradients.layers import FACTORS, CandidateBatchNorm, with_candidate_batch_norm
from ggl.gradients.loss import candidate_losses
from ggl.gradients.sampled import Sampled, global_noise
from ggl.gradients.sketch import Sketch, SketchAsked
from ggl.gradients.view import Gradients, Mask, View
from ggl.victims.losses import Loss

__all__ = ["Layerwise", "UnsupportedModelError"]


BUILT_ELEMENTS = 2**24
"""Gradient coordinates that are held at once for steps that need them (64 MiB of float32)."""


class UnsupportedModelError(InputError):
    """The model does something whose gradient the layerwise backend cannot take apart."""


class Layerwise:
    """Scores candidates layer by layer, without whole gradients.

    Raises `UnsupportedModelError` at construction for a parameter outside the known layers or shared by
    two, and on scoring for a layer that is used twice or mixes images, and for a victim that draws from the
    global random streams, where candidates in one pass would meet noise of their own.
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
        records, errors = self._record(images, labels, views)
        factors = self._factors(records, errors, (len(images), images.shape[1]), images.requires_grad)
        return self._scores(factors, views, counts, distance)

    def sketch(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], asked: SketchAsked
    ) -> Tensor:
        """Return distances and sketches (n, 1 + parts · m) of images (n, b, c, h, w)."""
        records, errors = self._record(images, labels, views)
        n, b = images.shape[:2]
        whole = self._factors(records, errors, (n, b), images.requires_grad)
        apart = asked.apart and b > 1
        parts = self._factors(records, errors, (n * b, 1), images.requires_grad) if apart else whole
        each, start, found = b if apart else 1, 0, []
        for view, count in zip(views, counts, strict=True):
            rows = slice(each * start, each * (start + count))
            found.append(
                _sketches({name: f[rows] for name, f in parts.items()}, view, asked.sketch, each * count)
            )
            start += count
        scores = self._scores(whole, views, counts, asked.distance)
        return torch.cat([scores[:, None], torch.cat(found).view(n, -1).to(scores.dtype)], dim=1)

    def _scores(
        self,
        factors: dict[str, Factors],
        views: Sequence[View],
        counts: Sequence[int],
        distance: Distance,
    ) -> Tensor:
        scores, start = [], 0
        for view, count in zip(views, counts, strict=True):
            rows = slice(start, start + count)
            parts = {name: f[rows] for name, f in factors.items()}
            names = self._entering(view)
            if view.takes_moments:
                moments = self._moments(parts, view, names, count)
                scores.append(distance_from_moments(moments, view, names, distance))
            else:
                scores.append(_by_building(parts, view, names, count, distance))
            start += count
        return torch.cat(scores)

    def _entering(self, view: View) -> list[str]:
        """Return the parameters that a view looks at."""
        return [name for name in self.names if view.needs_ignored or name not in view.ignored]

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

    def _record(
        self, images: Tensor, labels: Tensor, views: Sequence[View]
    ) -> tuple[dict[nn.Module, tuple[Tensor, Tensor]], Sequence[Tensor]]:
        """Return the input and output of every layer that views look at, and the outputs' gradients.

        Of the last layer alone no backward pass goes further than to the logits, and no graph is kept.
        """
        entering = {name.rpartition(".")[0] for view in views for name in self._entering(view)}
        layers = {layer for layer, name in self.layers.items() if name in entering}
        flat = images.flatten(0, 1)
        if not flat.requires_grad and len(layers) == len(self.layers):
            flat = flat.detach().requires_grad_()
        records, losses = self._forward(flat, labels, layers)
        errors = torch.autograd.grad(
            losses.sum(),
            [output for _, output in records.values()],
            create_graph=images.requires_grad or labels.requires_grad,
            materialize_grads=True,
        )
        for layer, (inputs, output) in records.items():
            if len(output) != len(flat) or len(inputs) != len(flat):
                raise UnsupportedModelError(f"{self.layers[layer]} mixes images")
        return records, errors

    def _factors(
        self,
        records: dict[nn.Module, tuple[Tensor, Tensor]],
        errors: Sequence[Tensor],
        batch: tuple[int, int],
        differentiable: bool,
    ) -> dict[str, Factors]:
        """Return the factors of every parameter that the forward pass used, of candidates of a batch each."""
        factors: dict[str, Factors] = {}
        for (layer, (inputs, _)), error in zip(records.items(), errors, strict=True):
            if not differentiable:
                inputs = inputs.detach()
            if inputs.is_floating_point():
                inputs = inputs.to(error.dtype)
            parts = FACTORS[type(layer)](layer, inputs.unflatten(0, batch), error.unflatten(0, batch))
            prefix = f"{self.layers[layer]}." if self.layers[layer] else ""
            factors |= {f"{prefix}{name}": part for name, part in parts.items()}
        return factors

    def _forward(
        self, flat: Tensor, labels: Tensor, layers: Collection[nn.Module]
    ) -> tuple[dict[nn.Module, tuple[Tensor, Tensor]], Tensor]:
        """Run the model with hooks; run it again with copies where something was overwritten in place."""
        for module in self.model.modules():
            if isinstance(module, CandidateBatchNorm | Sampled):
                module.batch = labels.shape[1]
        records: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        versions: dict[nn.Module, tuple[int, int]] = {}

        def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if layer in records:
                raise UnsupportedModelError(f"{self.layers[layer]} is used twice")
            is_leaf = not output.requires_grad
            if is_leaf:
                output.requires_grad_()
            a = inputs[0].clone() if layer in self._overwritten else inputs[0]
            records[layer], versions[layer] = (a, output), (a._version, output._version)
            return output.clone() if is_leaf or layer in self._overwritten else None

        handles = [layer.register_forward_hook(keep) for layer in layers]
        try:
            losses = candidate_losses(self.model, self.loss, flat, labels)
        finally:
            for handle in handles:
                handle.remove()
        noise = global_noise(self.model)
        if noise is not None and noise.by_rows:
            raise UnsupportedModelError("its forward pass draws from the global random streams")
        overwritten = {
            layer for layer, (a, out) in records.items() if (a._version, out._version) != versions[layer]
        }
        if overwritten:
            self._overwritten |= overwritten
            return self._forward(flat, labels, layers)
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


def _sketches(factors: dict[str, Factors], view: View, sketch: Sketch, count: int) -> Float[Tensor, "n m"]:
    """Return the sketches of what a view compares of gradients, built where the view needs them."""
    if not view.is_linear:
        names = [name for name in view.target if view.needs_ignored or name not in view.ignored]
        built = _built(factors, view, names, slice(0, count))
        return vmap(lambda gradients: sketch.apply(view.apply(gradients)))(built)
    parts, keep = [], view.mask.keep if view.mask else {}
    for name in sketch.names:
        target = view.target[name]
        if name not in factors:
            parts.append(sketch.part(name, target.new_zeros((count, *target.shape))))
        elif name in keep:
            blocks = [sketch.part(name, block.build() * keep[name]) for block in factors[name].blocks()]
            parts.append(torch.cat(blocks))
        elif name in sketch.probes:
            parts.append(factors[name].probe(*sketch.probes[name]).flatten(1))
        else:
            parts.append(factors[name].build().flatten(1))
    return torch.cat([part.to(_any(view.target).dtype) for part in parts], dim=1)


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
        scores.append(vmap(measure)(_built(factors, view, names, rows)))
    return torch.cat(scores)


def _built(factors: dict[str, Factors], view: View, names: Sequence[str], rows: slice) -> Gradients:
    """Return gradients (n, *shape) of some candidates; zeros of parameters that were not used."""
    return {
        name: factors[name][rows].build()
        if name in factors
        else view.target[name].new_zeros((rows.stop - rows.start, *view.target[name].shape))
        for name in names
    }


def _masked_square(factors: Factors, name: str, mask: Mask) -> Tensor:
    return factors.masked_square(mask.keep[name]) if name in mask.keep else factors.square()


def _any(gradients: dict[str, Tensor]) -> Tensor:
    return next(iter(gradients.values()))
