"""The gradient oracle: what a client shares, and how near every candidate's gradient comes."""

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import GradientError, InputError
from ggl.base.random import stream_seed
from ggl.base.registry import unknown_name
from ggl.gradients.chunks import Chunks, overlaps
from ggl.gradients.distance import Distance, find_distance
from ggl.gradients.layerwise import Layerwise, UnsupportedModelError
from ggl.gradients.loss import Loss, cross_entropy
from ggl.gradients.reference import Sequential, Vmap
from ggl.gradients.sampled import Trial, draw_noise, sampled_layers
from ggl.gradients.view import Gradients, View

__all__ = ["BackendWarning", "GradientOracle"]

BACKENDS = ("auto", "layerwise", "sequential", "vmap")
AGREEMENT = 1e-3
"""Relative difference from the sequential backend at which `auto` refuses a faster one."""


DEFAULT_TRIAL = Trial()


class BackendWarning(UserWarning):
    """The oracle took a slower backend than it wanted, and says why."""


@runtime_checkable
class Backend(Protocol):
    """Scores candidates (n, b, c, h, w), counts[k] in a row against views[k], on a model of its own."""

    model: nn.Module

    def score(
        self, images: Tensor, labels: Tensor, views: Sequence[View], counts: Sequence[int], distance: Distance
    ) -> Tensor: ...


Model: TypeAlias = nn.Module


class GradientOracle:
    """Observes a victim's gradients and scores candidates against them.

    Args:
        model: the victim, from images (n, c, h, w) to logits (n, classes). It is copied as it stands,
            mode included: batch normalization in train mode uses each candidate's own batch.
        loss: from logits and labels to losses (n,); a client's loss is the mean over its batch.
        backend: "layerwise" (one pass for all candidates), "vmap" (any model), "sequential" (a loop),
            or "auto": the first of these that can take the model and agrees with the last on a probe.
        precision: "float32" keeps the model's own dtype; "bfloat16" scores under autocast, while
            `observe` stays exact.
        chunk_size: images in one pass; halved on out-of-memory. None starts from the device's default.

    Raises:
        InputError: an unknown precision, active dropout, or a model that "layerwise" can't take.
        UnknownNameError: an unknown backend.
    """

    def __init__(
        self,
        model: Model,
        *,
        loss: Loss = cross_entropy,
        backend: str = "auto",
        precision: str = "float32",
        chunk_size: int | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, list(BACKENDS))
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"expected precision float32 or bfloat16, found {precision!r}")
        _refuse_dropout(model)
        self.model = copy.deepcopy(model)
        self.precision, self.loss = precision, loss
        self._reference = Sequential(self.model, loss)
        parameter = next(iter(self._reference.parameters.values()), None)
        if parameter is None:
            raise InputError("the victim has no parameter that requires a gradient: nothing is shared")
        self.device, self.dtype = parameter.device, parameter.dtype
        self.chunks = Chunks(self.device, chunk_size)
        self._backend = None if backend == "auto" else self._make(backend)
        self.backend = backend
        self._classes: int | None = None

    def observe(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> Gradients:
        """Return the gradient that a client with this batch would share, by parameter name.

        Args:
            images: the client's batch, in [0, 1].
            labels: their classes.
            seed: of the noise that the victim's sampled layers draw, if it has any.

        Raises:
            InputError: labels that are out of the model's range or not one an image.
            GradientError: the gradient is zero or not finite.
        """
        return check_gradient(self.gradient(images, labels, seed=seed), "the victim's gradient")

    def gradient(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], *, seed: int = 0
    ) -> Gradients:
        """Return what `observe` does, zero or not: a batch that is fitted exactly has nothing to say.

        Raises:
            InputError: labels that are out of the model's range or not one an image.
            GradientError: the gradient is not finite.
        """
        images, labels = images.to(self.device, self.dtype), labels.to(self.device)
        self._check_labels(images, labels)
        draw_noise(self._reference.model, stream_seed(seed, "client"))
        with torch.enable_grad():
            gradients = self._reference.gradient(images, labels)
        return check_finite(gradients, "the victim's gradient")

    def score(
        self,
        candidates: Float[Tensor, "p *b c h w"],
        labels: Int[Tensor, " b2"],
        shared: Gradients | View,
        distance: str = "l2",
        trial: Trial = DEFAULT_TRIAL,
    ) -> Float[Tensor, " p"]:
        """Return the distance of every candidate's gradient to `shared`; differentiable in the candidates.

        Args:
            candidates: (p, c, h, w) where the client's batch is one image, or (p, b, c, h, w).
            labels: (b,), the batch's labels, the same for every candidate.
            shared: the observed gradient, or a defence's view of it.
            distance: "l2" (squared), "cosine" or "orthogonal".
            trial: how noise is drawn on a victim that samples.

        Raises:
            InputError: shapes, parameter names or labels that do not fit.
        """
        if candidates.dim() == 4:
            candidates = candidates[:, None]
        if labels.shape != candidates.shape[1:2]:
            raise InputError(
                f"expected one label for each of {candidates.shape[1]} images, "
                f"found labels of shape {tuple(labels.shape)}"
            )
        view = self.prepare(shared if isinstance(shared, View) else View(shared))
        every = labels.expand(len(candidates), -1)
        return self.score_groups(candidates, every, [view], [len(candidates)], distance, trial)

    def score_groups(
        self,
        candidates: Float[Tensor, "p b c h w"],
        labels: Int[Tensor, "p b"],
        views: Sequence[View],
        counts: Sequence[int],
        distance: str = "l2",
        trial: Trial = DEFAULT_TRIAL,
    ) -> Float[Tensor, " p"]:
        """Score several populations at once: counts[k] candidates in a row against prepared views[k]."""
        measure = find_distance(distance)
        candidates, labels = candidates.to(self.device, self.dtype), labels.to(self.device)
        if self._backend is None:
            self._backend = self._choose(candidates[:1], labels[:1])
        backend = self._backend
        if self.is_sampled:
            seed = stream_seed(0, "trial", _digest(candidates) if trial.redrawn else "fixed")
            draw_noise(backend.model, seed, regularized=trial.regularized)
            candidates = candidates.repeat_interleave(trial.draws, dim=1)
            labels = labels.repeat_interleave(trial.draws, dim=1)

        def score(rows: slice) -> Tensor:
            chosen, part_counts = overlaps(counts, rows)
            part_views = [views[k] for k in chosen]
            with torch.enable_grad(), self._autocast():
                return backend.score(candidates[rows], labels[rows], part_views, part_counts, measure)

        return self.chunks.map(len(candidates), candidates.shape[1], score)

    @property
    def is_sampled(self) -> bool:
        """Whether the victim draws noise on its forward passes."""
        return bool(sampled_layers(self.model))

    def _make(self, name: str) -> Backend:
        if name == "sequential":
            return self._reference
        if name == "vmap":
            return Vmap(self.model, self.loss)
        try:
            return Layerwise(self.model, self.loss)
        except UnsupportedModelError as error:
            raise InputError(
                f"the layerwise backend can't take this victim: {error}; use backend='auto'"
            ) from error

    def _choose(self, images: Tensor, labels: Tensor) -> Backend:
        """Return the fastest backend that agrees with the sequential one on two probes."""
        draw_noise(self._reference.model, 0)
        random = torch.Generator().manual_seed(0)
        probes = torch.rand((3, *images.shape[1:]), generator=random).to(images)
        with torch.enable_grad():
            view = View(self._reference.gradient(probes[2], labels[0]))
        arguments = (probes[:2], labels.expand(2, -1), [view], [2], find_distance("l2"))
        with torch.enable_grad():
            expected = self._reference.score(*arguments)
        reasons = []
        for name in ("layerwise", "vmap"):
            try:
                backend = self._make(name)
                draw_noise(backend.model, 0)
                with torch.enable_grad():
                    found = backend.score(*arguments)
                error = ((found - expected).abs() / expected).max().item()
            except (InputError, UnsupportedModelError, RuntimeError) as failure:
                reasons.append(f"{name}: {str(failure).splitlines()[0]}")
                continue
            if error <= AGREEMENT:
                break
            reasons.append(f"{name}: differs from the sequential backend by {error:.1e}")
        else:
            name, backend = "sequential", self._reference
        if reasons:
            warnings.warn(
                f"scoring by the {name} backend ({'; '.join(reasons)})", BackendWarning, stacklevel=4
            )
        self.backend = name
        return backend

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def _check_labels(self, images: Tensor, labels: Tensor) -> None:
        if labels.shape != images.shape[:1]:
            raise InputError(
                f"expected {len(images)} labels, one an image, found shape {tuple(labels.shape)}"
            )
        if self._classes is None:
            self._classes = self._count_classes(images[:1])
        wrong = labels[(labels < 0) | (labels >= self._classes)]
        if len(wrong):
            raise InputError(
                f"expected labels from 0 to {self._classes - 1}, which the victim has; found {int(wrong[0])}"
            )

    def _count_classes(self, image: Tensor) -> int:
        try:
            with torch.no_grad():
                logits = copy.deepcopy(self.model).eval()(image)
        except RuntimeError as error:
            raise InputError(
                f"the victim can't take images of shape {tuple(image.shape[1:])}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"expected the victim to return logits (n, classes), found {found}")
        return logits.shape[1]

    def prepare(self, view: View) -> View:
        """Return the view on the victim's device and in its dtype, its parameters checked.

        Raises:
            InputError: a parameter of the victim is missing, strange, or of another shape.
        """
        for name, parameter in self._reference.parameters.items():
            if name not in view.target:
                raise InputError(f"the shared gradient lacks parameter {name!r} of the victim")
            if view.target[name].shape != parameter.shape:
                raise InputError(
                    f"the shared gradient of {name!r} has shape {tuple(view.target[name].shape)}, "
                    f"the victim's parameter {tuple(parameter.shape)}"
                )
        strange = set(view.target) - set(self._reference.parameters)
        if strange:
            raise InputError(f"the shared gradient holds {min(strange)!r}, which the victim has not")
        return view.to(self.device, self.dtype)


def _digest(images: Tensor) -> str:
    """Return what tells populations apart, so that a resumed search meets the noise it would have met."""
    data = images.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_gradient(gradients: Gradients, what: str) -> Gradients:
    """Return the gradient, or raise `GradientError` where it is zero or not finite."""
    check_finite(gradients, what)
    if not any(g.any() for g in gradients.values()):
        raise GradientError(f"{what} is zero: there is nothing to match (a converged victim, dead units?)")
    return gradients


def _refuse_dropout(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0:
            raise InputError(
                f"the victim's dropout {name!r} is active, so that its gradient is random; "
                "call eval() on it or set its p to 0"
            )


def check_finite(gradients: Gradients, what: str) -> Gradients:
    """Return the gradient, or raise `GradientError` where it is not finite."""
    if not all(torch.isfinite(g).all() for g in gradients.values()):
        raise GradientError(f"{what} is not finite: check the victim's weights and the images' range")
    return gradients
