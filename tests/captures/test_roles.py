"""A difference given as weights, weights given as a difference, and files in the wrong order are seen."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ggl.base.errors import GradientError, InputError, WeightsError
from ggl.captures.roles import check_direction
from ggl.captures.update import captured_difference, captured_update

CLASSES = 6


def network(normalized=False, scale=1.0, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norm = [nn.BatchNorm1d(5)] if normalized else []
        made = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), *norm, nn.Sigmoid(), nn.Linear(5, CLASSES))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter *= scale
    return made


def states(labels, *, rate=0.1, steps=1, normalized=False, scale=1.0, seed=0, **options):
    """Return a network's state before and after local steps on images of these labels, one batch."""
    model = network(normalized, scale, seed).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(len(labels), 6, generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), torch.tensor(labels)).backward()
        optimizer.step()
    return before, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def minus(a, b):
    return {name: a[name] - b[name] for name in a}


def update(folder, before, after, *, normalized=False, rate=0.1):
    for name, state in (("before", before), ("after", after)):
        torch.save(state, folder / f"{name}.pt")
    files = folder / "before.pt", folder / "after.pt"
    return captured_update(network(normalized).train(), *files, learning_rate=rate)


def difference(folder, before, values, **options):
    torch.save(values, folder / "difference.pt")
    model = network(any("running" in name for name in before)).train()
    model.load_state_dict(before)
    return captured_difference(model, folder / "difference.pt", **{"learning_rate": 0.1, **options})


@pytest.mark.parametrize("normalized", [True, False])
def test_a_difference_gives_the_update_of_both_files(tmp_path, normalized):
    before, after = states([0, 3], normalized=normalized)
    whole = update(tmp_path, before, after, normalized=normalized)
    trained = list(whole.gradients)
    for values, options in [
        (minus(after, before), {}),
        ({"params": {name: (after[name] - before[name]).numpy() for name in trained}}, {}),
        ({"model": minus(before, after), "other": minus(after, before)}, {"sign": -1, "key": "model"}),
        ([after[name] - before[name] for name in before], {}),
        ({name: (before[name] - after[name]) / 0.1 for name in trained}, {"sign": -1, "learning_rate": 1.0}),
    ]:
        found = difference(tmp_path, before, values, **options)
        assert list(found.gradients) == trained
        torch.testing.assert_close(found.gradients, whole.gradients, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(tensor, before[name]) for name, tensor in found.before.items())
        check_direction(found.gradients, batch_size=2, is_difference=True)
    assert difference(tmp_path, before, minus(after, before)).trained_in_train_mode is (normalized or None)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("options", [{}, {"steps": 4, "momentum": 0.9}, {"rate": 3.0, "steps": 3}])
def test_a_difference_as_the_weights_after_is_refused_whatever_its_size(tmp_path, scale, options):
    before, after = states([0, 3], scale=scale, **options)
    message = (
        r"after.pt: expected the weights after local training, found values with next to nothing of those in "
        r".*before.pt: a difference of weights, .* --update-difference"
    )
    for changed in (minus(after, before), minus(before, after)):
        with pytest.raises(WeightsError, match=message) as error:
            update(tmp_path, before, changed)
        assert "\n" not in str(error.value)


def test_weights_as_a_difference_are_refused(tmp_path):
    before, after = states([0, 3])
    with pytest.raises(WeightsError, match=r"difference.pt: .* found weights; give both files with --update"):
        difference(tmp_path, before, after)


def test_counts_of_batches_that_run_backward_are_the_wrong_order(tmp_path):
    before, after = states([0, 3, 4], normalized=True, steps=2)
    message = (
        r"after.pt: '2.num_batches_tracked' runs backward, from 2 to 0: the files are in the wrong order"
    )
    with pytest.raises(WeightsError, match=message):
        update(tmp_path, after, before, normalized=True)
    uncounted = {name: tensor for name, tensor in before.items() if "num_batches" not in name}
    update(tmp_path, after, uncounted, normalized=True)


@settings(max_examples=40)
@given(
    labels=st.lists(st.integers(0, CLASSES - 1), min_size=1, max_size=4),
    scale=st.sampled_from([0.1, 1.0, 10.0]),
    rate=st.sampled_from([1e-3, 0.1, 1.0]),
    steps=st.integers(1, 4),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 5e-4]),
    known=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_clients_own_update_is_never_refused(
    tmp_path_factory, labels, scale, rate, steps, momentum, decay, known, seed
):
    options = {"momentum": momentum, "weight_decay": decay}
    before, after = states(labels, scale=scale, rate=rate, steps=steps, seed=seed, **options)
    try:
        found = update(tmp_path_factory.mktemp("files"), before, after, rate=rate)
    except GradientError:
        return  # a step that float32 does not show
    given = torch.tensor(labels) if known else None
    check_direction(found.gradients, given, batch_size=len(labels))


@pytest.mark.parametrize("labels", [[0], [0, 3], [2, 2, 5]])
@pytest.mark.parametrize("known", [True, False])
def test_an_update_in_reverse_is_seen_at_the_heads_bias(tmp_path, labels, known):
    before, after = states(labels)
    found = update(tmp_path, after, before)
    falls = ", ".join(map(str, sorted(set(labels))))
    message = (
        rf"'3.bias': expected it to rise at the images' classes alone, .* it falls at {falls} and rises "
        "elsewhere; the files are in the wrong order: give the weights before local training first"
    )
    given = torch.tensor(labels) if known else None
    with pytest.raises(InputError, match=message):
        check_direction(found.gradients, given, batch_size=len(labels))
    reverse = difference(tmp_path, before, minus(before, after))
    with pytest.raises(InputError, match=r"the difference is before - after: give FILE,sign=-1"):
        check_direction(reverse.gradients, given, batch_size=len(labels), is_difference=True)


@pytest.mark.parametrize(
    "gradients",
    [
        {"w": torch.eye(2), "bias": torch.tensor([1.0, -1.0])},
        {"weight": torch.eye(3)},
        {"weight": torch.eye(4), "bias": torch.tensor([1.0, 1.0, -1.0, -1.0])},
    ],
    ids=["no head", "no bias", "half the classes"],
)
def test_where_nothing_can_be_said_nothing_is(gradients):
    check_direction(gradients, batch_size=2)
    check_direction({name: -g for name, g in gradients.items()}, batch_size=2)


def test_other_bad_differences(tmp_path):
    before, after = states([1])
    zeros = minus(before, before)
    with pytest.raises(GradientError, match=r"difference.pt: expected the weights after .* found zeros"):
        difference(tmp_path, before, zeros)
    with pytest.raises(InputError, match=r"expected a sign of 1, after - before, or -1, .* found 2"):
        difference(tmp_path, before, minus(after, before), sign=2)
    with pytest.raises(InputError, match="a learning rate that is finite and above 0, found 0"):
        difference(tmp_path, before, minus(after, before), learning_rate=0.0)
    short = minus(after, before)
    del short["3.bias"]
    with pytest.raises(WeightsError, match=r"'3.bias': expected float \[6\], found no such tensor"):
        difference(tmp_path, before, short)


def test_frozen_layers_may_be_missing_after_but_not_before(tmp_path):
    model = network()
    model[1].requires_grad_(requires_grad=False)
    before = model.state_dict()
    after = {name: tensor + 0.1 for name, tensor in before.items() if name.startswith("3")}
    torch.save(before, tmp_path / "before.pt")
    torch.save(after, tmp_path / "after.pt")
    files = tmp_path / "before.pt", tmp_path / "after.pt"
    assert set(captured_update(model, *files, learning_rate=0.1).gradients) == {"3.weight", "3.bias"}
    with pytest.raises(WeightsError, match=r"after.pt: '1.weight': expected float .* no such tensor"):
        captured_update(model, *reversed(files), learning_rate=0.1)


def test_what_16_bits_hide_is_said(tmp_path):
    before, after = states([0, 3], rate=0.1)
    halves = {name: tensor.half() for name, tensor in after.items()}
    found = update(tmp_path, before, halves)
    assert found.notes[0].startswith("after.pt: float16, each weight rounded by up to 0.0005")
    text = found.notes[1].split()
    assert found.notes[1].startswith("rounding to 16 bits changes the weights by a norm of about ")
    lost = np.sqrt(sum(float((halves[n].float() - after[n]).square().sum()) for n in after))
    change = np.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in after))
    assert float(text[12].rstrip(",")) == pytest.approx(lost, rel=0.4)
    assert float(text[-1]) == pytest.approx(change, rel=0.05)
