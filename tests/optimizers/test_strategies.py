"""Strategies by name, and each against what its name promises."""

import importlib.machinery
import sys
import types
from typing import Literal, Optional

import cma
import numpy as np
import pytest
import torch

from ggl.base.errors import DeviceError, GGLError, InputError, UnknownNameError
from ggl.base.random import numpy_stream
from ggl.optimizers import SideBySide, load_group, load_strategy
from ggl.optimizers.cmaes.searches import BatchedCMAES
from ggl.optimizers.cmaes.strategies import CMAES
from ggl.optimizers.random_search import RandomSearch

DIM = 12


def load(specification, budget=200, latent_dim=DIM):
    return load_strategy(specification, latent_dim=latent_dim, budget=budget, seed=3)


def ellipsoid(z):
    scale = 10 ** torch.linspace(0, 2, z.shape[1], dtype=torch.float64)
    return (scale * (z - 1).square()).sum(1)


def minimize(strategy, objective, generations):
    best = torch.inf
    for _ in range(generations):
        z = strategy.ask().requires_grad_(strategy.needs_gradient)
        loss = objective(z)
        gradient = torch.autograd.grad(loss.sum(), z)[0] if strategy.needs_gradient else None
        strategy.tell(z, loss, gradient)
        best = min(best, loss.min().item())
    return best


@pytest.mark.parametrize(
    ("specification", "attribute", "value"),
    [
        ("cma-es", "sigma0", 0.5),
        ("cma-es:sigma0=0.3", "sigma0", 0.3),
        ("cma-es:sigma0=1", "sigma0", 1),
        ("cma-es:sigma0=0.3,population=30", "batch_size", 30),
        ("cma-es: population = 30", "batch_size", 30),
        ("sep-cma-es:population=1e1", "batch_size", 10),
        ("random:population=5", "batch_size", 5),
        ("adam:learning_rate=0.02,starts=2", "learning_rate", 0.02),
        ("adam:learning_rate=0.02,starts=2", "batch_size", 2),
    ],
)
def test_options_reach_the_strategy(specification, attribute, value):
    assert getattr(load(specification), attribute) == value


@pytest.mark.parametrize(("dim", "population"), [(1, 4), (12, 11), (64, 16), (128, 18)])
def test_the_default_population_grows_with_the_dimension(dim, population):
    """4 + floor(3 ln d): Hansen (arXiv 1604.00772), equation 48."""
    assert load("cma-es", latent_dim=dim).batch_size == population


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("cmaes", "no strategy is named 'cmaes'; did you mean 'cma-es'"),
        ("cma-es:sigma=0.3", "did you mean 'sigma0'"),
        ("random:sigma0=1", "option of strategy random"),
        ("adam:seed=1", "known: learning_rate, starts, signed, schedule"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_one(specification, reason):
    with pytest.raises(UnknownNameError, match=reason):
        load(specification)


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("cma-es:sigma0=big", "expected a number for sigma0, found 'big'"),
        ("cma-es:sigma0", "expected option=value"),
        ("cma-es:0.3", "expected option=value"),
        ("cma-es:sigma0=0.3,", "expected option=value"),
        ("cma-es:sigma0=0", "expected sigma0 above 0, found 0"),
        ("sep-cma-es:sigma0=-1", "expected sigma0 above 0, found -1"),
        ("cma-es:sigma0=nan", "expected sigma0 above 0"),
        ("cma-es:sigma0=inf", "expected sigma0 above 0"),
        ("cma-es:population=2", "population of at least 3, found 2"),
        ("cma-es:population=8.5", "expected a whole number for population, found 8.5"),
        ("cma-es:population=nan", "expected a whole number for population, found nan"),
        ("random:population=0", "at least 1 candidate a generation, found 0"),
        ("random:population=-3", "at least 1 candidate a generation, found -3"),
        ("random:population=inf", "expected a whole number for population, found inf"),
        ("adam:starts=0", "expected starts and learning_rate above 0"),
        ("adam:starts=2.5", "expected a whole number for starts, found 2.5"),
        ("adam:learning_rate=0", "above 0, found 4 and 0"),
        ("adam:learning_rate=nan", "above 0, found 4 and nan"),
        ("adam:learning_rate=inf", "above 0, found 4 and inf"),
        ("adam:signed=true", "expected 0 or 1 for signed, found true"),
        ("adam:schedule=cosine", "no value of schedule is named 'cosine'"),
    ],
)
def test_bad_options_are_refused(specification, reason):
    with pytest.raises(InputError, match=reason) as error:
        load(specification)
    assert "\n" not in str(error.value)


class Own(RandomSearch):
    """A user's strategy with options of every kind."""

    def __init__(
        self,
        latent_dim: int,
        *,
        budget: int,
        seed: int,
        mode: Literal["a", "b"] | None = None,
        count: Optional[int] = None,  # noqa: UP045
        share: float = 0.5,
        flag: bool = False,
        path: str = "",
        **more: int,
    ) -> None:
        super().__init__(latent_dim, budget=budget, seed=seed)
        self.options = (mode, count, share, flag, path, more)


class Changed(CMAES):
    """A user's CMA-ES that does something else with what it is told."""

    def _tell(self, z, loss, gradient):
        super()._tell(z, -loss, gradient)


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own_search")
    module.Own, module.Changed = Own, Changed
    module.wrong = lambda latent_dim, *, budget, seed: "a string"
    monkeypatch.setitem(sys.modules, "own_search", module)
    module.__spec__ = importlib.machinery.ModuleSpec("own_search", None)


def test_the_users_own_class_is_loaded_with_its_options(own):
    assert load("own_search:Own").options == (None, None, 0.5, False, "", {})
    strategy = load("own_search:Own:mode=b,count=3,share=1,flag=1,path=x:y")
    assert strategy.options == ("b", 3, 1.0, True, "x:y", {})
    assert [type(value) for value in strategy.options[1:4]] == [int, float, bool]


@pytest.mark.parametrize(
    ("specification", "reason"),
    [
        ("own_search:wrong", "expected a Strategy, found str"),
        ("own_search:Own:mode=c", "no value of mode is named 'c'"),
        ("own_search:Own:more=1", "did you mean 'mode'"),
        ("own_search:Own:flag=yes", "expected 0 or 1 for flag, found yes"),
        ("own_search:Own:count=1e30", "at most 10,000,000 for count"),
        ("own_search:Own:count=1,count=2", "each once, found 'count=2'"),
        ("json:dumps", "takes latent_dim, budget and seed, found obj"),
        ("builtins:int", "expected a class or function with annotations"),
    ],
)
def test_what_is_no_strategy_or_no_option_is_refused(own, specification, reason):
    with pytest.raises(GGLError, match=reason) as error:
        load(specification)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("specification", "kind"),
    [
        ("cma-es", BatchedCMAES),
        ("sep-cma-es", BatchedCMAES),
        ("own_search:Changed", SideBySide),
        ("random", SideBySide),
    ],
)
def test_a_class_that_changes_the_search_does_not_inherit_its_group(own, specification, kind):
    assert type(load_group(specification, latent_dim=DIM, budget=200, seeds=[0, 1])) is kind


def test_a_group_places_models_where_its_device_is():
    with pytest.raises(DeviceError, match="'cuda:99' is not there"):
        load_group("turbo", latent_dim=DIM, budget=200, seeds=[0], device=torch.device("cuda:99"))


@pytest.mark.parametrize(("name", "diagonal"), [("cma-es", False), ("sep-cma-es", True)])
def test_cma_es_is_pycma_given_the_same_samples(name, diagonal):
    """pycma draws samples of its own, which are replaced by ours before it is told."""
    random = numpy_stream(3, "reference")
    options = {
        "popsize": 11,
        "CMA_diagonal": diagonal,
        "randn": lambda *shape: random.standard_normal(shape),
        "seed": np.nan,
        "verbose": -10,
    }
    reference = cma.CMAEvolutionStrategy(np.zeros(DIM), 0.5, options)
    strategy = load(name)
    for _ in range(30):
        z = strategy.ask()
        strategy.tell(z, ellipsoid(z))
        reference.ask()
        reference.tell(list(z.numpy().copy()), ellipsoid(z).tolist(), check_points=False)
        state = strategy.state_dict()
        np.testing.assert_allclose(state["mean"][0], reference.mean, rtol=1e-9, atol=1e-12)
        assert state["sigma"].item() == pytest.approx(reference.sigma, rel=1e-9)


@pytest.mark.parametrize(("name", "loss"), [("cma-es", 1e-3), ("sep-cma-es", 1e-6)])
def test_cma_es_solves_an_ill_conditioned_ellipsoid(name, loss):
    assert minimize(load(name), ellipsoid, 250) < loss


def test_random_search_draws_standard_normals():
    """Of n draws the mean has a standard deviation of 1 / sqrt(n), the variance one of sqrt(2 / n)."""
    z = load("random:population=2000").ask().flatten()
    assert abs(z.mean()) < 5 / len(z) ** 0.5
    assert abs(z.var() - 1) < 5 * (2 / len(z)) ** 0.5


def test_adam_starts_from_standard_normals_and_ends_at_the_minimum():
    """400 steps at a rate of 0.1 can walk 32 units: far enough for any start."""
    assert minimize(load("adam", budget=1600), ellipsoid, 400) < 1e-4


def test_adams_first_step_is_its_rate_along_the_gradients_sign():
    """After one step the corrected moments are the gradient and its square: the step is rate · sign(g).

    Of 20 steps the rate reaches its height at the first, 1 / 20 being the 5 % of rising.
    """
    strategy = load("adam:starts=1,learning_rate=0.07", budget=20)
    z = strategy.ask()
    gradient = torch.linspace(-1, 2, DIM, dtype=torch.float64)[None]
    strategy.tell(z, ellipsoid(z), gradient)
    torch.testing.assert_close(strategy.ask(), z - 0.07 * gradient.sign(), rtol=0, atol=1e-7)


def test_adam_agrees_with_torch_where_the_rate_is_level():
    """Between 5 % and 75 % of the steps only the rate of the first steps differs: none here of 20."""
    strategy = load("adam:starts=2", budget=40)
    z = strategy.ask()
    parameter = torch.nn.Parameter(z.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        ellipsoid(parameter).sum().backward()
        strategy.tell(z, ellipsoid(z), parameter.grad)
        optimizer.step()
        z = strategy.ask()
        torch.testing.assert_close(z, parameter.detach(), rtol=1e-9, atol=1e-9)


def test_adams_rate_falls_to_zero_at_the_end():
    strategy = load("adam:starts=1", budget=20)
    steps = []
    for _ in range(20):
        z = strategy.ask()
        strategy.tell(z, ellipsoid(z), torch.ones_like(z))
        steps.append((z - strategy._z).abs().max().item())
    assert steps[14:] == sorted(steps[14:], reverse=True)
    assert steps[-1] == pytest.approx(0, abs=1e-12)


def test_signed_adam_is_adam_given_the_gradients_sign():
    signed, plain = load("adam:signed=1", budget=80), load("adam", budget=80)
    for _ in range(20):
        z = signed.ask()
        assert torch.equal(plain.ask(), z)
        gradient = 2 * (z - 1) * torch.logspace(-3, 3, DIM, dtype=torch.float64)
        signed.tell(z, ellipsoid(z), gradient)
        plain.tell(z, ellipsoid(z), gradient.sign())


def test_adam_in_steps_agrees_with_torchs_multi_step_rate():
    """Milestones after 3/8, 5/8 and 7/8 of 40 steps, as in the code of Inverting Gradients."""
    strategy = load("adam:starts=2,schedule=steps,signed=1", budget=80)
    z = strategy.ask()
    parameter = torch.nn.Parameter(z.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [15, 25, 35], gamma=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        ellipsoid(parameter).sum().backward()
        parameter.grad.sign_()
        strategy.tell(z, ellipsoid(z), parameter.grad)
        optimizer.step()
        schedule.step()
        z = strategy.ask()
        torch.testing.assert_close(z, parameter.detach(), rtol=1e-9, atol=1e-9)


def test_an_adam_of_steps_is_resumed_at_its_rate():
    strategy, resumed = (load("adam:schedule=steps,signed=1", budget=80) for _ in range(2))

    def advance(search, steps):
        for _ in range(steps):
            z = search.ask()
            search.tell(z, ellipsoid(z), 2 * (z - 1))
        return search.ask()

    advance(strategy, 12)
    z = strategy._asked
    strategy.tell(z, ellipsoid(z), 2 * (z - 1))
    resumed.load_state_dict(strategy.state_dict())
    assert torch.equal(advance(resumed, 5), advance(strategy, 5))
