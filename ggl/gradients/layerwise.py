"""The fast backend: one batched forward and backward for the whole population.

Hooks keep each layer's input; the output gradients come from one backward pass that never reaches a
parameter. Inner products and norms are read off each layer's factors while it runs, so that it holds the
gradient of one layer's output at a time.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from ggl.base.errors import InputError
from ggl.gradients.distance import Distance
from ggl.gradients.factors import Factors
from ggl.gradients.layers import FACTORS, CandidateBatchNorm, with_candidate_batch_norm
from ggl.gradients.loss import candidate_losses
from ggl.gradients.readings import Reading, SketchReading, WholeReading, score_reading
from ggl.gradients.sampled import Sampled, global_noise
from ggl.gradients.sketch import Sketch, SketchAsked
from ggl.gradients.view import View
from ggl.victims.losses import Loss

__all__ = ["Layerwise", "UnsupportedModelError"]


FactorsOf: TypeAlias = Callable[[tuple[int, int]], dict[str, Factors]]
"""From how many candidates there are, of how many images, to the factors of one layer's parameters."""


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
        self._batched = [m for m in self.model.modules() if isinstance(m, CandidateBatchNorm | Sampled)]
        self._overwritten: set[nn.Module] = set()

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        n, b = images.shape[:2]
        wanted = [score_reading(view, rows, distance, self.names) for view, rows in _rows(views, counts)]

        def take(factors_of: FactorsOf) -> None:
            factors = factors_of((n, b))
            for reading in wanted:
                reading.take(factors)

        self._read(images, labels, wanted, take)
        return torch.cat([reading.result() for reading in wanted])

    def sketch(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], asked: SketchAsked
    ) -> Tensor:
        """Return distances and sketches (n, 1 + parts · m) of images (n, b, c, h, w)."""
        n, b = images.shape[:2]
        each = b if asked.apart else 1
        every = _rows(views, counts)
        wanted = [score_reading(view, rows, asked.distance, self.names) for view, rows in every]
        seen = [
            _sketch_reading(view, slice(each * rows.start, each * rows.stop), asked.sketch)
            for view, rows in every
        ]

        def take(factors_of: FactorsOf) -> None:
            whole = factors_of((n, b))
            parts = factors_of((n * each, b // each)) if each > 1 else whole
            for reading, sketch in zip(wanted, seen, strict=True):
                reading.take(whole)
                sketch.take(parts)

        self._read(images, labels, [*wanted, *seen], take)
        scores = torch.cat([reading.result() for reading in wanted])
        sketches = torch.cat([sketch.result() for sketch in seen])
        return torch.cat([scores[:, None], sketches.view(n, -1).to(scores.dtype)], dim=1)

    def _read(
        self, images: Tensor, labels: Tensor, readings: Sequence[Reading], take: Callable[[FactorsOf], None]
    ) -> None:
        """Make one forward and backward pass; `take` meets a layer as soon as its output's gradient is known.

        Layers that no reading looks at, or that the loss does not depend on, are not met, and the backward
        pass goes no further than to the first that is: of the last layer alone to the logits.
        """
        differentiable = images.requires_grad or labels.requires_grad
        looked_at = {name.rpartition(".")[0] for reading in readings for name in reading.names}
        layers = [layer for layer, name in self.layers.items() if name in looked_at]
        flat = images.flatten(0, 1)
        if not flat.requires_grad and len(layers) == len(self.layers):
            flat = flat.detach().requires_grad_()
        inputs: dict[nn.Module, Tensor] = {}

        def arrived(layer: nn.Module, error: Tensor) -> None:
            a = inputs.pop(layer)
            take(partial(self._factors, layer, a if differentiable else a.detach(), error))

        edges, handles, losses = self._forward(flat, labels, layers, inputs, arrived)
        try:
            torch.autograd.grad(losses.sum(), _first(edges), create_graph=differentiable, allow_unused=True)
        finally:
            inputs.clear()
            for handle in handles:
                handle.remove()

    def _factors(
        self, layer: nn.Module, inputs: Tensor, error: Tensor, batch: tuple[int, int]
    ) -> dict[str, Factors]:
        """Return the factors of a layer's parameters, of candidates of a batch each."""
        if inputs.is_floating_point():
            inputs = inputs.to(error.dtype)
        parts = FACTORS[type(layer)](
            layer, inputs.view(*batch, *inputs.shape[1:]), error.view(*batch, *error.shape[1:])
        )
        prefix = f"{self.layers[layer]}." if self.layers[layer] else ""
        return {f"{prefix}{name}": part for name, part in parts.items()}

    def _forward(
        self,
        flat: Tensor,
        labels: Tensor,
        layers: Sequence[nn.Module],
        inputs: dict[nn.Module, Tensor],
        arrived: Callable[[nn.Module, Tensor], None],
    ) -> tuple[list[GradientEdge], list[RemovableHandle], Tensor]:
        """Run the model, and again with copies where something was overwritten in place.

        Args:
            flat: images (n · b, c, h, w).
            labels: (n, b) or (n, b, k).
            layers: that are looked at.
            inputs: is filled with the layers' inputs.
            arrived: is called with every layer and its output's gradient in a backward pass.

        Returns:
            where the layers' outputs stand in the graph, what takes `arrived` off again, and the losses.
        """
        for module in self._batched:
            module.batch = labels.shape[1]
        edges: list[GradientEdge] = []
        handles: list[RemovableHandle] = []
        versions: dict[nn.Module, int] = {}

        def keep(layer: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if layer in inputs:
                raise UnsupportedModelError(f"{self.layers[layer]} is used twice")
            a = arguments[0].clone() if layer in self._overwritten else arguments[0]
            if len(output) != len(flat) or len(a) != len(flat):
                raise UnsupportedModelError(f"{self.layers[layer]} mixes images")
            is_leaf = not output.requires_grad
            if is_leaf:
                output.requires_grad_()
            inputs[layer], versions[layer] = a, a._version
            edges.append(get_gradient_edge(output))
            handles.append(output.register_hook(partial(arrived, layer)))
            return output.clone() if is_leaf else None  # nothing may overwrite a leaf

        hooks = [layer.register_forward_hook(keep) for layer in layers]
        try:
            losses = candidate_losses(self.model, self.loss, flat, labels)
        finally:
            for hook in hooks:
                hook.remove()
        noise = global_noise(self.model)
        if noise is not None and noise.by_rows:
            raise UnsupportedModelError("its forward pass draws from the global random streams")
        overwritten = {layer for layer, a in inputs.items() if a._version != versions[layer]}
        if overwritten:
            self._overwritten |= overwritten
            inputs.clear()
            return self._forward(flat, labels, layers, inputs, arrived)
        return edges, handles, losses


def _first(edges: Sequence[GradientEdge]) -> list[GradientEdge]:
    """Return the layers' outputs that are reached from the images without meeting another layer's.

    To ask for their gradients makes autograd pass all others, and it keeps none of them.
    """
    nodes = {edge.node for edge in edges}
    return [edge for edge in edges if _reaches_the_end(edge.node, nodes)]


def _reaches_the_end(node: Node, stops: set[Node]) -> bool:
    """Whether a way from a node towards what it was computed from ends without meeting one of the stops."""
    if not node.next_functions:
        return True
    waiting, met = [node], {node}
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is None or following in stops or following in met:
                continue
            if not following.next_functions:
                return True
            met.add(following)
            waiting.append(following)
    return False


def _rows(views: Sequence[View], counts: Sequence[int]) -> list[tuple[View, slice]]:
    ends = list(itertools.accumulate(counts))
    return [(view, slice(end - count, end)) for view, count, end in zip(views, counts, ends, strict=True)]


def _sketch_reading(view: View, rows: slice, sketch: Sketch) -> Reading:
    if view.is_linear:
        return SketchReading(view, rows, sketch)
    return WholeReading(view, rows, lambda gradients: sketch.apply(view.apply(gradients)), list(view.target))


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
