"""Sketches of gradients: the same by every backend, linear, unbiased; what a search is told of them."""

import pytest
import torch
from gradients.models import MODELS, batch_norm, seeded
from gradients.test_backends import population, views_of

from ggl import GradientOracle, LocalTraining, load_victim
from ggl.base.errors import InputError
from ggl.gradients import Trial, View
from ggl.gradients.residuals import GradientResiduals, is_separable
from ggl.gradients.sketch import KERNELS, MATRIX, Sketch

BACKENDS = ("sequential", "vmap", "layerwise")


def observed(model, private, labels):
    return GradientOracle(model, backend="sequential").observe(private, labels)


def measured(model, backend, view, images, labels, distance="cosine"):
    oracle = GradientOracle(model, backend=backend)
    residuals = GradientResiduals(oracle, [oracle.prepare(view)], distance, Trial())
    scores, sketches = residuals.measure(images, labels.expand(len(images), -1), [0], [len(images)])
    torch.testing.assert_close(scores, oracle.score(images, labels, view, distance), rtol=1e-6, atol=1e-12)
    return residuals, scores, sketches


@pytest.fixture
def small_probes(monkeypatch):
    """Sketch what is small too."""
    monkeypatch.setattr("ggl.gradients.sketch.EXACT", 0)
    monkeypatch.setattr("ggl.gradients.sketch.KEPT", 20)
    monkeypatch.setattr("ggl.gradients.sketch.MATRIX", (4, 5))
    monkeypatch.setattr("ggl.gradients.sketch.KERNELS", (5, 4))


@pytest.mark.usefixtures("small_probes")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_sketches_of_backends_agree(name, batch):
    model = seeded(MODELS[name]).to(torch.float64)
    images, labels, private = population(batch, torch.float64, candidates=2)
    shared = observed(model, private, labels)
    for steps in ("naive", "mask", "clip, mask, clip per layer", "a step of one's own"):
        view = View(shared, views_of(shared)[steps], frozenset(list(shared)[:1]))
        (_, _, expected), *others = (measured(model, b, view, images, labels) for b in BACKENDS)
        for _, _, found in others:
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("small_probes")
def test_the_shares_of_a_batch_add_up_to_its_sketch():
    model = seeded(MODELS["convolution"] if "convolution" in MODELS else next(iter(MODELS.values())))
    model = model.to(torch.float64)
    images, labels, private = population(3, torch.float64, candidates=2)
    view = View(observed(model, private, labels))
    residuals, _, sketches = measured(model, "layerwise", view, images, labels)
    assert sketches.shape == (2, 3, residuals.sketch.size)
    for candidate, found in zip(images, sketches, strict=True):
        whole = residuals.sketch.apply(observed(model, candidate, labels))
        torch.testing.assert_close(found.sum(0), whole)


def test_a_small_gradient_is_its_own_sketch_and_residuals_make_the_distance():
    victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    images, labels, private = population(1, torch.float32, shape=(1, 32, 32), classes=10, candidates=4)
    shared = observed(victim, private, labels)
    for distance, scale in (("cosine", 0.5), ("l2", 1.0)):
        residuals, scores, sketches = measured(victim, "layerwise", View(shared), images, labels, distance)
        assert residuals.sketch.size == sum(g.numel() for g in shared.values())
        found, target = sketches.sum(1), residuals.targets[0]
        if residuals.unit:
            found, target = found / found.norm(dim=1, keepdim=True), target / target.norm()
        squares = scale * (found - target).square().sum(1)
        torch.testing.assert_close(scores, squares, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("shape", "probes"), [((300, 400), MATRIX), ((300, 100, 2, 2), KERNELS)])
def test_squared_norms_are_unbiased_with_the_stated_spread(shape, probes):
    """A rank-one gradient, the worst case; 400 sketches, the mean within three standard errors."""
    random = torch.Generator().manual_seed(0)
    g = torch.outer(torch.randn(300, generator=random), torch.randn(400, generator=random)).double()
    found = []
    for seed in range(400):
        sketch = Sketch({"w": shape}, seed).to(torch.device("cpu"), torch.float64)
        found.append(sketch.apply({"w": g.view(shape)}).square().sum() / g.square().sum())
    rows, columns = probes
    spread = ((1 + 2 / rows) * (1 + 2 / columns) - 1) ** 0.5
    ratios = torch.stack(found)
    assert abs(ratios.mean() - 1) < 3 * spread / 400**0.5
    assert ratios.std().item() == pytest.approx(spread, rel=0.15)


def test_a_sketch_is_defined_by_its_seed_and_is_linear():
    shapes = {"w": (64, 2000), "b": (64,)}
    one, again, other = Sketch(shapes, 1), Sketch(shapes, 1), Sketch(shapes, 2)
    a, b = ({name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(2))
    assert torch.equal(one.apply(a), again.apply(a))
    assert not torch.equal(one.apply(a), other.apply(a))
    both = {name: 2 * a[name] - b[name] for name in shapes}
    torch.testing.assert_close(one.apply(both), 2 * one.apply(a) - one.apply(b), rtol=1e-4, atol=1e-3)
    assert one.size == MATRIX[0] * MATRIX[1] + 64
    assert one.groups == [MATRIX[0] * MATRIX[1], 64]


def test_what_mixes_images_has_one_sketch_a_batch():
    shared_shape = (3, 8, 8)
    for train, parts in ((False, 3), (True, 1)):
        model = seeded(lambda train=train: batch_norm(train)).to(torch.float64)
        images, labels, private = population(3, torch.float64, shape=shared_shape, candidates=2)
        view = View(observed(model, private, labels))
        _, _, sketches = measured(model, "layerwise", view, images, labels)
        assert sketches.shape[1] == parts
    lenet = load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    local = GradientOracle(lenet, local=LocalTraining(2, 0.1))
    view = View({name: torch.ones_like(p) for name, p in lenet.named_parameters()})
    assert not is_separable(local, view)
    assert is_separable(GradientOracle(lenet), view)


def test_a_distance_that_is_no_sum_of_squares_is_refused():
    lenet = load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    view = View({name: torch.ones_like(p) for name, p in lenet.named_parameters()})
    with pytest.raises(InputError, match=r"^expected a distance that is a sum of squares, cosine or l2, "):
        GradientResiduals(GradientOracle(lenet), [view], "orthogonal", Trial())
