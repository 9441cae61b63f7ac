"""What a search finds on its way, and in the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BestSoFar", "Milestone", "SearchResult", "courses", "least"]

HALVINGS = 7
"""Of the budget: where a search notes what it has found so far."""


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


def courses(results: Sequence[SearchResult]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return evaluations (m,), and the best loss so far of every search at them, (searches, m).

    They are all at which one of the searches ended a generation. Before its first a search's loss is
    infinite, after its last it stays.
    """
    grid = np.array(sorted({done for result in results for done, _ in result.history}), dtype=np.int64)
    rows = []
    for result in results:
        done, losses = zip(*result.history, strict=True)
        place = np.searchsorted(done, grid, side="right") - 1
        rows.append(np.where(place < 0, np.inf, np.array(losses)[place]))
    return grid, np.array(rows)


def least(asked: Sequence[Tensor], losses: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
    """Return each generation's candidate (d,) of least loss, on the CPU, and that loss: infinite of none.

    Candidates (n, d) are read off their device all at once; losses (n,) are on the CPU.
    """
    finite = [torch.where(torch.isfinite(loss), loss, torch.inf) for loss in losses]
    rows = [z[int(loss.argmin())] for z, loss in zip(asked, finite, strict=True)]
    return [(z, float(loss.min())) for z, loss in zip(torch.stack(rows).cpu(), finite, strict=True)]


@dataclass
class BestSoFar:
    """The best candidate that one search met, and its loss after every generation."""

    z: Tensor
    loss: float = float("inf")
    history: list[tuple[int, float]] = field(default_factory=list)
    milestones: list[Milestone] = field(default_factory=list)

    @property
    def evaluations(self) -> int:
        """Return the objective evaluations so far."""
        return self.history[-1][0] if self.history else 0

    def take(self, count: int, z: Tensor, loss: float, choice: tuple[Tensor, float] | None = None) -> None:
        """Note a generation's evaluations, and its least where that is better, or a search's own choice."""
        if choice is not None:
            self.z, self.loss = choice[0].to("cpu", copy=True), choice[1]
        elif loss < self.loss:
            self.z, self.loss = z, loss
        self.history.append((self.evaluations + count, self.loss))

    def mark(self, budget: int, seconds: float) -> None:
        """Note the best so far, in searched coordinates, where a halving of the budget is passed."""
        last = self.milestones[-1].evaluations if self.milestones else 0
        passed = (budget >> k for k in range(HALVINGS + 1))
        if any(last < halving <= self.evaluations for halving in passed):
            self.milestones.append(Milestone(self.evaluations, seconds, self.loss, self.z))

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything as tensors."""
        figures = [(m.evaluations, m.seconds, m.loss) for m in self.milestones]
        return {
            "z": self.z,
            "loss": torch.tensor(self.loss, dtype=torch.float64),
            "history": torch.tensor(self.history, dtype=torch.float64).view(-1, 2),
            "milestones.figures": torch.tensor(figures, dtype=torch.float64).view(-1, 3),
            "milestones.latents": torch.cat([torch.empty(0), *(m.latents for m in self.milestones)]),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` returned."""
        self.z, self.loss = state["z"], float(state["loss"])
        self.history = [(int(evaluations), loss) for evaluations, loss in state["history"].tolist()]
        figures, latents = state["milestones.figures"].tolist(), state["milestones.latents"]
        rows = zip(figures, latents.chunk(max(1, len(figures))), strict=False)
        self.milestones = [
            Milestone(int(evaluations), seconds, loss, z) for (evaluations, seconds, loss), z in rows
        ]
