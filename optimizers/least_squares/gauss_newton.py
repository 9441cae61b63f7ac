"""Gauss-Newton with a Jacobian estimated from the population: no derivative of prior or victim."""

import torch
from torch import Tensor

from ggl.base.errors import InputError
from ggl.base.random import stream
from ggl.optimizers.base import State, Strategy, part_of
from ggl.optimizers.least_squares.linearization import Linearization
from ggl.optimizers.least_squares.metric import Metric
from ggl.optimizers.least_squares.recombination import merits, recombined
from ggl.optimizers.least_squares.record import Record, rows_of
from ggl.optimizers.least_squares.roughness import PAIRS, measure_roughness
from ggl.optimizers.least_squares.steps import damped_steps, off_shell, penalized

__all__ = ["GaussNewton"]

LARGEST = 4096
"""Coordinates searched together, at most: the normal equations are solved whole."""

DECADES = 2.0
"""Between the smallest and the largest damping that one generation tries."""

FIRST_DAMPING, LEAST_DAMPING, MOST_DAMPING, LESS_TRUST = 1e-2, 1e-8, 1.0, 3.0
"""Of the largest eigenvalue of JᵀJ; grown after a generation that found nothing better."""

WINDOW, STALLED = 0.5, 0.05
"""A search whose loss fell by less than a twentieth over half a Jacobian's evaluations takes differences
anew."""

FINE, ROUGH_FINE = 0.1, 0.3
"""Length of those: the point is nearer to a minimum than at first, and wants a truer Jacobian."""

HELD = 2
"""Points that are held for every coordinate of a part: those nearest to the center."""

ROUGH = 0.5
"""Share of error in a layer's differences from which on all are weighted by their errors."""

ROUGH_SHELL = 0.1
"""Weight of the distance from the shell on a rough objective, a share of the loss: what is compared there
may hardly move."""


class GaussNewton(Strategy):
    """Gauss-Newton from residuals, its Jacobian from the population: few evaluations, no gradients.

    Levenberg-Marquardt (Marquardt 1963) in which the Jacobian comes from the population, as in DFO-LS and
    POUNDERS: the best of some prior samples, d orthogonal differences around it, then generations of a few
    damped steps and of probes around the middle one. The Jacobian is fitted to all of these, the nearest
    first. Where every image of a batch has residuals of its own, d differences give all images' Jacobians,
    and candidates are recombined image by image. Where the objective jumps, as behind ReLU networks, layers
    are weighted by how well the model foretells them. Where the loss hardly falls any more, shorter
    differences are taken anew.

    Args:
        latent_dim: d, of all images.
        budget: objective evaluations planned; not used.
        seed: of the strategy's own random stream.
        starts: prior samples of which the best begins.
        step: length of the differences, in standard deviations of the prior.
        dampings: damped steps of a generation, over two decades.
        probes: points of a generation around its middle step.
        shell: weight of the latents' penalty in the step's equations, as in the prior's own rule.

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
    ) -> None:
        if min(starts, dampings, probes) < 1 or not (step > 0 and shell >= 0):
            raise InputError(
                "gauss-newton: expected starts, dampings and probes of at least 1, step above 0 and shell "
                f"not below; found {starts}, {dampings}, {probes}, {step:g} and {shell:g}"
            )
        if latent_dim > LARGEST:
            raise InputError(
                f"gauss-newton: expected at most {LARGEST:,} coordinates searched together, found "
                f"{latent_dim:,}; take block-cma-es, or smaller batches"
            )
        super().__init__(latent_dim, starts)
        self.starts, self.step, self.dampings, self.probes = starts, step, dampings, probes
        self.shell = shell
        self._random = stream(seed, "gauss-newton")
        self._record: Record | None = None
        self._metric: Metric | None = None  # of a rough objective
        self._center = torch.empty(0, dtype=torch.int64)
        self._unit, self._differences, self._first = True, False, True
        self._merit = self._window = float("inf")
        self._since, self._used, self._damping = 0, 0, FIRST_DAMPING
        self._basis = torch.empty(0, dtype=torch.float64)

    def _ask(self) -> Tensor:
        if self._record is None:
            return self._normal(self.starts, self.latent_dim)
        if self._differences:
            return (self._record.at(self._center) + self._offsets()).flatten(1)
        model, equations = self._model, self._equations
        square, slope = penalized(equations.square, equations.slope, model.z, self._shell_weight())
        steps = damped_steps(square, slope, self._dampings())
        middle = steps[self.dampings // 2]
        return model.z.flatten() + torch.cat([steps, middle + self._probes(middle)])

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        told = self.residuals
        if self._record is None:
            self._unit = told.unit
            parts = told.values.shape[1]
            d = self.latent_dim // parts
            self._record = Record(told.target, told.groups or (len(told.target),), parts, d, self._room(d))
            self._center = loss.argmin().repeat(parts)
        known = len(self._record)
        self._record.add(z.unflatten(1, (self._record.parts, -1)), told.values, loss)
        if not known:
            self._differences = True
        elif self._differences:
            self._begin(self._record, known)
        else:
            self._learn(self._record, known)
        self.batch_size = self._next_size()

    def _begin(self, record: Record, known: int) -> None:
        """Fit a Jacobian to differences; the first ones say what is to be compared."""
        if self._first:
            found = measure_roughness(record, self._center, known, self._pairs)
            if found.worst > ROUGH:
                self._metric = Metric(found.noise, found.change)
                self._metric.weigh(record, rows_of(self._center))
            else:
                record.join()
            self._errors = torch.empty(0, 1 + len(record) * record.parts, dtype=torch.float64)
        self._differences = self._first = False
        self._settle(record)
        self._window, self._since = self._merit, 0

    def _learn(self, record: Record, known: int) -> None:
        """Take steps and probes: the errors of the model, a better point, the damping of the next steps."""
        if self._metric is not None:
            changes = self._model.changes(record, known, self.dampings)
            errors = self._model.errors(record, known, self.dampings)
            self._metric.learn(record, errors, changes, self._errors)
        told, dampings = len(record) - known, self._dampings()
        moved = self._settle(record)
        chosen = moved[(moved >= known) & (moved < known + self.dampings)] - known
        if len(chosen):
            self._damping = max(LEAST_DAMPING, float(dampings[chosen.median()]))
        elif not len(moved):
            self._damping = min(LESS_TRUST * self._damping, MOST_DAMPING)
        self._since += told
        if self._since >= WINDOW * self._cost:
            self._differences = self._window - self._merit < STALLED * abs(self._window)
            self._window, self._since = self._merit, 0

    def _settle(self, record: Record) -> Tensor:
        """Go to the best point and fit the model around it; return the points of parts that moved."""
        before, weight = self._center, self._shell_weight()
        products = self._measured(record)
        penalties = weight / record.parts * off_shell(record.z).square()
        self._center = recombined(products, penalties, before, self._unit)
        if self._metric is not None:
            best = int(merits(products, penalties, self._unit).argmin())
            self.choice = record.z[best].flatten().clone(), float(record.losses[best])
            self._metric.weigh(record, rows_of(self._center))
        moved = self._center[self._center != before]
        self._center = record.keep_nearest(self._center, HELD * self._cost)
        self._fit(record)
        self._merit = float(self._equations.merit + weight * off_shell(self._model.z).square().mean())
        return moved

    def _fit(self, record: Record) -> None:
        """Fit the model around the center."""
        self._model = Linearization(record, self._center)
        if self._metric is not None:
            self._errors = self._model.misfits(record, self._cost)
        self._equations = self._model.equations(self._measured(record), self._unit)

    def _measured(self, record: Record) -> Tensor:
        """Return the products of all values, in the metric."""
        if self._metric is None:
            return record.products[0]
        return self._metric.products(record, self._errors)

    def _shell_weight(self) -> float:
        """Return the weight of the squared distance from the shell, of a mean over parts."""
        if self._metric is None:
            return self.shell * self._cost / 2
        return ROUGH_SHELL * self._merit if self._merit < float("inf") else 0.0

    def _room(self, d: int) -> int:
        """Points held between a generation and the next."""
        return HELD * d + max(self.starts + d + PAIRS, self.dampings + self.probes)

    @property
    def _cost(self) -> int:
        """Evaluations of a Jacobian: coordinates of a part."""
        return self.latent_dim if self._record is None else self._record.z.shape[2]

    @property
    def _pairs(self) -> int:
        return min(PAIRS, self._cost)

    def _next_size(self) -> int:
        if self._record is None:
            return self.starts
        if self._differences:
            return self._cost + (self._pairs if self._first else 0)
        return self.dampings + self.probes

    def _offsets(self) -> Tensor:
        """Return differences (k, parts, d); the first ones with some of them back."""
        bases = self._bases()
        if not self._first:
            return bases * (FINE if self._metric is None else ROUGH_FINE)
        return self.step * torch.cat([bases, -bases[: self._pairs]])

    def _dampings(self) -> Tensor:
        places = torch.arange(self.dampings, dtype=torch.float64) - (self.dampings - 1) / 2
        return self._damping * 10 ** (places * DECADES / max(1, self.dampings - 1))

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
        numbers = (self._since, self._used, self._merit, self._window, self._damping)
        state = {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "flags": torch.tensor((self._unit, self._differences, self._first)),
            "center": self._center,
            "basis": self._basis,
            "random": self._random.get_state(),
        }
        for name, part in (("record", self._record), ("metric", self._metric)):
            state |= {f"{name}.{key}": t for key, t in part.state().items()} if part is not None else {}
        if self.choice is not None:
            state |= {
                "choice": self.choice[0],
                "choice.loss": torch.tensor(self.choice[1], dtype=torch.float64),
            }
        return state

    def _load(self, state: State) -> None:
        since, used, merit, self._window, self._damping = state["numbers"].tolist()
        self._since, self._used, self._merit = int(since), int(used), merit
        self._unit, self._differences, self._first = state["flags"].tolist()
        self._center, self._basis = state["center"], state["basis"]
        self._random.set_state(state["random"])
        record, metric = part_of(state, "record."), part_of(state, "metric.")
        self._record = Record.of_state(record, self._room(record["z"].shape[2])) if record else None
        self._metric = Metric.of_state(metric) if metric else None
        self.choice = (state["choice"], float(state["choice.loss"])) if "choice" in state else None
        if self._record is not None and not self._first:
            self._fit(self._record)
        self.batch_size = self._next_size()
