"""Private gradients against hand-computed cases, a slow reference, statistics, and their schedules."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ggl
from ggl.base.errors import InputError, UnknownNameError
from ggl.defenses import Client, load_defense
from ggl.defenses.privacy import DPSGD, DynamicDP, FedCDP, PrivateDefense
from ggl.defenses.schedules import (
    NOISE_SCHEDULES,
    decaying_bound,
    l2_max_bounds,
    median_bounds,
)
from ggl.gradients import Clip, GradientOracle

quick = settings(max_examples=30)
VICTIM = ggl.load_victim("mlp", in_channels=1, num_classes=3, image_size=8, seed=0)
ORACLE = GradientOracle(VICTIM)
IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 2, 1])

ONE = {"a": [3.0, 4.0], "b": [12.0]}
TWO = {"a": [0.6, 0.0], "b": [0.8]}
"""Norms by layer 5 and 12, in all 13; 0.6 and 0.8, in all 1."""

SILENT = [
    DPSGD(0.5, 0.0),
    FedCDP(0.2, 0.0),
    DynamicDP("fixed", clip=0.3, sigma=0.0),
    DynamicDP("fixed", clipping="decaying", clip=0.3, floor=0.05, sigma=0.0),
    DynamicDP("fixed", clipping="median", sigma=0.0),
    DynamicDP("fixed", clipping="l2-max", sigma=0.0),
]
NOISY = [
    DPSGD(1.5, 0.7),
    FedCDP(),
    *(DynamicDP(schedule) for schedule in (*NOISE_SCHEDULES, "fixed")),
    *(DynamicDP(clipping=bound) for bound in ("decaying", "median", "l2-max")),
]


def named(defenses):
    return pytest.mark.parametrize("defense", defenses, ids=lambda defense: defense.name)


@dataclass(frozen=True)
class Given(Client):
    """A client whose examples' gradients are given."""

    gradients: tuple = ()

    def examples(self):
        return [dict(g) for g in self.gradients]


def tensors(values):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def client(**changes):
    return Client(ORACLE, IMAGES, LABELS, **changes)


def given_client(*gradients, **changes):
    return Given(ORACLE, IMAGES, LABELS, gradients=gradients, **changes)


def share(defense, *gradients, seed=0, **changes):
    made = tuple(tensors(g) if isinstance(next(iter(g.values())), list) else g for g in gradients)
    return defense.share(given_client(*made, **changes), torch.Generator().manual_seed(seed))


def same(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        # ONE by 2.6 / 13, TWO whole.
        (DPSGD(2.6, 0.0), {"a": [(0.6 + 0.6) / 2, 0.8 / 2], "b": [(2.4 + 0.8) / 2]}),
        (DPSGD(13.0, 0.0), {"a": [1.8, 2.0], "b": [6.4]}),
        # ONE's layers by 1 / 5 and 1 / 12, TWO whole.
        (FedCDP(1.0, 0.0), {"a": [(0.6 + 0.6) / 2, 0.8 / 2], "b": [(1.0 + 0.8) / 2]}),
        # TWO's too: by 0.5 / 0.6 and 0.5 / 0.8.
        (FedCDP(0.5, 0.0), {"a": [(0.3 + 0.5) / 2, 0.4 / 2], "b": [0.5]}),
        # Medians of (5, 0.6) and (12, 0.8): 2.8 and 6.4.
        (
            DynamicDP("fixed", clipping="median", sigma=0.0),
            {"a": [(2.8 * 0.6 + 0.6) / 2, 2.8 * 0.8 / 2], "b": [(6.4 + 0.8) / 2]},
        ),
        (DynamicDP("fixed", clipping="l2-max", sigma=0.0), {"a": [1.8, 2.0], "b": [6.4]}),
    ],
)
def test_by_hand(defense, expected):
    found = share(defense, ONE, TWO)
    for key, value in tensors(expected).items():
        torch.testing.assert_close(found[key], value, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("round_", "bound"), [(0, 3.0), (2, 2.5), (5, 1.75), (9, 0.75)])
def test_a_decaying_bound_by_hand(round_, bound):
    """3 - 2.5 · t/10; the layer of norm 12 is left with the bound, the example of norm 1 adds nothing."""
    defense = DynamicDP("fixed", clipping="decaying", clip=3.0, floor=0.5, sigma=0.0)
    found = share(defense, ONE, {"a": [0.0, 0.0], "b": [0.0]}, round=round_, rounds=10)
    torch.testing.assert_close(found["b"], torch.tensor([bound / 2], dtype=torch.float64))


def test_l2_max_clips_a_layer_above_the_cap_only():
    defense = DynamicDP("fixed", clipping="l2-max", sigma=0.0)
    found = share(defense, {"a": [30.0, 40.0], "b": [31.0]})
    torch.testing.assert_close(found["a"], torch.tensor([19.2, 25.6], dtype=torch.float64))
    assert found["b"].item() == 31


def test_clipping_every_example_is_not_clipping_the_batch():
    """(6, 0) and (0, 0.5) clipped to 1 have the mean (0.5, 0.25); their mean (3, 0.25) has another."""
    found = share(DPSGD(1.0, 0.0), {"w": [6.0, 0.0]}, {"w": [0.0, 0.5]})["w"]
    torch.testing.assert_close(found, torch.tensor([0.5, 0.25], dtype=torch.float64))
    batch = load_defense("clip:1").protect(tensors({"w": [3.0, 0.25]}), torch.Generator())["w"]
    assert (found - batch).norm() > 0.5


def slow(defense, examples, progress):
    """Clip and average with plain numbers, one example and layer after the other."""
    norms = [{key: math.sqrt(float(g.double().square().sum())) for key, g in e.items()} for e in examples]
    mean = {key: torch.zeros_like(g) for key, g in examples[0].items()}
    for example, norm in zip(examples, norms, strict=True):
        for key, g in example.items():
            length, bound = norm[key], getattr(defense, "clip", 4.0)
            if isinstance(defense, DPSGD):
                length = math.sqrt(sum(n**2 for n in norm.values()))
            elif isinstance(defense, DynamicDP) and defense.bound == "decaying":
                bound = defense.clip + (defense.floor - defense.clip) * progress
            elif isinstance(defense, DynamicDP) and defense.bound == "median":
                bound = float(np.median([n[key] for n in norms]))
            elif isinstance(defense, DynamicDP) and defense.bound == "l2-max":
                bound = min(max(max(norm.values()), 0.1), 32.0)
            mean[key] += g * min(1.0, bound / length) / len(examples)
    return mean


@named(SILENT)
def test_without_noise_it_is_the_slow_mean_of_clipped_examples(defense):
    here = client(round=2, rounds=5)
    found = defense.share(here, torch.Generator().manual_seed(0))
    expected = slow(defense, here.examples(), 0.4)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-7)
    plain = {key: torch.stack([e[key] for e in here.examples()]).mean(0) for key in found}
    changed = [key for key, g in plain.items() if not torch.allclose(found[key], g, rtol=1e-3)]
    assert bool(changed) == ("l2-max" not in defense.name)


N = 200_000


def noise(defense, *scales, **changes):
    """Return what is shared of examples whose layers a, b hold N/2 zeros and c one number: the noise."""
    zeros = torch.zeros(N // 2)
    made = [{"a": zeros, "b": zeros, "c": torch.tensor([scale])} for scale in scales]
    shared = share(defense, *made, **changes)
    return torch.cat([shared["a"], shared["b"]]).double()


@pytest.mark.parametrize(
    ("defense", "scales", "std"),
    [
        (DPSGD(2.0, 0.5), [9.0], 1.0),
        (DPSGD(2.0, 0.5), [9.0, 0.1, 5.0, 1.0], 1.0 / 4),
        (FedCDP(), [9.0, 1.0, 3.0], 24.0 / 3),
        (DynamicDP(), [9.0, 1.0], 15 * 4 / 2),
        # S = 5, 0.1 at least, 32 at most.
        (DynamicDP("fixed", clipping="l2-max", sigma=2.0), [5.0, 0.01, 100.0], 2 * (37.1 / 3) / 3),
        (DynamicDP("cyclic", clipping="l2-max"), [5.0], 15 * 5.0),
    ],
)
def test_the_noise_has_the_bounds_deviation_over_the_batch(defense, scales, std):
    """The variance of n normal numbers deviates by std² · sqrt(2/n), their mean by std / sqrt(n)."""
    x = noise(defense, *scales)
    assert abs((x / std).square().mean() - 1) < 5 * math.sqrt(2 / N)
    assert abs((x / std).mean()) < 5 / math.sqrt(N)
    # The correlation of n/2 independent pairs deviates by sqrt(2/n).
    assert abs(torch.corrcoef(x.view(2, -1))[0, 1]) < 5 * math.sqrt(2 / N)


def test_the_noise_follows_the_schedule():
    """At t/T = 0.75: 15 - 10.15 · 0.75 = 7.3875; of one draw the ratio is exact."""
    early, late = noise(DynamicDP(), 1.0), noise(DynamicDP(), 1.0, round=3, rounds=4)
    torch.testing.assert_close(late / early, torch.full_like(early, 7.3875 / 15), rtol=1e-5, atol=0)


def test_median_clipping_takes_its_noise_by_layer():
    """Medians 2 and 0: a layer whose median is zero is clipped to zero and gets no noise."""
    first, second = {"a": [2.0] + [0.0] * 99, "b": [0.0]}, {"a": [0.0, 2.0] + [0.0] * 98, "b": [0.0]}
    quiet = share(DynamicDP("fixed", clipping="median", sigma=0.0), first, second)["a"]
    shared = share(DynamicDP("fixed", clipping="median", sigma=3.0), first, second)
    drawn = torch.randn(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(shared["a"] - quiet, 3 * 2 / 2 * drawn)
    assert shared["b"].item() == 0


@pytest.mark.parametrize(
    ("schedule", "start", "middle", "end"),
    [
        ("linear", 15.0, 9.925, 4.85),
        ("staircase", 15.0, 15 - 1.015 * 5, 15 - 1.015 * 10),
        ("staircase-code", 15.0, 9.0, 4.0),
        ("exponential", math.exp(2.71), math.exp(2.145), math.exp(1.58)),
        ("cyclic", 15.0, 15 * math.cos(0.62), 15 * math.cos(1.24)),
    ],
)
def test_schedules_by_hand(schedule, start, middle, end):
    sigma = NOISE_SCHEDULES[schedule]
    assert [sigma(0.0), sigma(0.5), sigma(1.0)] == pytest.approx([start, middle, end], rel=1e-14)
    assert sigma(0.0) == pytest.approx(15, rel=2e-3)
    if schedule != "staircase-code":
        assert sigma(1.0) == pytest.approx(math.sqrt(2 * math.log(1.25 / 1e-5)), rel=0.04)


def test_the_staircase_takes_ten_steps():
    sigmas = DynamicDP("staircase").noise_multipliers(10_000)
    np.testing.assert_array_equal(sigmas, np.repeat([15 - 1.015 * step for step in range(10)], 1000))
    assert sigmas[-1] == pytest.approx(5.865)


def test_the_staircase_of_the_code_floors_a_negative_number():
    """Fed-alphaCDP's line, `-1.015*round//10+15`, at round = ⌊t / 100⌋."""
    sigmas = DynamicDP("staircase-code").noise_multipliers(10_000)
    assert sigmas.tolist() == [-1.015 * (t // 100) // 10 + 15 for t in range(10_000)]
    assert (sigmas[0], sigmas[100], sigmas[-1]) == (15, 14, 4)


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_schedules_never_rise(schedule):
    sigmas = DynamicDP(schedule).noise_multipliers(1000)
    assert sigmas.shape == (1000,)
    assert (np.diff(sigmas) <= 0).all()
    assert sigmas[250] == NOISE_SCHEDULES[schedule](0.25)


def test_fixed_multipliers():
    assert DPSGD(1.0, 0.7).noise_multipliers(3).tolist() == [0.7, 0.7, 0.7]
    assert FedCDP().noise_multipliers(2).tolist() == [6.0, 6.0]
    assert DynamicDP("fixed").noise_multipliers(2).tolist() == [6.0, 6.0]
    assert DynamicDP("fixed", sigma=0.5).noise_multipliers(1).tolist() == [0.5]


def test_bounds_by_hand():
    norms = torch.tensor([[3.0, 0.02], [1.0, 40.0], [0.05, 0.01]])
    assert median_bounds(norms)[0].tolist() == norms.median(0).values.tolist()
    assert torch.equal(median_bounds(norms[:2])[1], norms[:2].mean(0))
    torch.testing.assert_close(l2_max_bounds(norms)[:, 1], torch.tensor([3.0, 32.0, 0.1]))
    assert [decaying_bound(6.0, 2.0, t) for t in (0.0, 0.25, 1.0)] == [6.0, 5.0, 2.0]


@quick
@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(0.01, 100),
)
def test_what_is_summed_never_exceeds_the_sensitivity(rows, clip):
    """B times the mean of one clipped example with zeros is at most clip, or clip · sqrt(layers)."""
    for row in rows:
        g = {"a": row[:2], "b": row[2:]}
        for defense in (DPSGD(clip, 0.0), FedCDP(clip, 0.0), DynamicDP("fixed", clip=clip, sigma=0.0)):
            shared = share(defense, g, {"a": [0.0, 0.0], "b": [0.0]})
            norm = 2 * torch.cat(list(shared.values())).norm()
            assert norm <= clip * defense.sensitivity_factor(2) * (1 + 1e-12)


def test_the_sensitivity_factor_is_reached_by_layerwise_clipping():
    shared = share(FedCDP(1.0, 0.0), ONE)
    assert torch.cat(list(shared.values())).norm().item() == pytest.approx(math.sqrt(2), rel=1e-12)
    assert FedCDP().sensitivity_factor(2) == DynamicDP().sensitivity_factor(2) == math.sqrt(2)
    assert DPSGD(1.0, 1.0).sensitivity_factor(2) == 1


@named(NOISY + SILENT)
def test_a_single_examples_gradient_is_protected_as_a_batch_of_one(defense):
    protected = defense.protect(tensors(ONE), torch.Generator().manual_seed(5))
    assert same(protected, share(defense, ONE, seed=5))


@named(NOISY + SILENT)
def test_nothing_is_changed_and_the_generator_defines_the_draw(defense):
    g, before, state = tensors(ONE), IMAGES.clone(), torch.get_rng_state()
    weights = {key: p.clone() for key, p in VICTIM.state_dict().items()}
    shared = [defense.protect(g, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert same(*shared)
    here = client()
    first = defense.share(here, torch.Generator().manual_seed(1))
    assert same(first, defense.share(here, torch.Generator().manual_seed(1)))
    for tensor in [*shared[0].values(), *first.values()]:
        tensor.add_(1)
    assert same(g, tensors(ONE))
    assert same(weights, dict(VICTIM.state_dict()))
    assert torch.equal(IMAGES, before)
    assert not here.memory
    assert torch.equal(torch.get_rng_state(), state)


@named(NOISY)
def test_another_seed_gives_another_draw(defense):
    assert not same(share(defense, ONE, seed=1), share(defense, ONE, seed=2))


@named(NOISY + SILENT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shapes_dtypes_and_zeros_are_kept(defense, dtype):
    g = {"w": torch.ones(2, 3, dtype=dtype), "s": torch.tensor(2.0, dtype=torch.float32), "z": torch.zeros(0)}
    shared = defense.protect(g, torch.Generator().manual_seed(0))
    assert {key: (t.dtype, t.shape) for key, t in shared.items()} == {
        key: (t.dtype, t.shape) for key, t in g.items()
    }
    assert all(t.isfinite().all() for t in shared.values())


@named(SILENT)
def test_a_zero_gradient_without_noise_stays_zero(defense):
    shared = share(defense, {"a": [0.0, 0.0], "b": [0.0]})
    assert not any(t.any() for t in shared.values())


def test_the_device_is_kept():
    g = {key: tensor.to("meta") for key, tensor in tensors(ONE).items()}
    for defense in NOISY:
        shared = defense.protect(g, torch.Generator().manual_seed(0))
        assert all(tensor.device.type == "meta" for tensor in shared.values())


@named(NOISY)
def test_a_defense_after_another_needs_a_batch_of_one(defense):
    mixed = client().after(client().gradient())
    with pytest.raises(InputError) as error:
        defense.share(mixed, torch.Generator().manual_seed(0))
    assert str(error.value) == (
        "a defense that needs every example's gradient must come first: those of 3 examples have been mixed "
        "already"
    )
    alone = Client(ORACLE, IMAGES[:1], LABELS[:1], computed=tensors(ONE))
    found = defense.share(alone, torch.Generator().manual_seed(0))
    assert same(found, defense.protect(tensors(ONE), torch.Generator().manual_seed(0)))


def test_the_guarantee_is_nominal_where_the_bound_depends_on_the_data():
    found = {
        bound: DynamicDP(clipping=bound).guarantee for bound in ("fixed", "decaying", "median", "l2-max")
    }
    assert found == {"fixed": "formal", "decaying": "formal", "median": "nominal", "l2-max": "nominal"}
    assert DPSGD(1.0, 1.0).guarantee == FedCDP().guarantee == "formal"


@named(NOISY)
def test_the_naive_attacker_takes_no_steps_and_another_one_is_refused(defense):
    g = tensors(ONE)
    assert defense.view(g, "naive").steps == ()
    with pytest.raises(UnknownNameError, match="no attacker is named 'clever'"):
        defense.view(g, "clever")


def by_layer(bound):
    return {"a": bound, "b": bound}


ESTIMATED = {"a": 5 + 1e-6, "b": 12 + 1e-6}


@pytest.mark.parametrize(
    ("defense", "adaptive", "informed"),
    [
        (DPSGD(2.0, 1.0), 13 + 1e-6, 2.0),
        (FedCDP(2.0), ESTIMATED, by_layer(2.0)),
        (DynamicDP(), ESTIMATED, by_layer(4.0)),
        (DynamicDP(clipping="decaying", clip=9.0, floor=6.0), ESTIMATED, {"a": 6.0, "b": 9.0}),
        (DynamicDP(clipping="median"), ESTIMATED, ESTIMATED),
        (DynamicDP(clipping="l2-max"), by_layer(32.0), by_layer(32.0)),
    ],
)
def test_attackers_clip_to_the_observed_norm_or_the_known_bound(defense, adaptive, informed):
    for attacker, bound in {"adaptive": adaptive, "informed": informed}.items():
        (step,) = defense.view(tensors(ONE), attacker).steps
        assert isinstance(step, Clip)
        assert step.bound == pytest.approx(bound, rel=1e-15)


@pytest.mark.parametrize("defense", SILENT[:3])
def test_without_noise_the_informed_attacker_explains_a_batch_of_one(defense):
    """To 2e-5: the step's clip adds 1e-6 to a norm, the smallest of which is above 0.1 here."""
    g = {key: 3 * value for key, value in tensors(ONE).items()}
    shared = defense.protect(g, torch.Generator())
    applied = defense.view(shared, "informed").apply(g)
    for key, value in shared.items():
        torch.testing.assert_close(applied[key], value, rtol=2e-5, atol=0)


@named(NOISY + SILENT)
def test_the_name_loads_the_same_defense_again(defense):
    options = defense.name.partition(":")[2]
    again = load_defense(f"ggl.defenses.privacy:{type(defense).__name__}:{options}")
    assert again.name == defense.name
    assert same(again.protect(tensors(ONE), torch.Generator().manual_seed(3)), share(defense, ONE, seed=3))


def test_names_hold_what_matters():
    assert DPSGD(1e30, 0.25).name == "dp-sgd:1e30,0.25"
    assert FedCDP().name == "fed-cdp:4,6"
    assert DynamicDP().name == "dynamic-dp:linear,clipping=fixed,clip=4"
    assert DynamicDP("fixed", clipping="decaying", clip=6.0).name == (
        "dynamic-dp:fixed,clipping=decaying,clip=6,floor=2,sigma=6"
    )
    assert DynamicDP("cyclic", clipping="l2-max").name == "dynamic-dp:cyclic,clipping=l2-max"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPSGD(0.0, 1.0), "dp-sgd: expected a clip above 0, found 0"),
        (lambda: DPSGD(math.inf, 1.0), "dp-sgd: expected a clip above 0, found inf"),
        (lambda: DPSGD(1.0, -1.0), "dp-sgd: expected a sigma of at least 0, found -1"),
        (lambda: FedCDP(-4.0), "fed-cdp: expected a clip above 0, found -4"),
        (lambda: FedCDP(4.0, math.nan), "fed-cdp: expected a sigma of at least 0, found nan"),
        (lambda: DynamicDP(clip=0.0), "dynamic-dp: expected a clip above 0, found 0"),
        (
            lambda: DynamicDP("fixed", sigma=-0.5),
            "dynamic-dp: expected a sigma of at least 0, found -0.5",
        ),
        (
            lambda: DynamicDP(clipping="decaying", clip=1.5),
            "dynamic-dp: expected a floor above 0 and at most the clip of 1.5, found 2",
        ),
        (
            lambda: DynamicDP(sigma=6.0),
            "dynamic-dp: sigma is an option of schedule=fixed only; leave it out",
        ),
        (
            lambda: DynamicDP(floor=1.0),
            "dynamic-dp: floor is an option of clipping=decaying only; leave it out",
        ),
        (
            lambda: DynamicDP(clipping="l2-max", clip=4.0),
            "dynamic-dp: clip is an option of clipping=fixed or decaying only; leave it out",
        ),
        (lambda: FedCDP().noise_multipliers(0), "fed-cdp:4,6: expected at least 1 round, found 0"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message


def test_every_one_is_a_private_defense():
    assert all(isinstance(defense, PrivateDefense) for defense in NOISY)
