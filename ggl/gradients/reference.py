"""The two plain backends: a loop over candidates, and `torch.func.vmap` over whole gradients."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap

from ggl.gradients.distance import Distance, plain_distance
from ggl.gradients.loss import Loss, candidate_losses
from ggl.gradients.sampled import take_penalties
from ggl.gradients.view import Gradients, View

__all__ = ["Sequential", "Vmap"]


CHUNK_ELEMENTS = 2**26
"""How many gradient coordinates `Vmap` holds at once (256 MiB of float32)."""


class Sequential:
    """One candidate after the other by autograd: slow and obviously right."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = copy.deepcopy(model), loss
        self.parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def gradient(self, images: Tensor, labels: Tensor, *, create_graph: bool = False) -> Gradients:
        """Return the gradient of the mean loss on images (b, c, h, w); unused parameters get zeros."""
        loss = candidate_losses(self.model, self.loss, images, labels[None]).sum()
        gradients = torch.autograd.grad(
            loss, list(self.parameters.values()), create_graph=create_graph, materialize_grads=True
        )
        return dict(zip(self.parameters, gradients, strict=True))

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        owners = [view for view, count in zip(views, counts, strict=True) for _ in range(count)]
        scores = []
        for x, y, view in zip(images, labels, owners, strict=True):
            gradient = self.gradient(x, y, create_graph=images.requires_grad)
            scores.append(plain_distance(gradient, view, distance))
        return torch.stack(scores)


class Vmap:
    """All candidates at once by `torch.func`: any model without data-dependent control flow."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = copy.deepcopy(model), loss
        for module in self.model.modules():
            if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm):
                replace_all_batch_norm_modules_(module)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = {name: p.detach() for name, p in trained.items()}
        self.chunk = max(1, CHUNK_ELEMENTS // sum(p.numel() for p in trained.values()))

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the distances of images (n, b, c, h, w), counts[k] in a row against views[k]."""
        parts = zip(views, images.split(list(counts)), labels.split(list(counts)), strict=True)
        return torch.cat(
            [vmap(self._scorer(view, distance), chunk_size=self.chunk)(x, y) for view, x, y in parts]
        )

    def _scorer(self, view: View, distance: Distance) -> Callable[[Tensor, Tensor], Tensor]:
        def loss(parameters: Gradients, x: Tensor, y: Tensor) -> Tensor:
            logits = functional_call(self.model, parameters, (x,))
            return take_penalties(self.model, self.loss(logits, y)).mean()

        def score(x: Tensor, y: Tensor) -> Tensor:
            return plain_distance(grad(loss)(self.parameters, x, y), view, distance)

        return score
