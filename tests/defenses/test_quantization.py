"""signSGD and QSGD: by hand, on their grid, unbiased; and what their attackers compare."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

import ggl
from ggl.base.errors import InputError
from ggl.base.options import parameters_of, read_options
from ggl.defenses import Composed, load_defense
from ggl.defenses.quantization import QSGD, Sign, SignSGD, grid_spacing
from ggl.gradients import GradientOracle

quick = settings(max_examples=40)
norms = pytest.mark.parametrize("norm", ["l2", "max"])
NORM = {"l2": lambda g: g.double().norm(), "max": lambda g: g.double().abs().max()}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def flat(defense, values, seed=0):
    """Protect one parameter and return it."""
    values = values if isinstance(values, torch.Tensor) else torch.tensor(values, dtype=torch.float64)
    return defense.protect({"w": values}, seeded(seed))["w"]


def gradient(dtype=torch.float64, seed=0):
    """Two parameters of unlike size and scale, and one that is all zero."""
    shapes = {"a": (6, 5), "b": (7,), "unused": (3,)}
    scales = {"a": 1.0, "b": 0.01, "unused": 0.0}
    random = seeded(seed)
    drawn = {name: torch.randn(shape, generator=random, dtype=dtype) for name, shape in shapes.items()}
    return {name: scales[name] * value for name, value in drawn.items()}


def batch_of(gradients):
    return {name: torch.stack([g[name] for g in gradients]) for name in gradients[0]}


def numbers_of(size):
    return st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=size)


# --- signSGD


def test_the_sign_of_zero_is_zero():
    assert flat(SignSGD(), [[2.0, -1e-300], [0.0, -3.0]]).tolist() == [[1.0, -1.0], [0.0, -1.0]]


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ([[1.0] * 8], 1),
        ([[1.0] * 9], 2),
        ([[1.0] * 4, [-1.0] * 4], 1),
        ([[1.0] * 8 + [0.0]], 3),
        ([[1.0] * 8, [0.0]], 3),
    ],
)
def test_a_sign_takes_a_bit_and_two_where_there_are_zeros(parts, size):
    assert SignSGD().size({str(i): torch.tensor(part) for i, part in enumerate(parts)}) == size


def test_the_sign_step_passes_the_derivative_of_the_gradient_over_its_mean_magnitude():
    """Mean magnitude 2 of [1, -2, 3], and 0.5 of [0, 1]; the mean is held constant."""
    g = {"a": torch.tensor([1.0, -2.0, 3.0]), "b": torch.tensor([0.0, 1.0])}
    g = {name: value.requires_grad_() for name, value in g.items()}
    signs = Sign().apply(g)
    assert signs["a"].tolist() == [1.0, -1.0, 1.0]
    assert signs["b"].tolist() == [0.0, 1.0]
    weights = {"a": torch.tensor([1.0, 10.0, 100.0]), "b": torch.tensor([1.0, 10.0])}
    sum((weights[name] * value).sum() for name, value in signs.items()).backward()
    assert g["a"].grad.tolist() == [0.5, 5.0, 50.0]
    assert g["b"].grad.tolist() == [2.0, 20.0]


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-30, 1e30, 3e38])
def test_the_sign_step_stays_finite(scale):
    g = torch.tensor([scale, -scale, 0.0], requires_grad=True)
    signs = Sign().apply({"w": g})["w"]
    assert torch.equal(signs, g.detach().sign())
    signs.sum().backward()
    assert g.grad.isfinite().all()
    if scale == 0:
        assert not g.grad.any()


def test_the_sign_attackers_compare_signs_with_signs():
    shared = SignSGD().protect(gradient(), seeded())
    for attacker in ("adaptive", "informed"):
        view = SignSGD().view(shared, attacker)
        assert view.steps == (Sign(),)
        assert all(torch.equal(value, shared[name]) for name, value in view.apply(gradient()).items())


# --- QSGD


def test_a_value_on_a_level_stays():
    """s = 2 and the max norm 4: levels at 0, 2 and 4."""
    assert flat(QSGD(1, norm="max"), [4.0, -2.0, 0.0, 2.0]).tolist() == [4.0, -2.0, 0.0, 2.0]


def test_a_value_between_levels_goes_up_where_the_draw_is_below_its_fraction():
    """‖(3, -4)‖ = 5 and s = 4: 2.4 and 3.2 levels of 1.25."""
    ups = set()
    for seed in range(60):
        up = (torch.rand(2, generator=seeded(seed), dtype=torch.float64) < torch.tensor([0.4, 0.2])).tolist()
        expected = [1.25 * (2 + up[0]), -1.25 * (3 + up[1])]
        assert flat(QSGD(2), [3.0, -4.0], seed).tolist() == pytest.approx(expected, rel=1e-14)
        ups.add(tuple(up))
    assert len(ups) == 4


@norms
@pytest.mark.parametrize("bits", [1, 4])
def test_qsgd_is_unbiased(bits, norm):
    """A coordinate goes up with a probability p: the mean of n draws deviates by sqrt(p(1-p)/n) spacings.

    5 deviations are exceeded once in 1.7 million; 12 coordinates are looked at.
    """
    n, g = 4000, torch.randn(12, generator=seeded(3), dtype=torch.float64)
    random, defense = seeded(4), QSGD(bits, norm=norm)
    mean = sum(defense.protect({"w": g}, random)["w"] for _ in range(n)) / n
    spacing = NORM[norm](g) / 2**bits
    p = (g.abs() / spacing).frac()
    bound = 5 * spacing * (p * (1 - p) / n).sqrt() + 1e-12
    assert ((mean - g).abs() <= bound).all()
    assert bound.max() < 0.05 * NORM[norm](g)


@quick
@given(numbers_of(30), st.integers(1, 16), st.sampled_from(["l2", "max"]), st.integers(0, 99))
def test_every_value_is_on_the_grid_within_a_spacing_and_on_its_side(values, bits, norm, seed):
    g = torch.tensor(values, dtype=torch.float64)
    q = flat(QSGD(bits, norm=norm), g, seed)
    spacing = NORM[norm](g) / 2**bits
    if spacing == 0:
        assert not q.any()
        return
    levels = q / spacing
    assert (levels - levels.round()).abs().max() < 1e-9 * 2**bits
    assert levels.abs().max() <= 2**bits * (1 + 1e-12)
    assert (q - g).abs().max() <= spacing * (1 + 1e-9)
    assert (q * g >= 0).all()


@norms
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_zero_tensor_stays_zero(norm, dtype):
    assert torch.equal(
        flat(QSGD(1, norm=norm), torch.zeros(2, 3, dtype=dtype)), torch.zeros(2, 3, dtype=dtype)
    )


@norms
@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(1e-30, torch.float32), (1e30, torch.float32), (1e-200, torch.float64), (1e200, torch.float64)],
)
def test_tiny_and_huge_gradients_round_as_others_do(scale, dtype, norm):
    g = torch.randn(50, generator=seeded(1), dtype=torch.float64)
    usual, found = flat(QSGD(3, norm=norm), g), flat(QSGD(3, norm=norm), (scale * g).to(dtype))
    torch.testing.assert_close(found.double() / scale, usual, rtol=1e-6, atol=0)
    assert found.any()


def test_what_the_dtype_can_not_hold_becomes_its_largest_number():
    """A level of the L2 norm 600,000 is at 300,000."""
    q = flat(QSGD(1), torch.full((100,), 60_000.0, dtype=torch.float16))
    assert set(q.tolist()) == {0.0, 65_504.0}


@quick
@given(numbers_of(20), st.integers(-30, 30), st.sampled_from(["l2", "max"]))
def test_rounding_commutes_with_positive_scaling(values, exponent, norm):
    g, scale, defense = torch.tensor(values, dtype=torch.float64), 2.0**exponent, QSGD(3, norm=norm)
    assert torch.equal(flat(defense, scale * g), scale * flat(defense, g))


def test_each_parameter_has_its_own_norm_and_the_input_is_left():
    g = gradient(torch.float32)
    q = QSGD(2, norm="max").protect(g, seeded())
    assert q["a"].abs().max() == g["a"].abs().max()
    assert q["b"].abs().max() == g["b"].abs().max()
    assert all(torch.equal(value, gradient(torch.float32)[name]) for name, value in g.items())
    assert all(q[name].dtype == torch.float32 and q[name].shape == g[name].shape for name in g)


@pytest.mark.parametrize(("bits", "size"), [(1, 4 + 12 + 4 + 1), (4, 4 + 24 + 4 + 1), (16, 4 + 72 + 4 + 3)])
def test_a_coordinate_takes_a_sign_and_a_level(bits, size):
    """s + 1 levels take bits + 1 bits: with the sign 3, 6 and 18 a coordinate, of 32 and of 1."""
    assert QSGD(bits).size({"a": torch.ones(4, 8), "b": torch.ones(1)}) == size


@pytest.mark.parametrize("bits", [0, 17, -1])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError) as error:
        QSGD(bits)
    assert str(error.value) == f"qsgd: expected from 1 to 16 bits, found {bits}"


@pytest.mark.parametrize("defense", [QSGD(4), QSGD(7, norm="max")])
def test_the_name_holds_the_options(defense):
    name, _, text = defense.name.partition(":")
    kinds = {key: p.annotation for key, p in parameters_of(name, QSGD).items()}
    again = QSGD(**read_options(name, text, kinds, ["bits"]))
    assert (name, again.name) == ("qsgd", defense.name)
    assert (again.bits, again.norm) == (defense.bits, defense.norm)


# --- the grid that an attacker reads off


@quick
@given(st.lists(st.integers(0, 256), min_size=1, max_size=20), st.floats(1e-6, 1e6), st.booleans())
def test_the_spacing_is_the_greatest_common_divisor(levels, spacing, double):
    values = spacing * torch.tensor(levels, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]])
    found = grid_spacing(values if double else values.float())
    divisor = math.gcd(*levels)
    assert found is None if divisor == 0 else found == pytest.approx(divisor * spacing, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_grid_is_read_off_values_that_are_on_none(dtype):
    assert grid_spacing(torch.randn(50, generator=seeded(), dtype=dtype)) is None


@norms
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_the_grid_of_a_large_parameter_is_found(bits, norm):
    g = torch.randn(2000, generator=seeded(), dtype=torch.float32)
    assert grid_spacing(flat(QSGD(bits, norm=norm), g)) == pytest.approx(
        NORM[norm](g).item() / 2**bits, rel=1e-6
    )


@norms
@pytest.mark.parametrize("attacker", ["adaptive", "informed"])
def test_the_view_is_the_cosine_distance_in_units_of_the_spacing(norm, attacker):
    """The scale of the trial does not enter; a zero parameter is left as it is, and there is one."""
    g, trial = gradient(seed=1), gradient(seed=2)
    q = QSGD(3, norm=norm).protect(g, seeded())
    view = QSGD(3, norm=norm).view(q, attacker)
    levels = {name: grid_spacing(value) for name, value in q.items() if value.any()}
    if attacker == "informed" and norm == "max":
        levels = {name: float(NORM[norm](g[name])) / 8 for name in levels}
    a, b = (torch.cat([(x[name] / levels[name]).flatten() for name in levels]) for x in (trial, q))
    expected = torch.cosine_similarity(a, b, dim=0)
    for scale in (1e-3, 1, 1e3):
        applied = view.apply({name: scale * value for name, value in trial.items()})
        found = [torch.cat([x[name].flatten() for name in levels]) for x in (applied, view.goal)]
        assert torch.cosine_similarity(*found, dim=0).item() == pytest.approx(expected.item(), rel=1e-10)
    assert view.distance is None
    assert not view.goal["unused"].any()


def test_an_informed_attacker_knows_the_spacing_where_all_levels_share_a_factor():
    """One number is on the last level, which tells the spacing only with s."""
    shared = {"w": torch.tensor([3.0])}
    spacing = {
        attacker: QSGD(2, norm="max").view(shared, attacker).both[0].spacing
        for attacker in ("adaptive", "informed")
    }
    assert spacing == {"adaptive": {"w": 3.0}, "informed": {"w": 0.75}}


def test_without_a_grid_the_view_is_the_naive_one_unless_the_attacker_is_informed():
    g = gradient(torch.float32)
    assert QSGD(4).view(g, "adaptive").both == ()
    (step,) = QSGD(4).view(g, "informed").both
    assert step.spacing == pytest.approx({name: NORM["l2"](g[name]).item() / 16 for name in "ab"}, rel=1e-6)
    noisy = Composed([QSGD(2), load_defense("noise:0.001")])
    assert noisy.view(noisy.protect(g, seeded()), "adaptive").both == ()


def test_an_all_zero_gradient_has_nothing_to_weigh():
    assert QSGD(4, norm="max").view({"w": torch.zeros(3)}, "informed").both == ()


def test_a_zero_trial_gradient_has_a_finite_derivative():
    q = QSGD(2).protect(gradient(), seeded())
    trial = {name: torch.zeros_like(value, requires_grad=True) for name, value in q.items()}
    applied = QSGD(2).view(q, "adaptive").apply(trial)
    sum((applied[name] - q[name]).square().sum() for name in q).backward()
    assert all(trial[name].grad.isfinite().all() for name in "ab")


# --- both steps, in the oracle


def steps():
    q = QSGD(2).protect(gradient(), seeded())
    return [Sign(), *QSGD(2).view(q, "adaptive").both]


@pytest.mark.parametrize("step", steps(), ids=["sign", "level-units"])
def test_a_step_under_vmap_is_a_loop(step):
    trials = [gradient(seed=seed) for seed in (5, 6, 7)]
    found = vmap(step.apply)(batch_of(trials))
    for name, expected in batch_of([step.apply(g) for g in trials]).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-15)


@pytest.fixture(scope="module")
def lenet():
    return ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)


@pytest.fixture(scope="module")
def heldout():
    return ggl.load_dataset("fashion-mnist-heldout")


@pytest.mark.parametrize("defense", [SignSGD(), QSGD(2)], ids=["sign", "qsgd"])
def test_the_backends_agree_on_scores_and_their_derivative(defense, lenet, heldout):
    """In float64: a sign that rounding turns would move a score by a whole 4."""
    images, labels = heldout.images[:4].double(), heldout.labels[:1]
    found = {}
    for backend in ("sequential", "vmap", "layerwise"):
        oracle = GradientOracle(lenet.double(), backend=backend)
        shared = defense.protect(oracle.observe(images[3:], labels), seeded())
        candidates = images[:3].clone().requires_grad_()
        scores = oracle.score(candidates, labels, defense.view(shared, "adaptive"), "l2")
        scores.sum().backward()
        found[backend] = scores.detach(), candidates.grad
    for backend in ("vmap", "layerwise"):
        for value, expected in zip(found[backend], found["sequential"], strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())
    assert found["sequential"][1].any()


@pytest.mark.parametrize("defense", [SignSGD(), QSGD(1), QSGD(2)], ids=lambda defense: defense.name)
def test_the_adaptive_attacker_tells_the_private_image_where_the_naive_one_does_not(defense, lenet, heldout):
    """Among 20 images of its class, five private ones in turn."""
    images = heldout.images[heldout.labels == 5][:20]
    oracle, labels = GradientOracle(lenet.float(), backend="layerwise"), torch.tensor([5])
    ranks = {"naive": 0, "adaptive": 0}
    random = seeded(1)
    for private in range(5):
        shared = defense.protect(oracle.observe(images[private : private + 1], labels), random)
        for attacker in ranks:
            scores = oracle.score(images, labels, defense.view(shared, attacker), "cosine")
            ranks[attacker] += int((scores < scores[private]).sum())
    assert ranks["adaptive"] <= 1
    assert ranks["adaptive"] <= ranks["naive"]
