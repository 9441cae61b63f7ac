"""The images' Jacobians on one victim, and what a defense's perturbations come to by them."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ggl.base.counting import Count
from ggl.base.errors import GradientError
from ggl.base.random import stream
from ggl.gradients.view import global_norm
from ggl.i2f.eigenpairs import Eigenpairs, all_eigenpairs, fit_in_memory
from ggl.i2f.forecast import Forecast
from ggl.i2f.jacobian import Jacobian
from ggl.i2f.krylov import Solution, Spectrum, largest_eigenvalues, solve_shifted, steps_needed
from ggl.i2f.perturbations import Perturbation

__all__ = ["DAMPING", "ITERATIVE_DAMPING", "Influence", "Problem"]

DAMPING = 1e-8
"""ε over λ_max, by default: as good as none."""


ITERATIVE_DAMPING = 1e-3
"""The same where images are too large for all eigenpairs, and conjugate gradients have to end."""


EIGENVALUE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


SOLVE_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
"""Relative residuals that are asked for, by the victim's precision."""


GROUP = 64
"""Images, or images times draws, that are solved for side by side."""


Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Influence:
    """The predicted errors of a perfect attacker on every image, under every draw of one defense.

    Attributes:
        defense: its name.
        labels: (n,), the images' classes.
        pixels: an image's length, d_x.
        damping: ε over λ_max.
        lambda_max: (n,), the largest eigenvalue of J Jᵀ.
        gradient_norm: (n,), ‖∇_θ L‖.
        delta_norm: (n, draws), ‖δ‖.
        product_norm: (n, draws), ‖J δ‖.
        bound: (n, draws), ‖J δ‖ / (λ_max + ε): the L2 norm over an image's pixels, at least. Equation 5,
            with the ε of `exact` in it, so that it is never above that.
        exact: (n, draws), ‖(J Jᵀ + ε I)⁻¹ J δ‖, equation 4; None where it was not asked for.
        residual: (n, draws), the solve's ‖J δ - (J Jᵀ + ε I) z‖ / ‖J δ‖; None as above.
        converged: (n, draws), whether λ_max, and the solve if any, met the tolerance.
        forecast: for the owner of a prior, where one was named.
    """

    defense: str
    labels: NDArray[np.int64]
    pixels: int
    damping: float
    lambda_max: Array
    gradient_norm: Array
    delta_norm: Array
    product_norm: Array
    bound: Array
    exact: Array | None
    residual: Array | None
    converged: NDArray[np.bool_]
    forecast: Forecast | None = None

    @property
    def bound_rmse(self) -> Array:
        """The bound as a root mean square over pixels, (n, draws)."""
        return self.bound / float(np.sqrt(self.pixels))

    @property
    def exact_rmse(self) -> Array | None:
        """The exact influence as a root mean square over pixels, (n, draws)."""
        return None if self.exact is None else self.exact / float(np.sqrt(self.pixels))

    @property
    def rmse(self) -> Array:
        """The prediction: the exact influence where there is one, else the bound, as of pixels."""
        return self.bound_rmse if self.exact_rmse is None else self.exact_rmse


class Problem:
    """The images' Jacobians on one victim, with the spectrum's upper end and so ε."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        damping: float | None,
        exact: bool,
        report: Count,
    ) -> None:
        self.model, self.exact, self.report = model, exact, report
        whole = exact and fit_in_memory(len(images), images[0].numel())
        if whole:
            self.jacobian = Jacobian(copy.deepcopy(model).double(), images.double(), labels)
        else:
            self.jacobian = Jacobian(model, images, labels)
        usual = ITERATIVE_DAMPING if exact and not whole else DAMPING
        self.damping = usual if damping is None else damping
        self.eigenpairs = self._decompose() if whole else None
        self.spectrum = self._largest() if self.eigenpairs is None else _known(self.eigenpairs)
        for i in (self.spectrum.values <= 0).nonzero()[:, 0].tolist():
            raise GradientError(
                f"the gradient of image {i} does not depend on its pixels: there is nothing to invert "
                "(a converged victim, dead units?)"
            )

    def _decompose(self) -> Eigenpairs:
        """Return all eigenpairs of J Jᵀ: the influence of any number of defenses is then a product each."""
        n, like = len(self.jacobian), torch.zeros(self.jacobian.num_pixels, dtype=torch.float64)
        operator, found = self._operator(torch.arange(n)), []
        for i in range(n):
            found.append(all_eigenpairs(operator, i, like.to(self.jacobian.device)))
            self.report("eigenpairs", i + 1, n)
        values, vectors = zip(*((pairs.values, pairs.vectors) for pairs in found), strict=True)
        return Eigenpairs(torch.cat(values), torch.cat(vectors))

    def _largest(self) -> Spectrum:
        jacobian, found = self.jacobian, []
        start = torch.randn(1, jacobian.num_pixels, generator=stream(0, "lanczos"), dtype=torch.float64)
        for rows in torch.arange(len(jacobian)).split(GROUP):
            part = start.expand(len(rows), -1).to(jacobian.device)
            operator = self._operator(rows)
            found.append(largest_eigenvalues(operator, part, tolerance=EIGENVALUE_TOLERANCE[jacobian.dtype]))
            self.report("largest eigenvalues", int(rows[-1]) + 1, len(jacobian))
        return Spectrum(
            torch.cat([part.values for part in found]),
            torch.cat([part.residuals for part in found]),
            torch.cat([part.converged for part in found]),
        )

    def _operator(self, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the products with J Jᵀ of the images `rows`, pixels in a row."""
        shape = self.jacobian.images.shape[1:]

        def operator(vectors: Tensor, chosen: Tensor) -> Tensor:
            part = self.jacobian.select(rows[chosen.cpu()])
            return part.normal(vectors.unflatten(1, shape)).flatten(1)

        return operator

    def measure(self, defense: str, drawn: Iterator[Perturbation], draws: int) -> Influence:
        """Return the influence of what a defense did, all draws of an image in a row."""
        n, owners = len(self.jacobian), torch.arange(len(self.jacobian)).repeat_interleave(draws)
        products, delta_norms, gradient_norms = self._products(defense, drawn, owners)
        norms = products.norm(dim=1)
        largest = self.spectrum.values[owners]
        solution = self._solve(defense, products, owners) if self.exact else None
        converged = self.spectrum.converged[owners]
        if solution is not None:
            converged = converged & solution.converged

        def table(values: Tensor) -> NDArray[Any]:
            return values.cpu().numpy().reshape(n, draws)

        return Influence(
            defense=defense,
            labels=self.jacobian.labels.cpu().numpy(),
            pixels=self.jacobian.num_pixels,
            damping=self.damping,
            lambda_max=self.spectrum.values.cpu().numpy(),
            gradient_norm=table(gradient_norms)[:, 0],
            delta_norm=table(delta_norms),
            product_norm=table(norms),
            bound=table(norms / (largest * (1 + self.damping))),
            exact=None if solution is None else table(solution.x.norm(dim=1)),
            residual=None if solution is None else table(solution.residuals),
            converged=table(converged),
        )

    def _products(
        self, defense: str, drawn: Iterator[Perturbation], owners: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return J δ (m, d_x), ‖δ‖ and ‖∇_θ L‖ (m,): no more δ are held at once than one pass takes."""
        products, norms = [], []
        for rows in owners.split(min(GROUP, self.jacobian.chunks.size)):
            group = list(islice(drawn, len(rows)))
            deltas = [one.delta for one in group]
            stacked = {name: torch.stack([delta[name] for delta in deltas]) for name in deltas[0]}
            products.append(self.jacobian.select(rows).product(stacked).flatten(1).double())
            norms += [
                [global_norm(delta), global_norm(one.gradient)]
                for delta, one in zip(deltas, group, strict=True)
            ]
            self.report(f"products, {defense}", len(norms), len(owners))
        delta_norms, gradient_norms = torch.tensor(norms, dtype=torch.float64).unbind(1)
        return torch.cat(products), delta_norms, gradient_norms

    def _solve(self, defense: str, products: Tensor, owners: Tensor) -> Solution:
        tolerance = SOLVE_TOLERANCE[self.jacobian.dtype]
        if self.eigenpairs is not None:
            return self.eigenpairs.solve(
                products, owners, (self.damping * self.spectrum.values)[owners], tolerance
            )
        steps = steps_needed((1 + self.damping) / self.damping, tolerance)
        shift, parts = self.damping * self.spectrum.values, []
        for rows in torch.arange(len(owners)).split(GROUP):
            images = owners[rows]
            operator = self._operator(images)
            solved = solve_shifted(
                operator, products[rows], shift[images], tolerance=tolerance, max_steps=steps
            )
            parts.append(solved)
            self.report(f"exact influence, {defense}", int(rows[-1]) + 1, len(owners))
        return Solution(
            torch.cat([part.x for part in parts]),
            torch.cat([part.residuals for part in parts]),
            torch.cat([part.converged for part in parts]),
        )


def _known(pairs: Eigenpairs) -> Spectrum:
    """Return the upper end of spectra that are known entirely."""
    largest = pairs.largest
    return Spectrum(largest, torch.zeros_like(largest), torch.ones_like(largest, dtype=torch.bool))
