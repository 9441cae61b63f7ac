"""Gauss-Newton with a Jacobian estimated from the population: no derivative of prior or victim."""

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy
from ggl.optimizers.least_squares.linearization import Linearization
from ggl.optimizers.residuals import Residuals

__all__ = ["GaussNewton"]

LARGEST = 4096
"""Coordinates searched together, at most: the normal equations are solved by all their eigenpairs."""

DECADES = 2.0
"""Between the smallest and the largest damping that one generation tries."""

FIRST_DAMPING, MOST_DAMPING, LESS_TRUST = 1e-2, 1e3, 3.0
"""Of the largest eigenvalue of JᵀJ; grown after a generation that found nothing better."""

WINDOW, STALLED = 0.5, 0.05
"""A search whose loss fell by less than a twentieth over half a Jacobian's evaluations takes differences
anew."""

FINE = 0.1
"""Length of those: the point is nearer to a minimum than at first, and wants a truer Jacobian."""


class GaussNewton(Strategy):
    """Gauss-Newton from residuals, its Jacobian from the population: few evaluations, no gradients.

    Levenberg-Marquardt (Marquardt 1963) in which the Jacobian comes from the population, as in DFO-LS and
    POUNDERS: the best of some prior samples, d orthogonal differences around it, then generations of a few
    damped steps and of probes around the middle one, which also correct the Jacobian (Broyden 1965). Where
    every image of a batch has residuals of its own, d differences give all images' Jacobians at once. Where
    the loss hardly falls any more, shorter differences are taken anew.

    Args:
        latent_dim: d, of all images.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream.
        starts: prior samples of which the best begins.
        step: length of the differences, in standard deviations of the prior.
        dampings: damped steps of a generation, over two decades.
        probes: points of a generation around its middle step.
        shell: weight of the squared distance from the Gaussian shell in the step's equations.
        regularization: of the secants, a share of the mean squared step.

    Raises:
        InputError: an option out of range, or more than 4,096 coordinates.
    """

    needs_residuals = True

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,  # noqa: ARG002
        seed: int,
        starts: int = 16,
        step: float = 0.5,
        dampings: int = 3,
        probes: int = 3,
        shell: float = 1e-3,
        regularization: float = 1e-3,
    ) -> None:
        if min(starts, dampings, probes) < 1 or not (step > 0 and regularization > 0 and shell >= 0):
            raise InputError(
                "gauss-newton: expected starts, dampings and probes of at least 1, step and regularization "
                f"above 0 and shell not below; found {starts}, {dampings}, {probes}, {step:g}, "
                f"{regularization:g} and {shell:g}"
            )
        if latent_dim > LARGEST:
            raise InputError(
                f"gauss-newton: expected at most {LARGEST:,} coordinates searched together, found "
                f"{latent_dim:,}; take block-cma-es, or smaller batches"
            )
        super().__init__(latent_dim, starts)
        self.starts, self.step = starts, step
        self.dampings, self.probes, self.shell, self.regularization = dampings, probes, shell, regularization
        self._random = stream(seed, "gauss-newton")
        self._since = 0
        self._window, self._fine = float("inf"), step
        self._loss, self._damping = float("inf"), FIRST_DAMPING
        self._basis = torch.empty(0, dtype=torch.float64)
        self._used = 0
        self._model: Linearization | None = None
        self._differenced = False
        self._target, self._unit = torch.empty(0, dtype=torch.float64), True

    def _ask(self) -> Tensor:
        if self._model is None:
            return self._normal(self.starts, self.latent_dim)
        if not self._differenced:
            return (self._model.z + self._fine * self._bases()).flatten(1)
        steps = self._steps(self._model)
        middle = steps[self.dampings // 2]
        probes = middle + self._probes(middle)
        return self._model.z.flatten() + torch.cat([steps, probes])

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        told = self.residuals
        self._target, self._unit = told.target, told.unit
        parts = z.unflatten(1, (told.values.shape[1], -1))
        best = int(loss.argmin())
        if self._model is None:
            unknown = torch.zeros(*told.values.shape[1:], parts.shape[2], dtype=torch.float64)
            self._model = Linearization(parts[best], told.values[best], unknown)
            self._loss = float(loss[best])
        elif not self._differenced:
            steps = parts - self._model.z
            self._model = Linearization.by_differences(self._model.z, self._model.values, steps, told.values)
            self._differenced = True
            self._window, self._since = self._loss, 0
            self._move(self._model, best, parts, loss, told)
        else:
            self._learn(self._model, best, parts, loss, told)
        self.batch_size = self._next_size()

    def _learn(self, model: Linearization, best: int, parts: Tensor, loss: Tensor, told: Residuals) -> None:
        """Go to a better point, correct the Jacobian around it, and set the damping of the next steps."""
        z, values = torch.cat([parts, model.z[None]]), torch.cat([told.values, model.values[None]])
        moved = self._move(model, best, parts, loss, told)
        model.update(z, values, self.regularization)
        if moved and best < self.dampings:
            self._damping = float(self._dampings()[best])
        elif not moved:
            self._damping = min(LESS_TRUST * self._damping, MOST_DAMPING)
        self._since += len(parts)
        if self._since >= WINDOW * self._cost:
            if self._window - self._loss < STALLED * abs(self._window):
                self._differenced = False
                self._fine = FINE
            self._window, self._since = self._loss, 0

    def _move(self, model: Linearization, best: int, parts: Tensor, loss: Tensor, told: Residuals) -> bool:
        """Go to the best candidate where it is better than the point; return whether it is."""
        if float(loss[best]) >= self._loss:
            return False
        self._loss = float(loss[best])
        model.move(parts[best], told.values[best])
        return True

    @property
    def _cost(self) -> int:
        """Evaluations of a Jacobian."""
        return self.latent_dim if self._model is None else self._model.z.shape[1]

    def _next_size(self) -> int:
        if self._model is None:
            return self.starts
        return self.dampings + self.probes if self._differenced else self._cost

    def _dampings(self) -> Tensor:
        places = torch.arange(self.dampings, dtype=torch.float64) - (self.dampings - 1) / 2
        return self._damping * 10 ** (places * DECADES / max(1, self.dampings - 1))

    def _steps(self, model: Linearization) -> Tensor:
        """Return the damped steps (dampings, D): -(JᵀJ + ss' + μ λ_max I)⁻¹ (Jᵀr + s σ), s σ of the shell."""
        square, slope = model.normal_equations(self._target, self._unit)
        for part, z in enumerate(model.z):
            d = len(z)
            rows = slice(part * d, (part + 1) * d)
            normal = (self.shell / len(model.z) / d) ** 0.5 * 2 * z
            square[rows, rows] += torch.outer(normal, normal)
            slope[rows] += normal * (self.shell / len(model.z) / d) ** 0.5 * (z.square().sum() - d)
        values, vectors = torch.linalg.eigh(square)
        values, along = values.clamp_min(0), vectors.T @ slope
        shifts = values + self._dampings()[:, None] * values[-1].clamp_min(1e-30)
        steps: Tensor = -(along / shifts) @ vectors.T
        return steps

    def _probes(self, middle: Tensor) -> Tensor:
        """Return offsets of the middle step's length, along directions that take turns."""
        d, parts = self._cost, self.latent_dim // self._cost
        if self._used + self.probes > d or not len(self._basis):
            self._basis, self._used = self._bases(), 0
        rows = torch.arange(self._used, self._used + self.probes) % d
        self._used += self.probes
        lengths = middle.unflatten(0, (parts, d)).norm(dim=1)
        probes: Tensor = (self._basis[rows] * lengths[:, None]).flatten(1)
        return probes

    def _bases(self) -> Tensor:
        """Return d orthonormal directions of every part, (d, parts, d)."""
        d, parts = self._cost, self.latent_dim // self._cost
        drawn = self._normal(parts, d, d)
        bases: Tensor = torch.linalg.qr(drawn)[0].permute(2, 0, 1).contiguous()
        return bases

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random, dtype=torch.float64)

    def _state(self) -> State:
        numbers = (self._since, self._used, self._loss, self._window, self._damping, self._fine)
        flags = (self._differenced, self._unit)
        return {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "flags": torch.tensor(flags),
            "basis": self._basis,
            "target": self._target,
            "random": self._random.get_state(),
            **({} if self._model is None else self._model.state()),
        }

    def _load(self, state: State) -> None:
        since, used, self._loss, self._window, self._damping, self._fine = state["numbers"].tolist()
        self._since, self._used = int(since), int(used)
        self._differenced, self._unit = state["flags"].tolist()
        self._basis, self._target = state["basis"], state["target"]
        self._random.set_state(state["random"])
        self._model = Linearization.of_state(state) if "point" in state else None
        self.batch_size = self._next_size()
