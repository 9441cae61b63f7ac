"""ε against recomputed figures, a closed form, and the order that accountants must keep to."""

import math

import numpy as np
import pytest

from ggl.base.errors import InputError
from ggl.costs.accounting import PrivacySpending, epsilon, spending
from ggl.defenses import Composed, load_defense
from ggl.defenses.base import Defense
from ggl.defenses.privacy import DPSGD, DynamicDP, FedCDP

STEPS, RATE, DELTA = 10_000, 0.01, 1e-5
"""Of the Fed-CDP accounting."""


def spend(defense, layers=1, **changes):
    given = {"rounds": STEPS, "sample_rate": RATE, "delta": DELTA, **changes}
    return spending(defense, layers=layers, **given)


@pytest.mark.slow("composes thousands of rounds")
@pytest.mark.parametrize(
    ("defense", "layers", "expected"),
    [
        (FedCDP(), 1, 0.659),
        (FedCDP(4.0, 0.5), 1, 47.4),
        (FedCDP(), 3, 1.219),
        (DynamicDP("fixed"), 3, 1.219),
        (DPSGD(4.0, 6.0), 3, 0.659),
        (DynamicDP("linear"), 1, 0.450),
        (DynamicDP("exponential"), 1, 0.502),
        (DynamicDP("cyclic"), 1, 0.387),
        (DynamicDP("staircase"), 1, 0.417),
        (DynamicDP("staircase-code"), 1, 0.484),
    ],
)
def test_renyi_accounting_of_fed_cdp(defense, layers, expected):
    """Recomputed with Opacus 1.6's RDPAccountant, schedules there averaged into 100 blocks."""
    found = spend(defense, layers)
    assert found.epsilon == pytest.approx(expected, rel=0.011)
    assert found.sensitivity_factor == (1 if isinstance(defense, DPSGD) else math.sqrt(layers))


@pytest.mark.parametrize(("sigma", "expected"), [(6.0, 0.611), (0.5, 43.4)])
def test_prv_accounting_of_fed_cdp(sigma, expected):
    """Recomputed with Opacus 1.6's PRVAccountant, its upper bound."""
    found = spend(FedCDP(4.0, sigma), accountant="prv")
    assert found.epsilon == pytest.approx(expected, rel=2e-3)


def test_prv_takes_a_schedule_and_is_below_rdp():
    """Ten multipliers; the 100 blocks of the others take 11 s each: 0.422, 0.469 and 0.365."""
    by_prv = spend(DynamicDP("staircase"), accountant="prv").epsilon
    by_rdp = spend(DynamicDP("staircase")).epsilon
    assert by_prv == pytest.approx(0.389, rel=2e-3)
    assert by_prv < by_rdp


def gaussian(sigma, steps, delta):
    """Return ε of the Gaussian mechanism by its Rényi divergence α T / (2σ²) and Balle et al.'s bound."""
    alpha = 1 + np.logspace(-3, 3, 20_001)
    spent = alpha * steps / (2 * sigma**2)
    return (spent + np.log1p(-1 / alpha) - (np.log(delta) + np.log(alpha)) / (alpha - 1)).min()


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (0.3, 2, 1e-5), (5.0, 10, 1e-6), (20.0, 3, 1e-3)]
)
def test_without_sampling_it_is_the_gaussian_mechanism(sigma, steps, delta):
    """A bound over the orders tried is above the one over all, by little."""
    found = epsilon([sigma] * steps, sample_rate=1.0, delta=delta)
    assert 1 - 1e-9 <= found / gaussian(sigma, steps, delta) < 1.01


def test_blocks_bound_a_schedule_from_above_and_closely():
    sigmas = np.linspace(6, 5, 30)
    exact = epsilon(sigmas, sample_rate=0.1, delta=DELTA)
    joined = epsilon(sigmas, sample_rate=0.1, delta=DELTA, blocks=6)
    assert exact < joined < 1.03 * exact
    assert epsilon(sigmas, sample_rate=0.1, delta=DELTA, blocks=30) == exact


def test_one_loud_step_is_not_averaged_away():
    """Of 30 different multipliers in 3 blocks, the least one alone spends no more than all."""
    sigmas = [0.5, *np.linspace(50, 60, 29)]
    alone = epsilon([0.5], sample_rate=0.1, delta=DELTA)
    assert epsilon(sigmas, sample_rate=0.1, delta=DELTA, blocks=3) >= alone


def test_the_order_of_steps_does_not_matter():
    sigmas = np.repeat([1.0, 2.0, 3.0], 4)
    mixed = sigmas[np.random.default_rng(0).permutation(12)]
    before = mixed.copy()
    found = [epsilon(s, sample_rate=0.1, delta=DELTA) for s in (sigmas, mixed)]
    assert found[0] == found[1]
    assert np.array_equal(mixed, before)


def test_more_of_anything_but_noise_and_delta_spends_more():
    usual = epsilon([2.0] * 100, sample_rate=0.05, delta=1e-5)
    assert epsilon([2.0] * 200, sample_rate=0.05, delta=1e-5) > usual
    assert epsilon([2.0] * 100, sample_rate=0.1, delta=1e-5) > usual
    assert epsilon([2.1] * 100, sample_rate=0.05, delta=1e-5) < usual
    assert epsilon([2.0] * 100, sample_rate=0.05, delta=1e-4) < usual


@pytest.mark.parametrize("sigmas", [[0.0], [6.0, 0.0, 6.0]])
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_a_step_without_noise_spends_everything(sigmas, accountant):
    assert epsilon(sigmas, sample_rate=RATE, delta=DELTA, accountant=accountant) == math.inf


@pytest.mark.parametrize("sigma", [0.01, 1000.0])
def test_extreme_noise_gives_a_bound_without_a_warning(sigma):
    """Where the best order lies beyond those tried, at 1.01 or at 1,000."""
    found = epsilon([sigma] * 10, sample_rate=RATE, delta=DELTA)
    assert 0 < found < math.inf


def test_a_spending_tells_what_it_rests_on():
    found = spend(DynamicDP("fixed", clipping="l2-max"), 4, rounds=1, sample_rate=0.5, delta=1e-3)
    assert found == PrivacySpending(
        epsilon=epsilon([3.0], sample_rate=0.5, delta=1e-3),
        delta=1e-3,
        accountant="rdp",
        guarantee="nominal",
        sensitivity_factor=2.0,
    )


@pytest.mark.parametrize("name", ["none", "noise:1", "clip:4+noise:1"])
def test_a_defense_without_a_guarantee_is_refused(name):
    assert (
        refusal(lambda: spend(load_defense(name)))
        == f"defense {name} gives no DP guarantee: its ε is infinite"
    )


def test_what_is_done_to_a_private_gradient_costs_nothing():
    private = DPSGD(1.0, 2.0)
    composed = Composed([private, load_defense("prune:0.9"), load_defense("noise:1")])
    assert spend(composed, rounds=10) == spend(private, rounds=10)


class SeesTheBatch(Defense):
    name = "nosy"

    def share(self, client, generator):
        return client.gradient()


def test_a_later_part_that_sees_the_batch_voids_the_guarantee():
    composed = Composed([DPSGD(1.0, 2.0), SeesTheBatch()])
    assert refusal(lambda: spend(composed)) == (
        "defense nosy is given the client, and so may see the batch: after it the guarantee of dp-sgd:1,2 is "
        "not established"
    )


def test_a_private_part_that_is_not_first_gives_no_guarantee():
    composed = Composed([load_defense("prune:0.9"), DPSGD(1.0, 2.0)])
    expected = "expected the private defense first, found prune:0.9 before it"
    assert refusal(lambda: spend(composed)) == expected


def refusal(call):
    with pytest.raises(InputError) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize(
    ("sigmas", "changes", "message"),
    [
        ([], {}, "expected noise multipliers (steps,), found shape (0,)"),
        ([[1.0]], {}, "expected noise multipliers (steps,), found shape (1, 1)"),
        ([1.0, -2.0], {}, "expected noise multipliers of at least 0, found -2"),
        ([1.0, math.nan], {}, "expected noise multipliers of at least 0, found nan"),
        ([math.inf], {}, "expected noise multipliers of at least 0, found inf"),
        ([1.0], {"sample_rate": 0.0}, "expected a sample rate above 0 and at most 1, found 0"),
        ([1.0], {"sample_rate": 1.5}, "expected a sample rate above 0 and at most 1, found 1.5"),
        ([1.0], {"delta": 0.0}, "expected a delta above 0 and below 1, found 0"),
        ([1.0], {"delta": 1.0}, "expected a delta above 0 and below 1, found 1"),
        ([1.0], {"blocks": 0}, "expected at least 1 block, found 0"),
        (
            [1.0],
            {"sample_rate": 1.0, "accountant": "prv"},
            "accountant 'prv' needs a sample rate below 1 and an epsilon of at most 100, found 1 and 4.729; "
            "take 'rdp'",
        ),
    ],
)
def test_bad_input(sigmas, changes, message):
    given = {"sample_rate": RATE, "delta": DELTA, **changes}
    assert refusal(lambda: epsilon(sigmas, **given)) == message


def test_prv_refuses_a_large_epsilon():
    message = refusal(lambda: epsilon([0.05], sample_rate=0.5, delta=DELTA, accountant="prv"))
    assert message.startswith("accountant 'prv' needs a sample rate below 1 and an epsilon of at most 100")


def test_prv_says_when_a_delta_is_too_small():
    message = refusal(lambda: epsilon([1.0], sample_rate=RATE, delta=1e-18, accountant="prv"))
    assert message.startswith("accountant 'prv' can't compute this: ")
    assert message.endswith("; take 'rdp'")


def test_layers_and_rounds_are_counted():
    assert refusal(lambda: spend(FedCDP(), 0)) == "expected at least 1 layer, found 0"
    assert refusal(lambda: spend(FedCDP(), rounds=0)) == "fed-cdp:4,6: expected at least 1 round, found 0"
