"""The backends agree with a loop over candidates, for every layer, batch size, view and dtype."""

import pytest
import torch
from gradients.models import MODELS, MixesImages, OwnParameter, Tied, UsedTwice, batch_norm, seeded
from torch import nn

from ggl.base.errors import InputError, UserCodeError
from ggl.gradients import BackendWarning, Clip, GradientOracle, Mask, Step, View
from ggl.victims import load_victim

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
VICTIMS = ("lenet", "convnet", "mlp", "vit")


def population(batch, dtype, shape=(3, 8, 8), classes=5, candidates=5):
    random = torch.Generator().manual_seed(1)
    images = torch.rand((candidates, batch, *shape), generator=random, dtype=dtype)
    labels = torch.randint(classes, (batch,), generator=random)
    private = torch.rand((batch, *shape), generator=random, dtype=dtype)
    return images, labels, private


def views_of(shared):
    """Every kind of view: naive, masked, clipped globally and per parameter, and their mixtures."""
    random = torch.Generator().manual_seed(2)
    mask = Mask({name: torch.rand(g.shape, generator=random) < 0.3 for name, g in shared.items()})
    part = Mask({min(shared): mask.keep[min(shared)]})
    norm = torch.stack([g.norm() for g in shared.values()]).norm().item()
    per_layer = Clip({name: 0.5 * g.norm().item() for name, g in shared.items()})
    return {
        "naive": (),
        "mask": (mask,),
        "mask of one parameter": (part,),
        "clip": (Clip(0.1 * norm),),
        "clip per layer": (per_layer,),
        "clip then mask": (Clip(0.1 * norm), mask),
        "mask then clip": (mask, Clip(0.1 * norm)),
        "clip, mask, clip per layer": (Clip(0.5 * norm), mask, per_layer),
        "a step of one's own": (Squash(),),
        "clip per layer, a step of one's own, mask": (per_layer, Squash(), mask),
    }


class Squash(Step):
    """A step that needs every coordinate."""

    def apply(self, gradients):
        return {name: (g / g.abs().mean().clamp_min(1e-9)).tanh() for name, g in gradients.items()}


def compare(model, batch, dtype, steps="naive", ignored=(), distances=("l2", "cosine"), **data):
    model = model.to(dtype)
    images, labels, private = population(batch, dtype, **data)
    shared = GradientOracle(model, backend="sequential").observe(private, labels)
    view = View(shared, views_of(shared)[steps], frozenset(list(shared)[i] for i in ignored))
    for distance in distances:
        expected, *others = (
            GradientOracle(model, backend=backend).score(images, labels, view, distance)
            for backend in ("sequential", "vmap", "layerwise")
        )
        for found in others:
            torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=0.0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_small_models_agree(name, batch, dtype):
    compare(seeded(MODELS[name]), batch, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", VICTIMS)
def test_victims_agree(name, batch, dtype):
    victim = load_victim(name, in_channels=1, num_classes=10, image_size=32, seed=3)
    compare(victim, batch, dtype, shape=(1, 32, 32), classes=10, candidates=3)


@pytest.mark.slow("ResNet-18 by three backends")
@pytest.mark.parametrize("name", ["resnet18", "resnet18-groupnorm"])
def test_large_victims_agree(name):
    """A batch in double precision: its tolerance is the tighter, and the small ones show the rest."""
    victim = load_victim(name, in_channels=1, num_classes=10, image_size=32, seed=3)
    compare(victim, 4, torch.float64, shape=(1, 32, 32), classes=10, candidates=3)


@pytest.mark.parametrize("steps", views_of({"a": torch.ones(2)}))
@pytest.mark.parametrize("name", ["convolution grouped", "in-place residual", "tokens"])
def test_views_agree(name, steps):
    compare(seeded(MODELS[name]), 2, torch.float64, steps)


@pytest.mark.parametrize("steps", ["naive", "mask", "clip", "clip then mask", "a step of one's own"])
@pytest.mark.parametrize("name", ["convolution grouped", "tokens"])
def test_views_that_ignore_parameters_agree(name, steps):
    compare(seeded(MODELS[name]), 2, torch.float64, steps, ignored=(0, 3, -1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_the_last_layer_alone_agrees(name, batch):
    model = seeded(MODELS[name])
    compare(model, batch, torch.float64, ignored=range(len(list(model.parameters())) - 2))


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise AssertionError("a backward pass went through the victim")


class OneWay(nn.Module):
    def forward(self, x):
        return NoWayBack.apply(x)


def test_the_last_layer_needs_no_backward_pass():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), OneWay(), nn.Linear(8, 5))
    images, labels, private = population(2, torch.float32)
    whole = nn.Sequential(model[0], model[1], nn.Identity(), model[3])
    shared = GradientOracle(whole, backend="sequential").observe(private, labels)
    view = View(shared, ignored=frozenset({"1.weight", "1.bias"}))
    oracle, expected = GradientOracle(model, backend="layerwise"), GradientOracle(whole, backend="sequential")
    torch.testing.assert_close(
        oracle.score(images, labels, view, "cosine"), expected.score(images, labels, view, "cosine")
    )
    with pytest.raises(UserCodeError, match="went through"):
        oracle.score(images, labels, shared, "cosine")


def test_the_distance_to_an_orthogonal_gradient_agrees():
    compare(seeded(MODELS["convolution grouped"]), 2, torch.float64, distances=("orthogonal",))


def test_an_ignored_parameter_has_no_say():
    """Garbage in its place changes no distance; not ignored, it does."""
    model = seeded(MODELS["group norm"])
    images, labels, private = population(1, torch.float32)
    oracle = GradientOracle(model)
    shared = oracle.observe(private, labels)
    garbage = shared | {min(shared): 1e3 * torch.ones_like(shared[min(shared)])}
    for distance in ("l2", "cosine"):
        views = [View(g, ignored=frozenset([min(shared)])) for g in (shared, garbage)]
        clean, dirty = (oracle.score(images, labels, view, distance) for view in views)
        assert torch.equal(clean, dirty)
        assert not torch.equal(dirty, oracle.score(images, labels, garbage, distance))


def test_a_views_own_distance_wins():
    model = seeded(MODELS["group norm"])
    images, labels, private = population(1, torch.float32)
    for backend in ("sequential", "vmap", "layerwise"):
        oracle = GradientOracle(model, backend=backend)
        shared = oracle.observe(private, labels)
        own = oracle.score(images, labels, View(shared, distance="cosine"), "l2")
        assert torch.equal(own, oracle.score(images, labels, shared, "cosine"))


def test_a_view_that_ignores_everything_is_refused():
    with pytest.raises(InputError, match="nothing left to compare"):
        View({"w": torch.ones(2)}, ignored=frozenset({"w"}))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("batch", [2, 4])
def test_batch_norm_in_train_mode_uses_each_candidates_own_statistics(batch, dtype):
    compare(seeded(lambda: batch_norm(train=True)), batch, dtype)


def test_both_norm_paths_agree():
    """The ghost norm and the built gradient are the same number, whichever the sizes would choose."""
    from ggl.gradients.convolutions import ConvolutionWeight
    from ggl.gradients.factors import LinearWeight

    random = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    linear = LinearWeight(draw(3, 4, 6), draw(3, 4, 5))
    convolution = ConvolutionWeight(
        draw(3, 2, 4, 7, 8), draw(3, 2, 6, 3, 2), (3, 2), (2, 3), (0, 0), (1, 2), 2
    )
    torch.testing.assert_close(convolution.build_from_patches(), convolution.build_as_groups())
    for factors in (linear, convolution):
        built = factors.build().flatten(1).square().sum(1)
        torch.testing.assert_close(factors.ghost_square(), built, rtol=1e-12, atol=0.0)


def test_scores_are_differentiable_in_the_candidates():
    model = seeded(MODELS["in-place residual"]).double()
    images, labels, private = population(2, torch.float64)
    shared = GradientOracle(model, backend="sequential").observe(private, labels)
    slopes = []
    for backend in ("sequential", "vmap", "layerwise"):
        x = images.clone().requires_grad_()
        GradientOracle(model, backend=backend).score(x, labels, shared, "cosine").sum().backward()
        slopes.append(x.grad)
    torch.testing.assert_close(slopes[1], slopes[0])
    torch.testing.assert_close(slopes[2], slopes[0])
    assert slopes[0].abs().sum() > 0


def test_scores_carry_no_graph_where_none_is_asked_for():
    images, labels, private = population(1, torch.float32)
    for backend in ("sequential", "vmap", "layerwise"):
        oracle = GradientOracle(seeded(MODELS["group norm"]), backend=backend)
        assert not oracle.score(images, labels, oracle.observe(private, labels)).requires_grad


def test_groups_equal_single_calls():
    model = seeded(MODELS["group norm"])
    oracle = GradientOracle(model, backend="layerwise", chunk_size=2)
    images, labels, _ = population(1, torch.float32, candidates=7)
    targets = [oracle.prepare(View(oracle.observe(x, labels))) for x in images[:3]]
    every = labels.expand(len(images), -1)
    together = oracle.score_groups(images, every, targets, [3, 0, 4])
    torch.testing.assert_close(together[:3], oracle.score(images[:3], labels, targets[0]))
    torch.testing.assert_close(together[3:], oracle.score(images[3:], labels, targets[2]))


def test_the_private_batch_scores_zero():
    oracle = GradientOracle(seeded(MODELS["tokens"]).double())
    images, labels, _ = population(3, torch.float64)
    scores = oracle.score(images, labels, oracle.observe(images[2], labels))
    assert scores.argmin() == 2
    assert scores[2] < 1e-10 * scores[0]


def test_observing_does_not_change_the_victim():
    model = seeded(lambda: batch_norm(train=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images, labels, private = population(4, torch.float32)
    oracle = GradientOracle(model)
    oracle.score(images, labels, oracle.observe(private, labels))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_frozen_parameters_are_not_shared():
    model = seeded(MODELS["group norm"])
    model[0].weight.requires_grad_(False)
    _, labels, private = population(2, torch.float64)
    shared = GradientOracle(model.double()).observe(private, labels)
    assert "0.weight" not in shared
    assert "0.bias" in shared
    compare(model, 2, torch.float64, candidates=3)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (UsedTwice, "again is used twice"),
        (Tied, "shares a parameter"),
        (OwnParameter, "the model \\(OwnParameter\\) has parameters of its own"),
    ],
)
def test_a_model_out_of_reach_falls_back_to_vmap_and_says_so_once(build, reason):
    model = seeded(build)
    images, labels, private = population(1, torch.float32)
    oracle = GradientOracle(model)
    shared = oracle.observe(private, labels)
    with pytest.warns(BackendWarning, match=f"vmap.*{reason}"):
        scores = oracle.score(images, labels, shared)
    assert oracle.backend == "vmap"
    torch.testing.assert_close(scores, oracle.score(images, labels, shared))
    expected = GradientOracle(model, backend="sequential").score(images, labels, shared)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0.0)


def test_a_model_that_mixes_images_is_caught_by_the_probe():
    model = seeded(MixesImages)
    images, labels, private = population(1, torch.float32)
    oracle = GradientOracle(model)
    with pytest.warns(BackendWarning, match="layerwise: differs from the sequential"):
        scores = oracle.score(images, labels, oracle.observe(private, labels))
    expected = GradientOracle(model, backend="sequential").score(
        images, labels, oracle.observe(private, labels)
    )
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=0.0)


def test_layerwise_by_name_refuses_what_it_cannot_take():
    with pytest.raises(InputError, match="can't take this victim"):
        GradientOracle(seeded(OwnParameter), backend="layerwise")


def test_out_of_memory_halves_the_chunk_and_goes_on(monkeypatch):
    oracle = GradientOracle(seeded(MODELS["group norm"]), backend="layerwise", chunk_size=8)
    images, labels, private = population(1, torch.float32, candidates=7)
    shared = oracle.observe(private, labels)
    expected = oracle.score(images, labels, shared)
    honest, sizes = oracle._backend.score, []

    def small(x, *rest):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return honest(x, *rest)

    monkeypatch.setattr(oracle._backend, "score", small)
    torch.testing.assert_close(oracle.score(images, labels, shared), expected)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert oracle.chunks.size == 1


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    oracle = GradientOracle(seeded(MODELS["group norm"]), backend="layerwise")
    images, labels, private = population(1, torch.float32)
    shared = oracle.observe(private, labels)

    def broken(*arguments):
        raise RuntimeError("sizes do not match")

    monkeypatch.setattr(oracle._backend, "score", broken)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        oracle.score(images, labels, shared)


def test_bfloat16_scores_are_near_and_observing_stays_exact():
    model = load_victim("convnet", in_channels=1, num_classes=10, image_size=32, seed=0)
    images, labels, private = population(1, torch.float32, shape=(1, 32, 32), classes=10)
    exact = GradientOracle(model)
    rough = GradientOracle(model, precision="bfloat16")
    shared = exact.observe(private, labels)
    assert all(torch.equal(rough.observe(private, labels)[name], g) for name, g in shared.items())
    found = rough.score(images, labels, shared)
    expected = exact.score(images, labels, shared)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", ["layerwise", "vmap"])
def test_scores_do_not_depend_on_neighbors(backend, batch):
    oracle = GradientOracle(seeded(MODELS["in-place residual"]).double(), backend=backend)
    images, labels, private = population(batch, torch.float64)
    shared = oracle.observe(private, labels)
    together = oracle.score(images, labels, shared)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(oracle.score(images[order], labels, shared), together[order])
    torch.testing.assert_close(oracle.score(images[:1], labels, shared), together[:1])


@pytest.mark.parametrize("backend", ["sequential", "vmap", "layerwise"])
def test_cosine_is_exact_for_tiny_gradients(backend):
    """Gradients of norm 1e-9: the product of their squares is far below float32's range of interest."""
    _, labels, private = population(1, torch.float32)
    oracle = GradientOracle(seeded(MODELS["group norm"]), backend=backend)
    shared = {name: 1e-9 * g for name, g in oracle.observe(private, labels).items()}
    same = oracle.score(private[None], labels, shared, "cosine")
    torch.testing.assert_close(same, torch.zeros(1), rtol=0.0, atol=1e-5)
