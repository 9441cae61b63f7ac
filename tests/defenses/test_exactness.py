"""Every defense against hand-computed cases, statistics, and properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ggl.base.errors import InputError, UnknownNameError
from ggl.defenses import load_defense

quick = settings(max_examples=40)
HAND = {"a": [[3.0, 0.0], [0.0, 4.0]], "b": [12.0]}
"""Norm 13; its parameters' norms are 5 and 12."""


def protect(name, gradients, seed=0):
    return load_defense(name).protect(gradients, torch.Generator().manual_seed(seed))


def tensors(values):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def flat(name, values):
    """Protect one parameter and return it."""
    return protect(name, {"w": torch.as_tensor(values, dtype=torch.float64)})["w"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", HAND),
        ("clip:6.5", {"a": [[1.5, 0.0], [0.0, 2.0]], "b": [6.0]}),
        ("clip:13.1", HAND),
        ("clip-layer:6", {"a": [[3.0, 0.0], [0.0, 4.0]], "b": [6.0]}),
        ("clip-layer:2.5", {"a": [[1.5, 0.0], [0.0, 2.0]], "b": [2.5]}),
        ("prune:0.5", HAND),
        ("prune:0.75", {"a": [[0.0, 0.0], [0.0, 4.0]], "b": [12.0]}),
        ("prune-global:0.6", {"a": [[0.0, 0.0], [0.0, 4.0]], "b": [12.0]}),
        ("prune-global:0.8", {"a": [[0.0, 0.0], [0.0, 0.0]], "b": [12.0]}),
        ("clip:6.5+prune:0.75", {"a": [[0.0, 0.0], [0.0, 2.0]], "b": [6.0]}),
        ("prune-global:0.8+clip:6", {"a": [[0.0, 0.0], [0.0, 0.0]], "b": [6.0]}),
    ],
)
def test_by_hand(name, expected):
    found = protect(name, tensors(HAND))
    for key, value in tensors(expected).items():
        torch.testing.assert_close(found[key], value, rtol=1e-6, atol=0)


def test_clipping_divides_by_the_norm_plus_a_millionth():
    """g · min(1, C / (‖g‖ + 1e-6)), as in GGL's code."""
    assert flat("clip:1", [2.0]).item() == pytest.approx(2 / (2 + 1e-6), rel=1e-14)


@pytest.mark.parametrize("name", ["clip:1", "clip-layer:1"])
def test_clipping_twice_is_clipping_once(name):
    once = protect(name, tensors(HAND))
    for key, value in protect(name, once).items():
        torch.testing.assert_close(value, once[key], rtol=2e-6, atol=0)


@pytest.mark.parametrize(
    "name", ["clip:100", "clip-layer:100", "noise:0", "laplace:0", "prune:0", "prune-global:0"]
)
def test_a_loose_defense_changes_nothing(name):
    g = {"w": torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), "b": torch.tensor([0.0, 1e-30])}
    assert all(torch.equal(value, g[key]) for key, value in protect(name, g).items())


@pytest.mark.parametrize("name", ["clip:1", "clip-layer:1", "prune:0.5", "prune-global:0.5"])
def test_a_zero_gradient_stays_zero(name):
    assert not flat(name, torch.zeros(4)).any()


N = 400_000


def noise(name, seed=0):
    """Return the noise alone, N numbers in two parameters, in units of its parameter 0.5."""
    g = {"a": torch.full((N // 4, 2), 3.0), "b": torch.full((N // 2,), -1.0)}
    shared = protect(f"{name}:0.5", g, seed)
    return torch.cat([(shared[key] - g[key]).double().flatten() for key in g]) / 0.5


@pytest.mark.parametrize(
    ("name", "power", "moment", "square"),
    [
        ("noise", 1, 0.0, 1.0),
        ("noise", 2, 1.0, 3.0),
        ("noise", 3, 0.0, 15.0),
        ("noise", 4, 3.0, 105.0),
        ("laplace", 1, 0.0, 2.0),
        ("laplace", 2, 2.0, 24.0),
        ("laplace", 3, 0.0, 720.0),
        ("laplace", 4, 24.0, 40320.0),
    ],
)
def test_the_moments_of_the_noise(name, power, moment, square):
    """E x^k is (k - 1)!! for N(0, 1) and k! for Laplace(0, 1), even k; E x^2k gives the mean's deviation."""
    found = noise(name).pow(power).mean().item()
    assert abs(found - moment) < 5 * math.sqrt((square - moment**2) / N)


@pytest.mark.parametrize(
    ("name", "mean", "square"), [("noise", math.sqrt(2 / math.pi), 1.0), ("laplace", 1.0, 2.0)]
)
def test_the_mean_absolute_value_of_the_noise(name, mean, square):
    found = noise(name).abs().mean().item()
    assert abs(found - mean) < 5 * math.sqrt((square - mean**2) / N)


@pytest.mark.parametrize("name", ["noise", "laplace"])
def test_the_noise_of_two_parameters_and_of_neighbors_is_independent(name):
    """The correlation of n independent pairs has a standard deviation of 1 / sqrt(n)."""
    x = noise(name)
    for a, b in (x[: N // 2], x[N // 2 :]), (x[:-1], x[1:]):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / math.sqrt(len(a))


def pruned_count(size, share):
    return int(share * size + 1e-9)


shares = st.integers(0, 99).map(lambda percent: percent / 100)
numbers = st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0, 1e-3, 1e3]), min_size=1, max_size=40)


@quick
@given(shares, numbers)
@pytest.mark.parametrize("name", ["prune", "prune-global"])
def test_pruning_takes_exactly_its_count_of_the_smallest(name, share, values):
    """Under ties and zeros too: beyond the zeros that were there, as many as the share says."""
    before, after = torch.tensor(values, dtype=torch.float64), flat(f"{name}:{share}", values)
    count = pruned_count(len(values), share)
    assert (after == 0).sum() == max(count, (before == 0).sum())
    kept = after != 0
    assert torch.equal(after[kept], before[kept])
    if kept.any() and not kept.all():
        assert before[~kept].abs().max() <= before[kept].abs().min()


@quick
@given(shares, st.lists(numbers, min_size=1, max_size=4))
def test_global_pruning_is_pruning_of_all_parameters_joined(share, parts):
    g = {str(i): torch.tensor(values, dtype=torch.float64) for i, values in enumerate(parts)}
    joined = flat(f"prune-global:{share}", torch.cat(list(g.values())))
    assert torch.equal(torch.cat(list(protect(f"prune-global:{share}", g).values())), joined)


@quick
@given(shares, st.lists(numbers, min_size=1, max_size=4))
def test_pruning_takes_each_parameter_alone(share, parts):
    g = {str(i): torch.tensor(values, dtype=torch.float64) for i, values in enumerate(parts)}
    found = protect(f"prune:{share}", g)
    assert all(torch.equal(found[key], flat(f"prune:{share}", value)) for key, value in g.items())


@quick
@given(shares, numbers, st.integers(-20, 20))
@pytest.mark.parametrize("name", ["prune", "prune-global"])
def test_pruning_commutes_with_positive_scaling(name, share, values, exponent):
    values, scale = torch.tensor(values, dtype=torch.float64), 2.0**exponent
    assert torch.equal(flat(f"{name}:{share}", scale * values), scale * flat(f"{name}:{share}", values))


@quick
@given(st.floats(1e-3, 1e3), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20))
@pytest.mark.parametrize("name", ["clip", "clip-layer"])
def test_clipping_keeps_the_direction_and_the_bound(name, bound, values):
    before, after = torch.tensor(values, dtype=torch.float64), flat(f"{name}:{bound}", values)
    assert after.norm() <= bound
    torch.testing.assert_close(after * before.norm(), before * after.norm(), rtol=1e-9, atol=1e-12)
    if before.norm() > 1e-3:
        assert after.norm() >= min(bound, before.norm()) * (1 - 2e-3)


@pytest.mark.parametrize(
    ("share", "size", "count"), [(0.9, 10, 9), (0.7, 10, 7), (0.29, 100, 29), (0.5, 1, 0), (0.999, 999, 998)]
)
def test_shares_that_floats_can_not_write_still_count_exactly(share, size, count):
    assert (flat(f"prune:{share}", torch.arange(1.0, size + 1)) == 0).sum() == count


NEEDS_NUMBER = {
    "noise": "std",
    "laplace": "scale",
    "clip": "bound",
    "clip-layer": "bound",
    "prune": "share",
    "prune-global": "share",
}
"""The option that each name asks for."""

BAD = {
    "noise": ["-0.1"],
    "laplace": ["-0.1"],
    "clip": ["0", "-1"],
    "clip-layer": ["0", "-1"],
    "prune": ["1", "1.5", "-0.1"],
    "prune-global": ["1", "1.5", "-0.1"],
}


def refusal(specification, kind=InputError):
    with pytest.raises(kind) as error:
        load_defense(specification)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NEEDS_NUMBER)
def test_a_missing_parameter_is_refused(name):
    wanted = f"expected a value of {NEEDS_NUMBER[name]} after the colon, found none"
    assert refusal(name) == f"defense '{name}': {wanted}"


def test_a_superfluous_parameter_is_refused():
    assert refusal("none:3") == "defense 'none:3': expected nothing after the name, found '3'"


@pytest.mark.parametrize("name", NEEDS_NUMBER)
@pytest.mark.parametrize("text", ["big", "0.1:2"])
def test_a_parameter_that_is_no_number_is_refused(name, text):
    wanted = f"expected a number for {NEEDS_NUMBER[name]}, found '{text}'"
    assert refusal(f"{name}:{text}") == f"defense '{name}:{text}': {wanted}"


@pytest.mark.parametrize("name", NEEDS_NUMBER)
def test_a_second_value_is_refused(name):
    assert refusal(f"{name}:0,1").endswith("expected option=value, each once, found '1'")


@pytest.mark.parametrize("name", NEEDS_NUMBER)
def test_an_option_may_be_named(name):
    assert load_defense(f"{name}:{NEEDS_NUMBER[name]}=0.5").name == f"{name}:0.5"


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in BAD for text in [*BAD[name], "nan", "inf", "-inf"]]
)
def test_a_parameter_out_of_range_is_refused(name, text):
    assert refusal(f"{name}:{text}").startswith(f"{name}: expected a")
    assert refusal(f"{name}:{text}").endswith(f"found {text}")


def test_a_bad_part_of_a_composition_is_refused():
    assert refusal("clip:4+noise:-1").startswith("noise: expected a standard deviation")


@pytest.mark.parametrize(
    ("name", "near"), [("prun:0.9", "prune"), ("clip:4+gnoise:1", "noise"), ("Clip:1", "clip")]
)
def test_an_unknown_name_is_told_with_the_nearest_one(name, near):
    assert f"did you mean '{near}'?" in refusal(name, UnknownNameError)


@pytest.mark.parametrize("text", ["", "+", "clip:4+", "+clip:4"])
def test_an_empty_name_is_refused(text):
    assert "no defense is named ''" in refusal(text, UnknownNameError)


@quick
@given(st.floats(1e-300, 1e300))
def test_a_name_holds_its_parameter_exactly(bound):
    defense = load_defense(load_defense(f"clip:{bound!r}".replace("e+", "e")).name)
    assert defense.bound == bound
