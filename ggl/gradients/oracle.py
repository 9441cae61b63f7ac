"""The gradient oracle: what a client shares, and how near every candidate's gradient comes."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ggl.base.errors import InputError, users_code
from ggl.base.random import stream_seed
from ggl.base.registry import unknown_name
from ggl.gradients.backends import BACKENDS, Backend, Backends, BackendWarning
from ggl.gradients.checks import (
    check_finite,
    check_gradient,
    check_labels,
    check_target,
    check_width,
)
from ggl.gradients.chunks import Chunks, overlaps
from ggl.gradients.distance import find_distance
from ggl.gradients.examination import Examined, examine, prepared, probe_images
from ggl.gradients.layerwise import UnsupportedModelError
from ggl.gradients.local import LocalTraining, refuse_drawing, refuse_sampled
from ggl.gradients.reference import Sequential
from ggl.gradients.sampled import Trial, digest, draw_noise, sampled_layers
from ggl.gradients.view import Gradients, View
from ggl.victims.losses import Loss, classes_of_outputs, load_loss

__all__ = ["BackendWarning", "GradientOracle", "check_finite", "check_gradient"]

DEFAULT_TRIAL = Trial()

Model: TypeAlias = nn.Module


class GradientOracle:
    """Observes a victim's gradients and scores candidates against them.

    Args:
        model: the victim, from images (n, c, h, w) to logits (n, classes). It is copied as it stands,
            mode included: batch normalization in train mode uses each candidate's own batch, and whatever
            it draws, in dropout layers or from the global random streams, is drawn by seed.
        loss: a name as `ggl.load_loss` reads it, or a function from logits and labels to losses (n,), whose
            mean over a batch is the client's loss, or to one number, the client's loss itself.
        output: which of several outputs the logits are, by name or number; by default "logits", or the only
            tensor.
        local: the client's local steps. What it shares then is its update in units of gradients,
            (w_before - w_after) / learning rate, and a candidate's gradient is the update that it makes in
            the same steps. None, and one plain step on the whole batch, is the gradient itself.
        backend: "layerwise" (one pass for all candidates), "vmap" (any model, and several local steps),
            "sequential" (a loop), or "auto": the first of these that can take the model and agrees with the
            last on a probe.
        precision: "float32" keeps the model's own dtype; "bfloat16" scores under autocast, while
            `observe` stays exact.
        chunk_size: images in one pass; halved on out-of-memory. None starts from the device's default.

    Raises:
        InputError: an unknown precision, a TorchScript victim, a model or local steps that "layerwise" can't
            take, or several local steps of a victim that samples.
        UnknownNameError: an unknown backend or loss.

    Examples:
        >>> victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
        >>> oracle = ggl.GradientOracle(victim)
        >>> data = ggl.load_dataset("fashion-mnist-heldout")
        >>> shared = oracle.observe(data.images[:1], data.labels[:1])
        >>> losses = oracle.score(data.images[:3, None], data.labels[:1], shared)
        >>> losses.shape, int(losses.argmin())
        (torch.Size([3]), 0)
    """

    def __init__(
        self,
        model: Model,
        *,
        loss: str | Loss = "cross-entropy",
        output: str | None = None,
        local: LocalTraining | None = None,
        backend: str = "auto",
        precision: str = "float32",
        chunk_size: int | None = None,
    ) -> None:
        if backend not in BACKENDS:
            raise unknown_name("backend", backend, list(BACKENDS))
        if precision not in ("float32", "bfloat16"):
            raise InputError(f"expected precision float32 or bfloat16, found {precision!r}")
        self.model = prepared(model, output)
        self._samples = bool(sampled_layers(self.model))
        self.precision, self.loss, self.local = precision, load_loss(loss), local
        steps = None if local is None or local.is_gradient else local
        if steps is not None:
            refuse_sampled(self.model, steps)
        self._backends = Backends(self.model, self.loss, None if steps is None else steps.attackers)
        self._reference = Sequential(self.model, self.loss, steps)
        parameter = next(iter(self._reference.parameters.values()), None)
        if parameter is None:
            raise InputError("the victim has no parameter that requires a gradient: nothing is shared")
        self.device, self.dtype = parameter.device, parameter.dtype
        self.chunks = Chunks(self.device, chunk_size)
        self._backend: Backend | None = None if backend == "auto" else self._backends.make(backend)
        self.backend = backend
        self._examined: Examined | None = None

    def observe(
        self,
        images: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"] | Float[Tensor, "b k"],
        *,
        seed: int = 0,
    ) -> Gradients:
        """Return what a client with this batch would share, its gradient or its update, by parameter name.

        Args:
            images: the client's batch, in [0, 1].
            labels: their classes, or the probabilities of all k classes; with bce or mse what every output
                should be.
            seed: of the noise that the victim draws, if it draws any.

        Raises:
            InputError: labels that are out of the model's range or not one an image, or a local minibatch
                that is larger than the batch.
            GradientError: the gradient is zero or not finite.
            UserCodeError: the victim or its loss raised.
        """
        return check_gradient(self.gradient(images, labels, seed=seed), self._what)

    def gradient(
        self,
        images: Float[Tensor, "b c h w"],
        labels: Int[Tensor, " b"] | Float[Tensor, "b k"],
        *,
        seed: int = 0,
    ) -> Gradients:
        """Return what `observe` does, zero or not: a batch that is fitted exactly has nothing to say.

        Raises:
            InputError: as `observe`.
            GradientError: the gradient is not finite.
        """
        images, labels = images.to(self.device, self.dtype), self._placed(labels)
        examined = self._examine(images)
        check_labels(labels, len(images), examined.outputs, self.loss)
        draw_noise(self._reference.model, stream_seed(seed, "client"))
        taken = self._taken(len(images))
        with torch.enable_grad(), users_code("the victim"):
            shared = self._reference.shared(images[taken], labels[taken])
        return check_finite(shared, self._what)

    def score(
        self,
        candidates: Float[Tensor, "p *b c h w"],
        labels: Int[Tensor, " b2"] | Float[Tensor, "b2 k"],
        shared: Gradients | View,
        distance: str = "l2",
        trial: Trial = DEFAULT_TRIAL,
    ) -> Float[Tensor, " p"]:
        """Return the distance of every candidate's gradient to `shared`.

        It is differentiable in the candidates, and in the labels where these are probabilities.

        Args:
            candidates: (p, c, h, w) where the client's batch is one image, or (p, b, c, h, w).
            labels: the batch's classes (b,) or probabilities (b, k), the same for every candidate.
            shared: the observed gradient, or a defence's view of it.
            distance: "l2" (squared), "cosine" or "orthogonal".
            trial: how noise is drawn on a victim that samples.

        Raises:
            InputError: shapes, parameter names or labels that do not fit.
        """
        if candidates.dim() == 4:
            candidates = candidates[:, None]
        if labels.shape[:1] != candidates.shape[1:2]:
            raise InputError(
                f"expected one label for each of {candidates.shape[1]} images, "
                f"found labels of shape {tuple(labels.shape)}"
            )
        view = self.prepare(shared if isinstance(shared, View) else View(shared))
        every = labels.expand(len(candidates), *labels.shape)
        return self.score_groups(candidates, every, [view], [len(candidates)], distance, trial)

    def score_groups(
        self,
        candidates: Float[Tensor, "p b c h w"],
        labels: Int[Tensor, "p b"] | Float[Tensor, "p b k"],
        views: Sequence[View],
        counts: Sequence[int],
        distance: str = "l2",
        trial: Trial = DEFAULT_TRIAL,
    ) -> Float[Tensor, " p"]:
        """Score several populations at once: counts[k] candidates in a row against prepared views[k].

        Probabilities as labels are taken as they are, on the simplex or not: a search may leave it.
        """
        measure = find_distance(distance)

        def score(
            backend: Backend, x: Tensor, y: Tensor, views: Sequence[View], counts: Sequence[int]
        ) -> Tensor:
            return backend.score(x, y, views, counts, measure)

        return self.map_groups(candidates, labels, views, counts, trial, score)

    def map_groups(
        self,
        candidates: Tensor,
        labels: Tensor,
        views: Sequence[View],
        counts: Sequence[int],
        trial: Trial,
        call: Callable[[Backend, Tensor, Tensor, Sequence[View], Sequence[int]], Tensor],
    ) -> Tensor:
        """Return what `call` makes of the backend and populations, a chunk at a time, concatenated."""
        candidates, labels = candidates.to(self.device, self.dtype), self._placed(labels)
        check_width(labels, self._examine(candidates[0]).outputs)
        taken = self._taken(candidates.shape[1])
        candidates, labels = candidates[:, taken], labels[:, taken]
        if self._backend is None:
            with users_code("the victim"):
                self.backend, self._backend = self._backends.choose(candidates[:1], labels[:1])
        backend = self._backend
        if self.is_sampled:
            seed = stream_seed(0, "trial", digest(candidates) if trial.redrawn else "fixed")
            draw_noise(backend.model, seed, regularized=trial.regularized)
            candidates = candidates.repeat_interleave(trial.draws, dim=1)
            labels = labels.repeat_interleave(trial.draws, dim=1)

        def part(rows: slice) -> Tensor:
            chosen, part_counts = overlaps(counts, rows)
            part_views = [views[k] for k in chosen]
            with torch.enable_grad(), self._autocast():
                return call(backend, candidates[rows], labels[rows], part_views, part_counts)

        try:
            with users_code("the victim"):
                return self.chunks.map(len(candidates), candidates.shape[1], part)
        except UnsupportedModelError as error:
            raise InputError(
                f"the layerwise backend can't take this victim: {error}; use backend='auto'"
            ) from error

    @property
    def is_sampled(self) -> bool:
        """Whether the victim draws noise in its passes; from global streams, once it has met images."""
        drew = self._examined is not None and self._examined.draws
        return drew or self._samples

    @property
    def has_image_losses(self) -> bool:
        """Whether the loss gives every image's own; taken for granted until the victim has met images."""
        return self._examined is None or self._examined.has_image_losses

    @property
    def _what(self) -> str:
        """What a client shares, in words."""
        if self.local is None or self.local.is_gradient:
            return "the victim's gradient"
        by = "" if self.local.optimizer == "sgd" else f" by {self.local.rule.name}"
        return (
            f"the update of {self.local.steps} local steps{by} at learning rate {self.local.learning_rate:g}"
        )

    def _taken(self, batch: int) -> slice:
        """Return the images that enter: of a single plain step its minibatch, otherwise all."""
        if self.local is None:
            return slice(None)
        first = self.local.rows(0, batch)
        return slice(len(first)) if self.local.is_gradient else slice(None)

    def _placed(self, labels: Tensor) -> Tensor:
        return labels.to(self.device, self.dtype) if labels.is_floating_point() else labels.to(self.device)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def count_classes(self, image_shape: tuple[int, int, int]) -> int:
        """Return how many classes the victim tells apart in images of a shape (c, h, w).

        Raises:
            InputError: it cannot take such images, returns no logits, or returns others every time.
        """
        like = torch.zeros(1, *image_shape, device=self.device, dtype=self.dtype)
        return classes_of_outputs(self._examine(like).outputs)

    def _examine(self, images: Tensor) -> Examined:
        """Look at the victim, the first time that it meets images."""
        if self._examined is None:
            channels, height, width = images.shape[1:]
            probe = probe_images(images, (channels, height, width))
            self._examined = examine(self.model, self.loss, probe)
            if self._examined.draws and self.local is not None and not self.local.is_gradient:
                refuse_drawing("its forward pass", self.local)
        return self._examined

    def prepare(self, view: View) -> View:
        """Return the view on the victim's device and in its dtype, its parameters checked.

        Raises:
            InputError: a parameter of the victim is missing, strange, or of another shape.
        """
        check_target(view.target, self._reference.parameters)
        return view.to(self.device, self.dtype)
