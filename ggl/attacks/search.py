"""The one search loop: many searches side by side, each with its own strategy and its own budget."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.attacks.label_rules import KNOWN, LabelRule, classes_of
from ggl.attacks.latents import LatentRule
from ggl.base.errors import CheckpointError, GradientError, InputError, WeightsError
from ggl.base.weights import load_tensors_and_metadata, save_tensors
from ggl.generators import Prior
from ggl.gradients.chunks import Chunks, overlaps
from ggl.optimizers import Group
from ggl.optimizers.base import part_of

__all__ = ["Milestone", "Objective", "Progress", "Search", "SearchResult", "check_budget", "fingerprint"]

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called with the evaluations done, those planned, and the mean best loss over the searches."""

CHECKPOINT_SECONDS = 5.0
HALVINGS = 7
"""Of the budget: where a search notes what it has found so far."""

SAVING_SHARE = 20
"""A checkpoint is written at most every so many times as long as the last one took."""


@runtime_checkable
class Objective(Protocol):
    """What a search minimizes."""

    def __call__(
        self, images: Tensor, labels: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """Return losses (n,) of images (n, b, c, h, w) with labels (n, b), or distributions (n, b, k).

        counts[i] of them in a row belong to search chosen[i].
        """
        ...


@dataclass(frozen=True)
class Milestone:
    """What a search had found on its way, at a halving of its budget or right after, and at its end.

    Attributes:
        evaluations: of the objective so far.
        seconds: of wall time so far, a search's share where several ran side by side.
        loss: the best so far.
        latents: (b, d) of that candidate.
    """

    evaluations: int
    seconds: float
    loss: float
    latents: Tensor


@dataclass(frozen=True)
class SearchResult:
    """The best that one search found, its loss evaluated anew.

    Attributes:
        images: (b, c, h, w) in [0, 1].
        latents: (b, d).
        labels: (b,), those known, or found.
        loss: of the winner, penalty included.
        history: (evaluations, best loss so far) after every generation.
        evaluations: of the objective.
        backward_passes: through the objective, for strategies that need gradients.
        milestones: what had been found on the way, the end last; none where nothing was searched.
    """

    images: Tensor
    latents: Tensor
    labels: Tensor
    loss: float
    history: list[tuple[int, float]]
    evaluations: int
    backward_passes: int
    milestones: Sequence[Milestone] = ()


@dataclass
class _Best:
    """The best candidate that one search met, and its loss after every generation."""

    z: Tensor
    loss: float = float("inf")
    history: list[tuple[int, float]] = field(default_factory=list)
    milestones: list[Milestone] = field(default_factory=list)

    @property
    def evaluations(self) -> int:
        return self.history[-1][0] if self.history else 0

    def take(self, z: Tensor, loss: Tensor) -> None:
        """Note a generation's evaluations, and its best candidate where that is better."""
        finite = torch.where(torch.isfinite(loss), loss, torch.inf)
        if finite.min() < self.loss:
            self.loss, self.z = float(finite.min()), z[finite.argmin()].cpu()
        self.history.append((self.evaluations + len(z), self.loss))

    def mark(self, budget: int, seconds: float) -> None:
        """Note the best so far, in searched coordinates, where a halving of the budget is passed."""
        last = self.milestones[-1].evaluations if self.milestones else 0
        passed = (budget >> k for k in range(HALVINGS + 1))
        if any(last < halving <= self.evaluations for halving in passed):
            self.milestones.append(Milestone(self.evaluations, seconds, self.loss, self.z))


class Search:
    """Searches a prior's latents for several targets at once, generation by generation.

    Args:
        prior: decodes latents.
        labels: (k, b), the labels of each search's b images; of no effect where a rule searches them.
        objective: what is minimized, with the latent rule's mean penalty.
        group: the k searches, over b · (d + e) dimensions: of every image d latents, then e for its label.
        budget: objective evaluations of each search; whole generations only.
        latents: how searched coordinates become latents.
        label_rule: how searched coordinates become labels; e is its size.
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
        group: Group,
        *,
        budget: int,
        latents: LatentRule,
        label_rule: LabelRule = KNOWN,
        device: torch.device,
        checkpoint: Path | None = None,
        identity: str = "",
    ) -> None:
        check_budget(budget, max(group.sizes()))
        self.prior, self.labels, self.objective = prior.to(device), labels.to(device), objective
        self.group, self.device, self.budget = group, device, budget
        self.latents, self.label_rule = latents, label_rule
        self.checkpoint, self.identity = checkpoint, identity
        self.best = [_Best(torch.zeros(group.latent_dim, dtype=torch.float64)) for _ in range(len(group))]
        self.chunks = Chunks(device)
        self.seconds = 0.0
        if checkpoint is not None and checkpoint.exists():
            self._load(checkpoint)

    def run(self, progress: Progress | None = None, until: int | None = None) -> list[SearchResult]:
        """Search on and return every search's best so far.

        Args:
            progress: called after every generation.
            until: evaluations of each search to go on to, at most the budget, which is the default.
        """
        limit = self.budget if until is None else min(until, self.budget)
        if not any(best.history for best in self.best):
            check_budget(limit, max(self.group.sizes()))
        saved = time.monotonic()
        pause = CHECKPOINT_SECONDS
        while active := self._active(limit):
            began = time.monotonic()
            self._generation(active)
            self.seconds += time.monotonic() - began
            for k in active:
                self.best[k].mark(self.budget, self.seconds / len(self.best))
            if self.checkpoint is not None and (started := time.monotonic()) - saved > pause:
                self._save(self.checkpoint)
                saved = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, SAVING_SHARE * (saved - started))
            if progress is not None:
                progress(*self._progress(limit))
        if self.checkpoint is not None:
            self._save(self.checkpoint)
        if any(best.loss == float("inf") for best in self.best):
            raise GradientError(
                "no candidate of a search had a finite loss: check the victim and the defense"
            )
        return self._results()

    def _active(self, limit: int) -> list[int]:
        """Return the searches that go on and whose next whole generation is within the limit."""
        sizes = self.group.sizes()
        return [k for k, best in enumerate(self.best) if 0 < sizes[k] <= limit - best.evaluations]

    def _generation(self, active: Sequence[int]) -> None:
        asked = self.group.ask(active)
        counts = [len(z) for z in asked]
        losses, gradients = self._evaluate(torch.cat(asked), active, counts)
        parts = losses.split(counts)
        self.group.tell(asked, parts, gradients.split(counts) if self.group.needs_gradient else None)
        for k, z, loss in zip(active, asked, parts, strict=True):
            self.best[k].take(z, loss)

    def _evaluate(self, z: Tensor, active: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the losses (n,) and their gradients (n, d), which are empty where none is needed."""
        owner = torch.tensor(active).repeat_interleave(torch.tensor(counts))
        wanted = self.group.needs_gradient
        gradients: list[Tensor] = []

        def evaluate(rows: slice) -> Tensor:
            latents = z[rows].to(self.device, torch.float32).requires_grad_(wanted)
            labels = self.labels[owner[rows].to(self.device)]
            places, shares = overlaps(counts, rows)
            with torch.set_grad_enabled(wanted):
                loss = self._loss(latents, labels, [active[place] for place in places], shares)
            if wanted:
                gradients.append(torch.autograd.grad(loss.sum(), latents)[0].cpu())
            return loss.detach().to("cpu", torch.float64)

        losses = self.chunks.map(len(z), self.labels.shape[1], evaluate)
        return losses, torch.cat(gradients) if wanted else torch.empty(len(z), 0)

    def _loss(
        self, z: Tensor, known: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> Float[Tensor, " n"]:
        images, placed, labels = self._decode(z, known)
        penalty = self.latents.penalty(self.prior, placed, images.flatten(0, 1)).view(known.shape).mean(1)
        return self.objective(images, labels, chosen, counts) + penalty

    def _decode(self, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images (n, b, c, h, w), each one's latents (n · b, d), and labels, of coordinates (n, ·)."""
        latents, coordinates = self._split(z.reshape(*known.shape, -1))
        labels = self.label_rule.place(coordinates, known)
        placed = self.latents.place(latents.flatten(0, 1))
        images = self.prior.decode(placed, classes_of(labels).flatten())
        return images.unflatten(0, known.shape), placed, labels

    def _split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents (..., d) and the label coordinates (..., e) of every image's (..., d + e)."""
        latents, coordinates = z.split([self.prior.latent_dim, self.label_rule.size], dim=-1)
        return latents, coordinates

    @torch.no_grad()
    def _results(self) -> list[SearchResult]:
        results = []
        for k, best in enumerate(self.best):
            z, known = best.z[None].to(self.device, torch.float32), self.labels[k : k + 1]
            images, placed, labels = self._decode(z, known)
            spent = best.evaluations
            results.append(
                SearchResult(
                    images=images[0].cpu(),
                    latents=placed.cpu(),
                    labels=classes_of(labels)[0].cpu(),
                    loss=float(self._loss(z, known, [k], [1])),
                    history=list(best.history),
                    evaluations=spent,
                    backward_passes=spent if self.group.needs_gradient else 0,
                    milestones=self._milestones(best),
                )
            )
        return results

    def _milestones(self, best: _Best) -> list[Milestone]:
        """Return a search's milestones and its end, searched coordinates placed as latents."""
        batch = self.labels.shape[1]
        end = Milestone(best.evaluations, self.seconds / len(self.best), best.loss, best.z)
        found = [*(m for m in best.milestones if m.evaluations < end.evaluations), end]
        latents = (self._split(m.latents.view(batch, -1).to(torch.float32))[0] for m in found)
        placed = map(self.latents.place, latents)
        return [replace(m, latents=z) for m, z in zip(found, placed, strict=True)]

    def _progress(self, limit: int) -> tuple[int, int, float]:
        spent = [best.evaluations for best in self.best]
        left = sum(
            (limit - done) // size * size
            for done, size in zip(spent, self.group.sizes(), strict=True)
            if size
        )
        return sum(spent), sum(spent) + left, sum(best.loss for best in self.best) / len(self.best)

    def _save(self, path: Path) -> None:
        state = {f"strategy.{name}": tensor for name, tensor in self.group.state_dict().items()}
        for k, best in enumerate(self.best):
            state[f"{k}.best.z"] = best.z
            state[f"{k}.best.loss"] = torch.tensor(best.loss, dtype=torch.float64)
            state[f"{k}.best.history"] = torch.tensor(best.history, dtype=torch.float64).view(-1, 2)
            state |= _packed(f"{k}.best.milestones", best.milestones)
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
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
        for k, best in enumerate(self.best):
            best.z, best.loss = state[f"{k}.best.z"], float(state[f"{k}.best.loss"])
            history = state[f"{k}.best.history"].tolist()
            best.history = [(int(evaluations), loss) for evaluations, loss in history]
            best.milestones = _unpacked(f"{k}.best.milestones", state)
        self.seconds = float(state["seconds"])
        self.group.load_state_dict(part_of(state, "strategy."))


def _packed(name: str, milestones: Sequence[Milestone]) -> dict[str, Tensor]:
    """Return milestones as tensors."""
    figures = [(m.evaluations, m.seconds, m.loss) for m in milestones]
    return {
        f"{name}.figures": torch.tensor(figures, dtype=torch.float64).view(-1, 3),
        f"{name}.latents": torch.cat([torch.empty(0), *(m.latents for m in milestones)]),
    }


def _unpacked(name: str, state: Mapping[str, Tensor]) -> list[Milestone]:
    figures, latents = state[f"{name}.figures"].tolist(), state[f"{name}.latents"]
    rows = zip(figures, latents.chunk(max(1, len(figures))), strict=False)
    return [Milestone(int(evaluations), seconds, loss, z) for (evaluations, seconds, loss), z in rows]


def check_budget(budget: int, generation: int) -> None:
    """Raise `InputError` where a budget is below one generation."""
    if budget < generation:
        raise InputError(
            f"a budget of {budget} evaluations is below one generation of {generation}; "
            f"give at least {generation}"
        )


def fingerprint(settings: Mapping[str, object], tensors: Sequence[Tensor]) -> str:
    """Return a hash of settings and tensors, by which a checkpoint knows its search again."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
