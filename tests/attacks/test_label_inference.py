"""Labels of a batch, read off its gradient."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ggl import GradientOracle, load_dataset, load_victim
from ggl.attacks.label_inference import (
    LABEL_METHODS,
    chance_accuracy,
    infer_label,
    infer_labels,
    label_accuracy,
)
from ggl.base.errors import GradientError, InputError, UnknownNameError

CLASSES, SHAPE = 10, (1, 32, 32)
NAMED = sorted(set(LABEL_METHODS) - {"auto"})


def softmax_net(bias=True, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, CLASSES, bias=bias)).double()


def images_of(count, seed=0):
    return torch.rand(count, 1, 2, 3, generator=torch.Generator().manual_seed(seed)).double()


def gradient(model, images, labels):
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def fashion(rows):
    data = load_dataset("fashion-mnist-heldout")
    return data.images[rows], data.labels[rows]


labels_of_a_batch = st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=16)


@given(labels=labels_of_a_batch, seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_counts_are_exact_where_the_mean_posterior_is_the_batchs_own(labels, seed):
    model, labels = softmax_net(seed=seed), torch.tensor(labels)
    images = images_of(len(labels), seed)
    shared = gradient(model, images, labels)
    found = infer_labels(shared, len(labels), "geng-bias", model=model, dummies=images)
    assert found.tolist() == labels.sort().values.tolist()


@given(labels=labels_of_a_batch, seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_geng_and_llg_star_are_exact_where_every_image_is_the_same(labels, seed):
    model, labels = softmax_net(bias=False, seed=seed), torch.tensor(labels)
    image = images_of(1, seed)
    shared = gradient(model, image.expand(len(labels), -1, -1, -1), labels)
    for method in ("geng", "wainakh"):
        found = infer_labels(shared, len(labels), method, model=model, dummies=image)
        assert found.tolist() == labels.sort().values.tolist()


@given(labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=8, unique=True))
@settings(max_examples=20)
def test_different_labels_of_like_images_need_no_model(labels):
    labels = torch.tensor(labels)
    model = softmax_net()
    model[1].weight.data *= 1e-3
    model[1].bias.data *= 0
    shared = gradient(model, images_of(1).expand(len(labels), -1, -1, -1), labels)
    for method in ("analytic", "wainakh", "auto"):
        assert infer_labels(shared, len(labels), method).tolist() == labels.sort().values.tolist()


def slow_llg(rows, batch_size):
    """LLG as it is written: every negative row once, then the least row, its impact taken off each time."""
    rows, labels = list(rows), []
    negative = [i for i, g in enumerate(rows) if g < 0]
    impact = sum(rows[i] for i in negative) / batch_size * (1 + 1 / len(rows))
    for i in negative:
        labels.append(i)
        rows[i] -= impact
    while len(labels) < batch_size:
        least = min(range(len(rows)), key=rows.__getitem__)
        labels.append(least)
        rows[least] -= impact
    return sorted(labels)


def slow_llg_star(shared_rows, model, dummies, batch_size):
    """LLG* as it is written: impact and offsets from gradients of dummy images under every label."""
    n = len(shared_rows)
    weight = list(dict(model.named_parameters()))[-2]
    table = [
        gradient(model, dummies, torch.full((len(dummies),), label))[weight].sum(1) for label in range(n)
    ]
    impact = sum(float(table[i][i]) for i in range(n)) / (n * batch_size) * (1 + 1 / n)
    offsets = [sum(float(table[i][j]) for i in range(n) if i != j) / (n - 1) for j in range(n)]
    labels = [i for i in range(n) if shared_rows[i] < 0]
    rows = [float(g) - s for g, s in zip(shared_rows, offsets, strict=True)]
    for i in labels:
        rows[i] -= impact
    while len(labels) < batch_size:
        least = min(range(n), key=rows.__getitem__)
        labels.append(least)
        rows[least] -= impact
    return sorted(labels)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("name", ["lenet", "mlp"])
def test_llg_and_llg_star_are_what_the_paper_does_label_by_label(name, batch_size):
    model = load_victim(name, in_channels=1, num_classes=CLASSES, image_size=32, seed=3).double()
    images, labels = fashion(torch.arange(batch_size))
    shared = gradient(model, images.double(), labels)
    dummies = torch.rand((8, *SHAPE), generator=torch.Generator().manual_seed(1)).double()
    rows = shared["fc.weight"].sum(1)
    assert int((rows < 0).sum()) <= batch_size
    found = infer_labels(shared, batch_size, "wainakh")
    assert found.tolist() == slow_llg(rows.tolist(), batch_size)
    found = infer_labels(shared, batch_size, "wainakh", model=model, dummies=dummies)
    assert found.tolist() == slow_llg_star(rows.tolist(), model, dummies, batch_size)


@pytest.mark.parametrize("method", NAMED)
def test_the_order_of_a_batch_does_not_matter(method):
    model = load_victim("lenet", in_channels=1, num_classes=CLASSES, image_size=32)
    oracle = GradientOracle(model)
    images, labels = fashion(torch.arange(8))
    permutation = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    found = [
        infer_labels(oracle.observe(images[i], labels[i]), 8, method, model=model, image_shape=SHAPE)
        for i in (torch.arange(8), permutation)
    ]
    assert torch.equal(*found)
    assert torch.equal(found[0], found[0].sort().values)
    assert len(found[0]) == 8


@pytest.mark.parametrize("i", range(5))
@pytest.mark.parametrize("bias", [True, False])
def test_one_image_is_idlg(i, bias):
    model = softmax_net(bias)
    label = torch.tensor([2 * i])
    shared = gradient(model, images_of(1, i), label)
    assert infer_label(shared) == 2 * i
    for method in ("auto", "analytic"):
        assert infer_labels(shared, 1, method).tolist() == [2 * i]
    assert infer_labels(shared, 1, model=model).tolist() == [2 * i]


@pytest.mark.parametrize("method", NAMED)
def test_a_sum_of_steps_is_divided_by_their_number(method):
    model, labels = softmax_net(), torch.tensor([1, 1, 1, 4, 7, 7])
    shared = gradient(model, images_of(6), labels)
    summed = {name: 5 * g for name, g in shared.items()}
    dummies = images_of(16, 1)
    once = infer_labels(shared, 6, method, model=model, dummies=dummies)
    assert torch.equal(infer_labels(summed, 6, method, model=model, dummies=dummies, summed=5.0), once)


def test_what_does_not_estimate_the_impact_itself_needs_the_number_of_steps():
    model, labels = softmax_net(), torch.tensor([0, 0, 0, 0, 1, 2])
    images = images_of(6)
    summed = {name: 5 * g for name, g in gradient(model, images, labels).items()}
    found = infer_labels(summed, 6, "geng-bias", model=model, dummies=images)
    assert found.tolist() != labels.tolist()


@pytest.mark.parametrize("method", ["analytic", "wainakh"])
def test_without_a_model_the_gradients_scale_does_not_matter(method):
    shared = gradient(softmax_net(), images_of(6), torch.tensor([0, 0, 0, 4, 9, 9]))
    scaled = {name: 1e-6 * g for name, g in shared.items()}
    assert torch.equal(infer_labels(scaled, 6, method), infer_labels(shared, 6, method))


def test_auto_takes_llg_star_with_a_model_and_llg_without():
    model = softmax_net()
    rows, bias = torch.tensor([-3.0, -1.0, *[0.5] * 8]), torch.tensor([*[0.1] * 7, -0.1, -0.2, -0.4])
    shared = {"1.weight": rows[:, None].expand(10, 6) / 6, "1.bias": bias}
    found = {method: infer_labels(shared, 6, method) for method in ("auto", "analytic", "wainakh")}
    assert torch.equal(found["auto"], found["wainakh"])
    assert not torch.equal(found["auto"], found["analytic"])
    known = {"model": model, "dummies": images_of(16, 1)}
    small = {name: 1e-3 * g for name, g in shared.items()}
    found = {method: infer_labels(small, 6, method, **known) for method in LABEL_METHODS}
    assert torch.equal(found["auto"], found["wainakh"])
    assert not torch.equal(found["auto"], found["geng"])


@pytest.mark.parametrize("method", ["analytic", "wainakh"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_gradient_without_a_negative_row_still_gives_a_label_an_image(method, value):
    shared = {"fc.weight": torch.full((4, 3), value), "fc.bias": torch.full((4,), value)}
    assert infer_labels(shared, 6, method).tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("method", ["analytic", "wainakh"])
def test_more_negative_rows_than_images_leave_the_most_negative(method):
    evidence = torch.tensor([-0.1, -0.4, 0.9, -0.3, -0.1])
    shared = {"fc.weight": evidence[:, None].expand(5, 3), "fc.bias": evidence}
    assert infer_labels(shared, 2, method).tolist() == [1, 3]


def test_random_dummies_depend_on_the_seed_alone_and_leave_the_model_as_it_was():
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(1024, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, CLASSES)
    )
    images, labels = fashion(torch.arange(4))
    shared = gradient(model, images, labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = [infer_labels(shared, 4, "geng", model=model, image_shape=SHAPE) for _ in range(2)]
    assert torch.equal(*found)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_a_matrix_nothing_is_read():
    shared = {"conv.weight": torch.ones(2, 1, 3, 3), "conv.bias": torch.ones(2)}
    assert infer_label(shared) is None
    assert infer_labels(shared, 4) is None


def test_bad_input_is_refused_in_a_line():
    model = softmax_net()
    shared = gradient(model, images_of(2), torch.tensor([0, 1]))
    with pytest.raises(UnknownNameError, match=r"no label method is named 'gneg'; did you mean 'geng'\?"):
        infer_labels(shared, 2, "gneg")
    with pytest.raises(InputError, match=r"^expected batch_size to be at least 1, found 0$"):
        infer_labels(shared, 0)
    with pytest.raises(InputError, match=r"^expected summed to be at least 1, found -1.0$"):
        infer_labels(shared, 2, summed=-1.0)
    with pytest.raises(InputError, match=r"^label method 'geng' needs the model: give model=, or take 'wa"):
        infer_labels(shared, 2, "geng")
    with pytest.raises(InputError, match=r"^expected image_shape=\(c, h, w\) for random dummy images, or"):
        infer_labels(shared, 2, "geng", model=model)
    with pytest.raises(InputError, match=r"^expected the model that was trained, with a layer '1'; Flatten"):
        infer_labels(shared, 2, "geng", model=torch.nn.Flatten(), image_shape=(1, 2, 3))
    with pytest.raises(InputError, match=r"^label method 'geng-bias' needs a last layer with a bias: take"):
        infer_labels({"1.weight": shared["1.weight"]}, 2, "geng-bias", model=model, image_shape=(1, 2, 3))
    with pytest.raises(InputError, match=r"^expected features of the model's last layer that are not all"):
        infer_labels(shared, 2, "geng", model=model, dummies=torch.zeros(3, 1, 2, 3))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_is_refused(value):
    shared = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.tensor([0.0, value, 1.0])}
    with pytest.raises(
        GradientError, match=r"^expected a finite shared gradient, found NaN or infinity in 'fc"
    ):
        infer_labels(shared, 1)


def test_accuracy_is_the_share_of_the_multisets_intersection():
    true = torch.tensor([0, 0, 1, 5])
    assert label_accuracy(torch.tensor([5, 0, 1, 0]), true) == 1
    assert label_accuracy(torch.tensor([0, 0, 0, 0]), true) == 0.5
    assert label_accuracy(torch.tensor([0, 1, 1, 1]), true) == 0.5
    assert label_accuracy(torch.tensor([2, 3, 4, 6]), true) == 0
    with pytest.raises(InputError, match=r"^expected as many labels as there are images, found 3 for 4$"):
        label_accuracy(true[:3], true)


@pytest.mark.parametrize(("batch_size", "classes"), [(1, 10), (2, 3), (3, 2), (4, 1)])
def test_chance_is_the_mean_over_all_pairs_of_batches(batch_size, classes):
    batches = [torch.tensor(labels) for labels in itertools.product(range(classes), repeat=batch_size)]
    every = [label_accuracy(a, b) for a in batches for b in batches]
    assert chance_accuracy(batch_size, classes) == pytest.approx(sum(every) / len(every), rel=1e-12)


def test_chance_needs_an_image_and_a_class():
    with pytest.raises(InputError, match=r"^expected at least 1 image and 1 class, found 0 and 3$"):
        chance_accuracy(0, 3)
