"""The one search loop: many searches side by side, each with its own strategy and its own budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ggl.attacks.checkpoints import whole_checkpoint
from ggl.attacks.course import BestSoFar, Milestone, SearchResult, least
from ggl.attacks.label_rules import KNOWN, LabelRule, classes_of
from ggl.attacks.latents import LatentRule
from ggl.attacks.objectives import Objective, ResidualObjective
from ggl.base.errors import GradientError, InputError
from ggl.base.weights import save_tensors
from ggl.generators.base import Prior, check_decoded
from ggl.gradients.chunks import Chunks, overlaps, runs_within
from ggl.optimizers import Group
from ggl.optimizers.base import part_of
from ggl.optimizers.residuals import Residuals

__all__ = ["Progress", "Search", "check_budget"]

Progress: TypeAlias = Callable[[int, int, float], None]
"""Called with the evaluations done, those planned, and the mean best loss over the searches."""

CHECKPOINT_SECONDS = 5.0

TOLD_AT_ONCE = 2**28
"""Residuals, in numbers (1 GiB), of the searches whose generation is evaluated together."""

SAVING_SHARE = 20
"""A checkpoint is written at most every so many times as long as the last one took."""


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
        final: by which winners are scored, where searching compares less.

    Raises:
        InputError: a budget below one generation, or labels that the prior has not.
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
        final: Objective | None = None,
    ) -> None:
        check_budget(budget, max(group.sizes()))
        prior.check_labels(labels.flatten().cpu())
        self.prior, self.labels, self.objective = prior.to(device), labels.to(device), objective
        self.group, self.device, self.budget = group, device, budget
        self.latents, self.label_rule = latents, label_rule
        self.checkpoint, self.identity = checkpoint, identity
        self.final = objective if final is None else final
        self.best = [BestSoFar(torch.zeros(group.latent_dim, dtype=torch.float64)) for _ in range(len(group))]
        self.chunks = Chunks(device)
        self.seconds = 0.0
        self._ended = False
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
            for together in self._together(active):
                self._generation(together)
            self.seconds += time.monotonic() - began
            for k in active:
                self.best[k].mark(self.budget, self.seconds / len(self.best))
            if self.checkpoint is not None and (started := time.monotonic()) - saved > pause:
                self._save(self.checkpoint)
                saved = time.monotonic()
                pause = max(CHECKPOINT_SECONDS, SAVING_SHARE * (saved - started))
            if progress is not None:
                progress(*self._progress(limit))
        self._ended = not self._active(self.budget)
        if self.checkpoint is not None:
            self._save(self.checkpoint)
        if any(best.loss == float("inf") for best in self.best):
            raise GradientError(
                "no candidate of a search had a finite loss: check the victim and the defense"
            )
        return self._results()

    def _active(self, limit: int) -> list[int]:
        """Return the searches that go on and whose next whole generation is within the limit."""
        if self._ended:
            return []
        sizes = self.group.sizes()
        return [k for k, best in enumerate(self.best) if 0 < sizes[k] <= limit - best.evaluations]

    def _together(self, active: Sequence[int]) -> list[Sequence[int]]:
        """Split searches so that what is told of a generation fits into memory: they do not meet."""
        if not self.group.needs_residuals:
            return [active]
        each, sizes = self.labels.shape[1] * self._targets.shape[1], self.group.sizes()
        return [active[run] for run in runs_within([each * sizes[k] for k in active], TOLD_AT_ONCE)]

    def _generation(self, active: Sequence[int]) -> None:
        asked = self.group.ask(active)
        counts = [len(z) for z in asked]
        losses, gradients, values = self._evaluate(torch.cat(asked), active, counts)
        parts = losses.split(counts)
        self.group.tell(
            asked,
            parts,
            gradients.split(counts) if self.group.needs_gradient else None,
            self._residuals(values, active, counts) if self.group.needs_residuals else None,
        )
        found = zip(active, counts, least(asked, parts), self.group.choices(active), strict=True)
        for k, count, candidate, choice in found:
            self.best[k].take(count, *candidate, choice)

    def _residuals(self, values: Tensor, active: Sequence[int], counts: Sequence[int]) -> list[Residuals]:
        """Return what every search is told that asks for residuals."""
        squares = self._sum_of_squares
        split = zip(active, values.cpu().split(list(counts)), strict=True)
        return [Residuals(part, self._targets[k], squares.unit, squares.groups) for k, part in split]

    @cached_property
    def _targets(self) -> Float[Tensor, "k m"]:
        """What residuals are of, on the CPU."""
        return self._sum_of_squares.targets.cpu()

    @property
    def _sum_of_squares(self) -> ResidualObjective:
        if isinstance(self.objective, ResidualObjective):
            return self.objective
        raise InputError(
            f"expected an objective that is a sum of squares, found {type(self.objective).__name__}: take a "
            "search that is told losses alone, such as cma-es"
        )

    def _evaluate(
        self, z: Tensor, active: Sequence[int], counts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the losses (n,), their gradients (n, d) and what is squared, empty where not needed.

        A device is halted once, by the read of all losses at the end (and of all gradients).
        """
        owner = torch.tensor(active).repeat_interleave(torch.tensor(counts))
        known = self.labels[owner.to(self.device, non_blocking=True)]
        z = z.to(self.device, torch.float32, non_blocking=True)
        wanted = self.group.needs_gradient
        gradients: list[Tensor] = []
        values: list[Tensor] = []

        def evaluate(rows: slice) -> Tensor:
            latents = z[rows].detach().requires_grad_(wanted)
            places, shares = overlaps(counts, rows)
            with torch.set_grad_enabled(wanted):
                loss, squared = self._loss(latents, known[rows], [active[place] for place in places], shares)
            if squared is not None:
                values.append(squared.detach())
            if wanted:
                gradients.append(torch.autograd.grad(loss.sum(), latents)[0])
            return loss.detach()

        losses = self.chunks.map(len(z), self.labels.shape[1], evaluate).to("cpu", torch.float64)
        nothing = [torch.empty(len(z), 0)]
        return losses, torch.cat(gradients or nothing).cpu(), torch.cat(values or nothing)

    def _loss(
        self, z: Tensor, known: Tensor, chosen: Sequence[int], counts: Sequence[int]
    ) -> tuple[Float[Tensor, " n"], Tensor | None]:
        """Return the losses, penalty included, and what is squared of searches that ask for it."""
        images, placed, labels = self._decode(z, known)
        penalty = self._penalty(placed, images)
        if not self.group.needs_residuals:
            return self.objective(images, labels, chosen, counts) + penalty, None
        losses, values = self._sum_of_squares.measure(images, labels, chosen, counts)
        return losses + penalty, values

    def _penalty(self, placed: Tensor, images: Float[Tensor, "n b c h w"]) -> Float[Tensor, " n"]:
        penalty = self.latents.penalty(self.prior, placed, images.flatten(0, 1))
        return penalty.view(images.shape[:2]).mean(1)

    def _decode(self, z: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images (n, b, c, h, w), each one's latents (n · b, d), and labels, of coordinates (n, ·)."""
        latents, coordinates = self._split(z.reshape(*known.shape, -1))
        labels = self.label_rule.place(coordinates, known)
        placed = self.latents.place(latents.flatten(0, 1))
        images = self.prior.decode(placed, classes_of(labels).flatten())
        check_decoded(self.prior, images, len(placed))
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
            loss = self.final(images, labels, [k], [1]) + self._penalty(placed, images)
            results.append(
                SearchResult(
                    images=images[0].cpu(),
                    latents=placed.cpu(),
                    labels=classes_of(labels)[0].cpu(),
                    loss=float(loss),
                    history=list(best.history),
                    evaluations=spent,
                    backward_passes=spent if self.group.needs_gradient else 0,
                    milestones=self._milestones(best),
                )
            )
        return results

    def _milestones(self, best: BestSoFar) -> list[Milestone]:
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
        """Write what the search goes on from: when it has ended, what it found alone."""
        strategy = {} if self._ended else self.group.state_dict()
        state = {f"strategy.{name}": tensor for name, tensor in strategy.items()}
        state["ended"] = torch.tensor(self._ended)
        for k, best in enumerate(self.best):
            state |= {f"{k}.best.{name}": tensor for name, tensor in best.state_dict().items()}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, state, {"identity": self.identity})

    def _load(self, path: Path) -> None:
        with whole_checkpoint(path, self.identity) as state:
            for k, best in enumerate(self.best):
                best.load_state_dict(part_of(state, f"{k}.best."))
            self.seconds, self._ended = float(state["seconds"]), bool(state["ended"])
            if not self._ended:
                self.group.load_state_dict(part_of(state, "strategy."))


def check_budget(budget: int, generation: int) -> None:
    """Raise `InputError` where a budget is below one generation."""
    if budget < generation:
        raise InputError(
            f"a budget of {budget} evaluations is below one generation of {generation}; "
            f"give at least {generation}"
        )
