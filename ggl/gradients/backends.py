"""Which backend scores: the one that was named, or the fastest that agrees with the sequential one."""

import warnings
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ggl.base.errors import InputError, cause
from ggl.gradients.distance import Distance, find_distance
from ggl.gradients.layerwise import Layerwise, UnsupportedModelError
from ggl.gradients.local import LocalTraining
from ggl.gradients.reference import Sequential, Vmap
from ggl.gradients.sampled import draw_noise
from ggl.gradients.sketch import SketchAsked
from ggl.gradients.view import View
from ggl.victims.losses import Loss

__all__ = ["BACKENDS", "Backend", "BackendWarning", "Backends"]

BACKENDS = ("auto", "layerwise", "sequential", "vmap")
AGREEMENT = 1e-3
"""Relative difference from the sequential backend at which `auto` refuses a faster one."""


class BackendWarning(UserWarning):
    """The oracle took a slower backend than it wanted, and says why."""


@runtime_checkable
class Backend(Protocol):
    """Scores candidates (n, b, c, h, w), counts[k] in a row against views[k], on a model of its own."""

    model: nn.Module

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor:
        """Return the candidates' distances (n,)."""
        ...

    def sketch(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], asked: SketchAsked
    ) -> Tensor:
        """Return (n, 1 + parts · m): the distances, then the sketches of what is compared."""
        ...


class Backends:
    """The backends of one victim, its loss and its clients' local steps; None where they take one.

    Attributes:
        reference: the sequential backend, which makes what a client shares, too.
    """

    def __init__(self, model: nn.Module, loss: Loss, local: LocalTraining | None) -> None:
        self.model, self.loss, self.local = model, loss, local
        self.reference = Sequential(model, loss, local)

    def make(self, name: str) -> Backend:
        """Return the backend of that name.

        Raises:
            InputError: "layerwise", where it can't take the victim or its local steps.
        """
        if name == "sequential":
            return self.reference
        if name == "vmap":
            return Vmap(self.model, self.loss, self.local)
        if self.local is not None:
            why = f"a step of {self.local.rule.name}, which is not the gradient"
            if self.local.steps > 1:
                why = (
                    f"{self.local.steps} local steps, after the first of which every candidate has weights "
                    "of its own"
                )
            raise InputError(f"the layerwise backend can't take {why}; use backend='auto' or 'vmap'")
        try:
            return Layerwise(self.model, self.loss)
        except UnsupportedModelError as error:
            raise InputError(
                f"the layerwise backend can't take this victim: {error}; use backend='auto'"
            ) from error

    def choose(self, images: Tensor, labels: Tensor) -> tuple[str, Backend]:
        """Return the fastest backend that agrees with the sequential one on two probes, and its name.

        Args:
            images: (1, b, c, h, w), for their shape alone.
            labels: (1, b) or (1, b, k).
        """
        draw_noise(self.reference.model, 0)
        random = torch.Generator().manual_seed(0)
        probes = torch.rand((3, *images.shape[1:]), generator=random).to(images)
        labels = labels.detach()
        with torch.enable_grad():
            view = View(self.reference.shared(probes[2], labels[0]))
        arguments = (probes[:2], labels.expand(2, *labels.shape[1:]), [view], [2], find_distance("l2"))
        with torch.enable_grad():
            expected = self.reference.score(*arguments)
        reasons = []
        for name in ("layerwise", "vmap") if self.local is None else ("vmap",):
            try:
                backend = self.make(name)
                draw_noise(backend.model, 0)
                with torch.enable_grad():
                    found = backend.score(*arguments)
                error = ((found - expected).abs() / expected).max().item()
            except Exception as failure:  # noqa: BLE001  a victim that runs alone may raise anything here
                reasons.append(f"{name}: {failure if isinstance(failure, InputError) else cause(failure)}")
                continue
            if error <= AGREEMENT:
                break
            reasons.append(f"{name}: differs from the sequential backend by {error:.1e}")
        else:
            name, backend = "sequential", self.reference
        if reasons:
            warnings.warn(
                f"scoring by the {name} backend ({'; '.join(reasons)})", BackendWarning, stacklevel=4
            )
        return name, backend
