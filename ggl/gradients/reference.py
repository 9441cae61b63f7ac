"""The two plain backends: a loop over candidates, and `torch.func.vmap` over whole gradients.

Both take several local steps as well: then what they compare is the update that these make.
"""

import contextlib
import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

from ggl.gradients.distance import Distance, plain_distance
from ggl.gradients.local import LocalTraining, local_update
from ggl.gradients.loss import candidate_losses
from ggl.gradients.sampled import take_penalties
from ggl.gradients.sketch import SketchAsked
from ggl.gradients.view import Gradients, View
from ggl.gradients.written_out import NormalizationWrittenOut
from ggl.victims.losses import Loss, losses_of

__all__ = ["Sequential", "Vmap"]


CHUNK_ELEMENTS = 2**26
"""How many gradient coordinates `Vmap` holds at once (256 MiB of float32)."""

STEP_COPIES = 5
"""What local steps hold of every coordinate: weights, gradient, update and an optimizer's state."""


class Sequential:
    """One candidate after the other by autograd: slow and obviously right."""

    def __init__(self, model: nn.Module, loss: Loss, local: LocalTraining | None = None) -> None:
        self.model, self.loss, self.local = copy.deepcopy(model), loss, local
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def gradient(self, images: Tensor, labels: Tensor, *, create_graph: bool = False) -> Gradients:
        """Return the gradient of the mean loss on images (b, c, h, w); unused parameters get zeros."""
        loss = candidate_losses(self.model, self.loss, images, labels[None]).sum()
        return _gradients(loss, dict(self.parameters), create_graph)

    def shared(self, images: Tensor, labels: Tensor, *, create_graph: bool = False) -> Gradients:
        """Return what a client shares: the gradient, or the update that local steps make."""
        if self.local is None:
            return self.gradient(images, labels, create_graph=create_graph)

        def gradient(weights: Gradients, rows: list[int]) -> Gradients:
            logits = functional_call(self.model, weights, (images[rows],))
            found = losses_of(self.loss, logits, labels[rows])
            return _gradients(found.mean(), weights, create_graph)

        return local_update(self.local, dict(self.parameters), len(images), gradient)

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        owners = [view for view, count in zip(views, counts, strict=True) for _ in range(count)]
        scores = []
        for x, y, view in zip(images, labels, owners, strict=True):
            shared = self.shared(x, y, create_graph=images.requires_grad or labels.requires_grad)
            scores.append(plain_distance(shared, view, distance))
        return torch.stack(scores)

    def sketch(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], asked: SketchAsked
    ) -> Tensor:
        """Return distances and sketches (n, 1 + parts · m) of images (n, b, c, h, w)."""
        owners = [view for view, count in zip(views, counts, strict=True) for _ in range(count)]
        rows = zip(images, labels, owners, strict=True)
        return torch.stack([_sketched(self.shared, x, y, view, asked) for x, y, view in rows])


class Vmap:
    """All candidates at once by `torch.func`: any model without data-dependent control flow.

    After the first local step every candidate has weights of its own.
    """

    def __init__(self, model: nn.Module, loss: Loss, local: LocalTraining | None = None) -> None:
        self.model, self.loss, self.local = copy.deepcopy(model), loss, local
        for module in self.model.modules():
            if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
                replace_all_batch_norm_modules_(module)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = {name: p.detach() for name, p in trained.items()}
        held = sum(p.numel() for p in trained.values()) * (1 if local is None else STEP_COPIES)
        self.chunk = max(1, CHUNK_ELEMENTS // held)

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        parts = zip(views, images.split(list(counts)), labels.split(list(counts)), strict=True)
        differentiable = images.requires_grad or labels.requires_grad
        with NormalizationWrittenOut() if differentiable else contextlib.nullcontext():
            return torch.cat([self._each(self._scorer(view, distance))(x, y) for view, x, y in parts])

    def sketch(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], asked: SketchAsked
    ) -> Tensor:
        """Return distances and sketches (n, 1 + parts · m) of images (n, b, c, h, w)."""
        shared, found = self._sharer(), []
        for view, x, y in zip(views, images.split(list(counts)), labels.split(list(counts)), strict=True):

            def row(x: Tensor, y: Tensor, view: View = view) -> Tensor:
                return _sketched(shared, x, y, view, asked)

            found.append(self._each(row)(x, y))
        return torch.cat(found)

    def _each(self, call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        """Return `call` for all candidates, which meet the same noise where the victim draws any."""
        mapped: Callable[[Tensor, Tensor], Tensor] = vmap(call, randomness="same", chunk_size=self.chunk)
        return mapped

    def _scorer(self, view: View, distance: Distance) -> Callable[[Tensor, Tensor], Tensor]:
        shared = self._sharer()

        def score(x: Tensor, y: Tensor) -> Tensor:
            return plain_distance(shared(x, y), view, distance)

        return score

    def _sharer(self) -> Callable[[Tensor, Tensor], Gradients]:
        """Return what a client with images (b, c, h, w) and labels (b,) shares."""

        def loss(parameters: Gradients, x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(self.model, parameters, (x,))
            return take_penalties(self.model, losses_of(self.loss, logits, y)).mean()

        gradient_of: Callable[[Gradients, Tensor, Tensor], Gradients] = grad(loss)

        def shared(x: Tensor, y: Tensor) -> Gradients:
            if self.local is None:
                return gradient_of(self.parameters, x, y)

            def gradient(weights: Gradients, rows: list[int]) -> Gradients:
                return gradient_of(weights, x[rows], y[rows])

            return local_update(self.local, self.parameters, len(x), gradient)

        return shared


def _sketched(
    shared: Callable[[Tensor, Tensor], Gradients], x: Tensor, y: Tensor, view: View, asked: SketchAsked
) -> Tensor:
    """Return the distance of a batch's gradient, then the sketches of its images' shares, or of the whole."""
    size = 1 if asked.apart else len(x)
    found = [shared(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
    whole = {name: torch.stack([g[name] for g in found]).mean(0) for name in found[0]}
    parts = [asked.sketch.apply(view.apply(g)) / len(found) for g in found]
    return torch.cat([plain_distance(whole, view, asked.distance)[None], *parts])


def _gradients(loss: Tensor, weights: Gradients, create_graph: bool) -> Gradients:
    gradients = torch.autograd.grad(
        loss, list(weights.values()), create_graph=create_graph, materialize_grads=True
    )
    return dict(zip(weights, gradients, strict=True))
