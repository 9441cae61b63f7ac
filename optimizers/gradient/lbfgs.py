"""L-BFGS on the latent: the quasi-Newton contrast to the gradient-free searchers."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy, check_state

__all__ = ["LBFGS", "two_loop"]

SUFFICIENT_DECREASE = 1e-4
SHORTEST, LONGEST = 0.1, 0.5
"""Bounds of a backtrack, as a share of the step before."""
BACKTRACKS = 8
CURVATURE = 1e-8
"""Cosine of the angle between s and y at which a pair is worth keeping."""
TOLERANCE = 1e-9
"""Decrease of an accepted step, relative to the loss, at which a descent has ended."""
NEAREST = 1e-9
"""Length of an accepted step, in √d, at which a descent has ended: below the resolution of float32."""
FIRST_LENGTH, LONGEST_LENGTH = 0.1, 0.5
"""Lengths of a step without memory and of any step, in √d: root mean squares over the coordinates."""


class LBFGS(Strategy):
    """L-BFGS from several starts at once: needs gradients; take it where evaluations are few.

    Nocedal & Wright, Numerical Optimization (2006), algorithms 7.4 and 7.5. A generation is one trial point
    of every start: a backtracking line search with Armijo's condition (3.4) and quadratic interpolation
    (3.58) that begins at a step of 1. Steps are at most 0.5 √d long, those without memory begin at 0.1 √d:
    the course does not depend on the loss's scale. Where a line search fails, the memory is dropped; where
    it fails without memory, or a descent has ended, that start begins anew from a fresh draw.

    Args:
        latent_dim: d.
        budget: objective evaluations planned; not used.
        seed: of the stream that draws the starts, standard normal.
        starts: independent descents.
        memory: pairs (s, y) that each start keeps.

    Raises:
        InputError: no start or no memory.
    """

    needs_gradient = True

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG002
        seed: int,
        starts: int = 4,
        memory: int = 10,
    ) -> None:
        if starts < 1 or memory < 1:
            raise InputError(f"l-bfgs: expected starts and memory of at least 1, found {starts} and {memory}")
        super().__init__(latent_dim, starts)
        self._random = stream(seed, "l-bfgs")
        self._z = self._draw(starts)
        self._loss = torch.full((starts,), torch.inf, dtype=torch.float64)
        self._gradient, self._direction = torch.zeros_like(self._z), torch.zeros_like(self._z)
        self._step, self._tries = torch.zeros_like(self._loss), torch.zeros_like(self._loss)
        self._moves = torch.zeros(starts, memory, latent_dim, dtype=torch.float64)
        self._changes = torch.zeros_like(self._moves)

    def _draw(self, rows: int) -> Tensor:
        return torch.randn(rows, self.latent_dim, generator=self._random, dtype=torch.float64)

    def _ask(self) -> Tensor:
        return self._z + self._step[:, None] * self._direction

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:
        if gradient is None:
            raise InputError("l-bfgs needs the gradient of every loss")
        predicted = self._step * _dot(self._gradient, self._direction)
        # A zero gradient is a non-finite one, most likely, and its loss a stand-in: no point to go on from.
        blind, fresh = (gradient == 0).all(1), self._loss.isinf()
        accepted = (loss <= self._loss + SUFFICIENT_DECREASE * predicted) & (fresh | ~blind)
        ended = accepted & torch.where(fresh, blind, self._settled(z, loss))
        self._shorten(loss - self._loss, predicted)
        failed = ~accepted & (self._tries > BACKTRACKS)
        ended |= failed & ~self._changes.any(-1).any(-1)
        self._remember(accepted, failed, z - self._z, gradient - self._gradient)
        self._z = torch.where(accepted[:, None], z, self._z)
        self._loss = torch.where(accepted, loss, self._loss)
        self._gradient = torch.where(accepted[:, None], gradient, self._gradient)
        self._turn(accepted | failed)
        self._restart(ended)

    def _settled(self, z: Tensor, loss: Tensor) -> Tensor:
        """Return whether the steps to these points, if accepted, are a descent's last."""
        length = (z - self._z).norm(dim=1) / math.sqrt(self.latent_dim)
        settled: Tensor = (self._loss - loss <= TOLERANCE * loss.abs()) | (length <= NEAREST)
        return settled

    def _shorten(self, rise: Tensor, predicted: Tensor) -> None:
        """Backtrack every start to the minimum of the parabola through what is known, within bounds."""
        share = -predicted / (2 * (rise - predicted))
        self._step = self._step * share.clamp(SHORTEST, LONGEST)
        self._tries = self._tries + 1

    def _remember(
        self, accepted: Bool[Tensor, " n"], failed: Bool[Tensor, " n"], move: Tensor, change: Tensor
    ) -> None:
        """Append the pairs (s, y) of positive curvature; drop all of a start whose line search failed."""
        kept = accepted & (_dot(move, change) > CURVATURE * move.norm(dim=1) * change.norm(dim=1))
        self._moves = _push(self._moves, move, kept, failed)
        self._changes = _push(self._changes, change, kept, failed)

    def _turn(self, rows: Bool[Tensor, " n"]) -> None:
        """Set these starts on a new direction, at a step of 1."""
        newton = -two_loop(self._gradient, self._moves, self._changes)
        steepest = -_to_length(self._gradient, FIRST_LENGTH)
        known = self._changes.any(-1).any(-1) & (_dot(newton, self._gradient) < 0)
        direction = torch.where(known[:, None], newton, steepest)
        length = direction.norm(dim=1, keepdim=True) / math.sqrt(self.latent_dim)
        direction = torch.where(length > LONGEST_LENGTH, _to_length(direction, LONGEST_LENGTH), direction)
        self._direction = torch.where(rows[:, None], direction, self._direction)
        self._step = torch.where(rows, 1.0, self._step)
        self._tries = torch.where(rows, 0.0, self._tries)

    def _restart(self, rows: Bool[Tensor, " n"]) -> None:
        """Begin these starts anew: a loss of inf accepts whatever comes first."""
        if not rows.any():
            return
        self._z = self._z.clone()
        self._z[rows] = self._draw(int(rows.sum()))
        self._loss = torch.where(rows, torch.inf, self._loss)
        self._step = torch.where(rows, 0.0, self._step)
        self._moves = torch.where(rows[:, None, None], 0.0, self._moves)
        self._changes = torch.where(rows[:, None, None], 0.0, self._changes)

    def _state(self) -> State:
        return {
            "z": self._z,
            "loss": self._loss,
            "gradient": self._gradient,
            "direction": self._direction,
            "step": self._step,
            "tries": self._tries,
            "moves": self._moves,
            "changes": self._changes,
            "random": self._random.get_state(),
        }

    def _load(self, state: State) -> None:
        check_state(state, self._state())
        self._z, self._loss, self._gradient = state["z"], state["loss"], state["gradient"]
        self._direction, self._step, self._tries = state["direction"], state["step"], state["tries"]
        self._moves, self._changes = state["moves"], state["changes"]
        self._random.set_state(state["random"])


def two_loop(
    gradient: Float[Tensor, "n d"], moves: Float[Tensor, "n m d"], changes: Float[Tensor, "n m d"]
) -> Float[Tensor, "n d"]:
    """Return H ∇f of each row, H the inverse Hessian that its pairs (s, y) give, the newest last.

    Nocedal & Wright, algorithm 7.4 with the scaling of equation 7.20. Pairs of zeros count for nothing;
    without any pair H is the identity.
    """
    curvature = _dot(moves, changes)
    rho = torch.where(curvature > 0, 1 / curvature, 0.0)
    q, shares = gradient, []
    for i in reversed(range(moves.shape[1])):
        shares.append(rho[:, i] * _dot(moves[:, i], q))
        q = q - shares[-1][:, None] * changes[:, i]
    scale = curvature[:, -1] / changes[:, -1].square().sum(-1)
    r = torch.where(curvature[:, -1] > 0, scale, 1.0)[:, None] * q
    for i in range(moves.shape[1]):
        back = rho[:, i] * _dot(changes[:, i], r)
        r = r + (shares.pop() - back)[:, None] * moves[:, i]
    return r


def _push(pairs: Tensor, newest: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """Append each kept row's newest entry, (n, d), in place of its oldest, and zero each dropped row's."""
    pushed = torch.cat((pairs[:, 1:], newest[:, None]), dim=1)
    pairs = torch.where(kept[:, None, None], pushed, pairs)
    return torch.where(dropped[:, None, None], 0.0, pairs)


def _to_length(rows: Tensor, length: float) -> Tensor:
    """Return rows of this root mean square; zeros stay zeros."""
    norm = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    scaled: Tensor = rows * (length * math.sqrt(rows.shape[1]) / norm)
    return scaled


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
