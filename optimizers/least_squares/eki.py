"""Ensemble Kalman inversion: an ensemble moved towards the target by its own covariances."""

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy

__all__ = ["EnsembleKalman"]

TINY = 1e-30


class EnsembleKalman(Strategy):
    """Ensemble Kalman inversion from residuals: a contrast that fits no Jacobian.

    zⱼ ← zⱼ + C_zv (C_vv + γ I)⁻¹ (t - vⱼ), the covariances those of the ensemble (Iglesias, Law, Stuart,
    arXiv 1209.2736, without perturbed observations), γ a share of the largest eigenvalue of C_vv. It never
    leaves the span of its first ensemble, and contracts. A batch is searched jointly.

    Args:
        latent_dim: d, of all images.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream.
        ensemble: members, each evaluated once a generation; 0 for d, and at least 32.
        damping: γ, of the largest eigenvalue of C_vv.

    Raises:
        InputError: an option out of range.
    """

    needs_residuals = True

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG002
        seed: int,
        ensemble: int = 0,
        damping: float = 0.1,
    ) -> None:
        if ensemble == 1 or ensemble < 0 or not damping > 0:
            raise InputError(
                "eki: expected an ensemble of 2 or more, or 0, and damping above 0; "
                f"found {ensemble} and {damping:g}"
            )
        super().__init__(latent_dim, ensemble or max(32, latent_dim))
        self.damping = damping
        random = stream(seed, "eki")
        self._members = torch.randn(self.batch_size, latent_dim, generator=random, dtype=torch.float64)

    def _ask(self) -> Tensor:
        return self._members

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        values, target = self.residuals.compared()
        spread, misfits = values - values.mean(0), target - values
        inner = spread @ spread.T
        largest = torch.linalg.eigvalsh(inner)[-1].clamp_min(TINY)
        eye = torch.eye(len(z), dtype=torch.float64)
        gain = torch.linalg.solve(inner + self.damping * largest * eye, spread @ misfits.T)
        self._members = z + gain.T @ (z - z.mean(0))

    def _state(self) -> State:
        return {"members": self._members}

    def _load(self, state: State) -> None:
        self._members = state["members"]
