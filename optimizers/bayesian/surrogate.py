"""Gaussian processes over BoTorch: fitting, and batches by LogEI or Thompson sampling.

Inputs x are (n, d) in the unit box, scores are standardized negated losses (higher is better), all
float64. Several outputs are modeled apart, each standardized by itself. Importing this module imports
BoTorch, so strategies import it when they first need a model.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", r"`torch\.jit", FutureWarning
    )  # linear_operator compiles as it is imported
    from botorch.acquisition.analytic import LogExpectedImprovement
    from botorch.acquisition.logei import qLogExpectedImprovement
    from botorch.acquisition.objective import GenericMCObjective
    from botorch.exceptions.errors import ModelFittingError, OptimizationGradientError
    from botorch.exceptions.warnings import BotorchWarning
    from botorch.models import SingleTaskGP
    from botorch.optim.fit import fit_gpytorch_mll_scipy
    from botorch.optim.optimize import optimize_acqf
    from botorch.sampling.normal import SobolQMCNormalSampler
    from gpytorch.constraints import Interval
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood
    from gpytorch.utils.warnings import GPInputWarning, NumericalWarning
    from linear_operator.utils.cholesky import psd_safe_cholesky
    from linear_operator.utils.errors import NanError, NotPSDError

__all__ = [
    "Surrogate",
    "fit",
    "greedy_log_ei",
    "hyperparameters",
    "isolated",
    "length_scales",
    "standardize",
    "thompson",
]

Kind: TypeAlias = Literal["global", "local"]
"""global: BoTorch's default, RBF with dimension-scaled priors; local: TuRBO's bounded Matérn-5/2."""

FIT_STEPS = 15
"""L-BFGS-B steps a fit: it starts from the last fit's hyperparameters, so few are needed."""

LENGTH_SCALE, SIGNAL, NOISE = (0.005, 2.0), (0.05, 20.0), (0.0005, 0.1)
"""The local model's bounds (arXiv 1910.01739, appendix)."""

STARTS, ACQUISITION_STEPS, SAMPLES = 2, 6, 64
"""LogEI: starts a candidate, L-BFGS-B steps, quasi-Monte-Carlo samples."""

FAILURES = (ModelFittingError, NotPSDError, NanError)


@contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Give BoTorch a random state of its own, and silence the warnings of its numerics."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), warnings.catch_warnings():
        for kind in (BotorchWarning, GPInputWarning, NumericalWarning):
            warnings.simplefilter("ignore", kind)
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


class Surrogate(NamedTuple):
    """A fitted model of scores (n, k); outputs = center - scale · score."""

    model: SingleTaskGP
    center: Float[Tensor, " k"]
    scale: Float[Tensor, " k"]
    held: bool
    """Whether the fit succeeded; otherwise the hyperparameters are the defaults."""


def fit(
    x: Float[Tensor, "n d"], outputs: Float[Tensor, "n k"], kind: Kind, start: Tensor, steps: int = FIT_STEPS
) -> Surrogate:
    """Return a model at a maximum of its (penalized) marginal likelihood.

    Args:
        x: inputs.
        outputs: of each, the loss alone or several; standardized and negated for the model.
        kind: of kernel.
        start: `hyperparameters` to begin from; none (empty) for the defaults.
        steps: L-BFGS-B steps; 0 takes `start` as it is.
    """
    score, center, scale = standardize(outputs)
    model = _model(x, score, kind)
    if len(start):
        vector_to_parameters(start.to(x), model.parameters())
    held = steps == 0 or _maximize_likelihood(model, steps)
    if not held:
        model = _model(x, score, kind)
    return Surrogate(model.eval().requires_grad_(False), center, scale, held)


def standardize(
    outputs: Float[Tensor, "n k"],
) -> tuple[Float[Tensor, "n k"], Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Return scores, and the centers and the scales of outputs = center - scale · score.

    Outputs that are equal but for rounding give scores of zero.
    """
    size = outputs.abs().amax(0)
    # Squares of huge losses would overflow, of tiny ones vanish.
    small = outputs / torch.where(size > 0, size, 1.0)
    low = small.amin(0)
    spread = small.amax(0) - low
    varies = spread > 1e-12
    unit = torch.where(varies, (small - low) / torch.where(varies, spread, 1.0), 0.0)
    center, scale = unit.mean(0), torch.where(varies, unit.std(0, correction=0), 1.0)
    return (center - unit) / scale, (low + spread * center) * size, spread * scale * size


def hyperparameters(model: SingleTaskGP) -> Float[Tensor, " p"]:
    """Return everything that a fit sets, on the CPU."""
    return parameters_to_vector(model.parameters()).detach().cpu()


def _maximize_likelihood(model: SingleTaskGP, steps: int) -> bool:
    likelihood = ExactMarginalLogLikelihood(model.likelihood, model).train()
    try:
        fit_gpytorch_mll_scipy(likelihood, options={"maxiter": steps})
    except FAILURES:
        return False
    return bool(parameters_to_vector(model.parameters()).isfinite().all())


def _model(x: Tensor, score: Tensor, kind: Kind) -> SingleTaskGP:
    if kind == "global":
        return SingleTaskGP(x, score, outcome_transform=None)
    kernel = MaternKernel(
        nu=2.5,
        ard_num_dims=x.shape[1],
        lengthscale_constraint=Interval(*LENGTH_SCALE, transform=None, initial_value=0.5),
    )
    scaled = ScaleKernel(kernel, outputscale_constraint=Interval(*SIGNAL, transform=None, initial_value=1.0))
    noise = GaussianLikelihood(noise_constraint=Interval(*NOISE, transform=None, initial_value=0.005))
    return SingleTaskGP(x, score, outcome_transform=None, covar_module=scaled, likelihood=noise)


def length_scales(model: SingleTaskGP) -> Float[Tensor, " d"]:
    """Return a local model's length scales, in units of the box."""
    kernel: Any = model.covar_module
    scales: Tensor = kernel.base_kernel.lengthscale
    return scales.detach()[0]


def thompson(
    model: SingleTaskGP, x: Float[Tensor, "n d"], normal: Float[Tensor, "k n"]
) -> Float[Tensor, "k n"]:
    """Return k draws of the joint posterior at x, made of standard normal numbers."""
    with torch.no_grad():
        posterior = model(x)
        covariance = posterior.covariance_matrix
        root = psd_safe_cholesky(covariance, jitter=1e-6, max_tries=5)
    draws: Tensor = posterior.mean + normal.to(x) @ root.T
    return draws


def greedy_log_ei(
    surrogate: Surrogate,
    raw: Float[Tensor, "r d"],
    box: Float[Tensor, "2 d"],
    count: int,
    seed: int,
    worth: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "q d"]:
    """Return `count` points, each maximizing the batch's LogEI given those before (arXiv 2310.20708).

    Args:
        surrogate: fitted.
        raw: points to start from, at least 2 · count; the first candidate starts from those of highest
            LogEI, every other one from the next highest.
        box: lower and upper corner.
        count: q.
        seed: of the quasi-Monte-Carlo samples.
        worth: what is to be improved, of scores (..., k); the score itself where the model has a single one.
    """
    model = surrogate.model
    sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=seed % 2**31)
    single: LogExpectedImprovement | qLogExpectedImprovement
    if worth is None:
        best = model.train_targets.max()
        single = LogExpectedImprovement(model, best)
        batch = qLogExpectedImprovement(model, best, sampler)
    else:
        objective = GenericMCObjective(lambda samples, X: worth(samples))  # noqa: ARG005, N803
        best = worth(model.train_targets.T).max()
        single = batch = qLogExpectedImprovement(model, best, sampler, objective)
    with torch.no_grad():
        starts = raw[single(raw[:, None]).argsort(descending=True, stable=True)]
    if count == 1:
        return _climb(single, starts[:STARTS], box)
    chosen = torch.empty_like(raw[:0])
    for i in range(count):
        batch.set_X_pending(chosen if i else None)
        chosen = torch.cat([chosen, _climb(batch, starts[STARTS * i : STARTS * (i + 1)], box)])
    return chosen


def _climb(
    acquisition: LogExpectedImprovement | qLogExpectedImprovement, starts: Tensor, box: Tensor
) -> Tensor:
    """Return the local maximum that is best, or the first start where a gradient is not finite."""
    try:
        found, _ = optimize_acqf(
            acquisition,
            box,
            q=1,
            num_restarts=len(starts),
            batch_initial_conditions=starts[:, None],
            options={"maxiter": ACQUISITION_STEPS},
            retry_on_optimization_warning=False,
        )
    except (OptimizationGradientError, NotPSDError, NanError):
        return starts[:1]
    climbed: Tensor = found.detach()
    return torch.minimum(torch.maximum(climbed, box[0]), box[1])
