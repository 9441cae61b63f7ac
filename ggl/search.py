"""The one search loop: many searches side by side, each with its own strategy and its own budget."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.base.errors import CheckpointError, GradientError, InputError, WeightsError
from ggl.base.weights import load_tensors_and_metadata, save_tensors
from ggl.generators import Prior
from ggl.gradients.chunks import Chunks, overlaps
from ggl.optimizers import Strategy

__all__ = ["Objective", "Progress", "Search", "SearchResult", "check_budget", "fingerprint"]

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called with the evaluations done, those planned, and the mean best loss over the searches."""

CHECKPOINT_SECONDS = 5.0


@runtime_checkable
class Objective(Protocol):
    """What a search minimizes."""

    def __call__(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """Return losses (n,) of images (n, b, c, h, w) with labels (n, b).

        counts[i] of them in a row belong to search chosen[i].
        """
        ...


@dataclass(frozen=True)
class SearchResult:
    """The best that one search found, its loss evaluated anew.

    Attributes:
        images: (b, c, h, w) in [0, 1].
        latents: (b, d).
        loss: of the winner, penalty included.
        history: (evaluations, best loss so far) after every generation.
        evaluations: of the objective.
        backward_passes: through the objective, for strategies that need gradients.
    """

    images: Tensor
    latents: Tensor
    loss: float
    history: list[tuple[int, float]]
    evaluations: int
    backward_passes: int


@dataclass
class _Best:
    z: Tensor
    loss: float = float("inf")
    history: list[float] = field(default_factory=list)


class Search:
    """Searches a prior's latents for several targets at once, generation by generation.

    Args:
        prior: decodes latents.
        labels: (k, b), the labels of each search's b images.
        objective: what is minimized, with `penalty` times the prior's mean latent penalty.
        strategies: one a search, over b · d dimensions, all of one batch size.
        budget: objective evaluations of each search; whole generations only.
        penalty: weight of the prior's penalty.
        device: where images are decoded and scored.
        checkpoint: a file that a killed search is resumed from; it stays when the search is done.
        identity: what the checkpoint must have been made for.

    Raises:
        InputError: a budget below one generation.
        CheckpointError: the checkpoint belongs to another search or is damaged.
        GradientError: a search met no finite loss at all.
    """

    def __init__(
        self,
        prior: Prior,
        labels: Int[Tensor, "k b"],
        objective: Objective,
        strategies: Sequence[Strategy],
        *,
        budget: int,
        penalty: float,
        device: torch.device,
        checkpoint: Path | None = None,
        identity: str = "",
    ) -> None:
        size = strategies[0].batch_size
        check_budget(budget, strategies[0])
        self.prior, self.labels, self.objective = prior.to(device), labels.to(device), objective
        self.strategies, self.penalty, self.device = list(strategies), penalty, device
        self.generations, self.done = budget // size, 0
        self.checkpoint, self.identity = checkpoint, identity
        self.best = [_Best(torch.zeros(s.latent_dim, dtype=torch.float64)) for s in strategies]
        self.chunks = Chunks(device)
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)

    def run(self, progress: Progress | None = None) -> list[SearchResult]:
        """Search to the end of the budget and return every search's result."""
        saved = time.monotonic()
        while self.done < self.generations:
            self._generation()
            if self.checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                self._save(self.checkpoint)
                saved = time.monotonic()
            if progress is not None:
                progress(*self._progress())
        if self.checkpoint is not None:
            self._save(self.checkpoint)
        if any(best.loss == float("inf") for best in self.best):
            raise GradientError(
                "no candidate of a search had a finite loss: check the victim and the defense"
            )
        return self._results()

    def _generation(self) -> None:
        asked = [strategy.ask() for strategy in self.strategies]
        needs_gradient = self.strategies[0].needs_gradient
        losses, gradients = self._evaluate(torch.cat(asked), needs_gradient)
        counts = [len(z) for z in asked]
        parts = zip(
            self.strategies, self.best, asked, losses.split(counts), gradients.split(counts), strict=True
        )
        for strategy, best, z, loss, gradient in parts:
            strategy.tell(z, loss, gradient if needs_gradient else None)
            finite = torch.where(torch.isfinite(loss), loss, torch.inf)
            if finite.min() < best.loss:
                best.loss, best.z = float(finite.min()), z[finite.argmin()]
            best.history.append(best.loss)
        self.done += 1

    def _evaluate(self, z: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor]:
        """Return the losses (n,) and their gradients (n, d), which are empty where none is needed."""
        counts = [s.batch_size for s in self.strategies]
        owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        gradients: list[Tensor] = []

        def evaluate(rows: slice) -> Tensor:
            latents = z[rows].to(self.device, torch.float32).requires_grad_(needs_gradient)
            labels = self.labels[owner[rows].to(self.device)]
            with torch.set_grad_enabled(needs_gradient):
                loss = self._loss(latents, labels, *overlaps(counts, rows))
            if needs_gradient:
                gradients.append(torch.autograd.grad(loss.sum(), latents)[0].cpu())
            return loss.detach().to("cpu", torch.float64)

        losses = self.chunks.map(len(z), self.labels.shape[1], evaluate)
        return losses, torch.cat(gradients) if needs_gradient else torch.empty(len(z), 0)

    def _loss(
        self, latents: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Float[Tensor, " n"]:
        images, per_image = self._decode(latents, labels)
        loss = self.objective(images, labels, chosen, counts)
        if self.penalty:
            loss = loss + self.penalty * self.prior.penalty(per_image).view(labels.shape).mean(1)
        return loss

    def _decode(self, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (n, b, c, h, w) and the latents of each (n · b, d) of latents (n, b · d)."""
        per_image = latents.reshape(labels.numel(), self.prior.latent_dim)
        return self.prior.decode(per_image, labels.flatten()).unflatten(0, labels.shape), per_image

    @torch.no_grad()
    def _results(self) -> list[SearchResult]:
        results = []
        size = self.strategies[0].batch_size
        passes = self.done * size if self.strategies[0].needs_gradient else 0
        for k, best in enumerate(self.best):
            latents = best.z[None].to(self.device, torch.float32)
            images, per_image = self._decode(latents, self.labels[k : k + 1])
            loss = float(self._loss(latents, self.labels[k : k + 1], [k], [1]))
            history = [((i + 1) * size, value) for i, value in enumerate(best.history)]
            results.append(
                SearchResult(images[0].cpu(), per_image.cpu(), loss, history, self.done * size, passes)
            )
        return results

    def _progress(self) -> tuple[int, int, float]:
        each = self.strategies[0].batch_size * len(self.strategies)
        mean = sum(best.loss for best in self.best) / len(self.best)
        return self.done * each, self.generations * each, mean

    def _save(self, path: Path) -> None:
        state = {"done": torch.tensor(self.done)}
        for k, (strategy, best) in enumerate(zip(self.strategies, self.best, strict=True)):
            state[f"{k}.best.z"] = best.z
            state[f"{k}.best.loss"] = torch.tensor(best.loss, dtype=torch.float64)
            state[f"{k}.best.history"] = torch.tensor(best.history, dtype=torch.float64)
            state |= {f"{k}.strategy.{name}": tensor for name, tensor in strategy.state_dict().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, state, {"identity": self.identity})

    def _load(self, path: Path) -> None:
        try:
            state, metadata = load_tensors_and_metadata(path)
        except WeightsError as error:
            raise CheckpointError(f"{error}; delete it to start anew") from error
        if metadata.get("identity") != self.identity:
            raise CheckpointError(
                f"{path}: expected a checkpoint of this search, found one of other settings or images; "
                "delete it or choose another folder"
            )
        try:
            self._restore(state)
        except KeyError as error:
            raise CheckpointError(
                f"{path}: expected a whole checkpoint, but it lacks {error}; delete it to start anew"
            ) from error

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        self.done = int(state["done"])
        for k, (strategy, best) in enumerate(zip(self.strategies, self.best, strict=True)):
            best.z, best.loss = state[f"{k}.best.z"], float(state[f"{k}.best.loss"])
            best.history = state[f"{k}.best.history"].tolist()
            prefix = f"{k}.strategy."
            strategy.load_state_dict(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in state.items()
                    if name.startswith(prefix)
                }
            )


def check_budget(budget: int, strategy: Strategy) -> None:
    """Raise `InputError` where a budget is below one generation of the strategy."""
    if budget < strategy.batch_size:
        raise InputError(
            f"a budget of {budget} evaluations is below one generation of {strategy.batch_size}; "
            f"give at least {strategy.batch_size}"
        )


def fingerprint(settings: Mapping[str, object], tensors: Sequence[Tensor]) -> str:
    """Return a hash of settings and tensors, by which a checkpoint knows its search again."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
