"""Several rounds joined: the gradients side by side, by every backend, and an audit of them."""

import pytest
import torch

import ggl
from ggl.base.errors import InputError
from ggl.captures.rounds import EveryRound, SeveralRounds, join_gradients

SIZES = {"in_channels": 1, "num_classes": 10, "image_size": 32}


def victims(name="lenet", count=3):
    return [ggl.load_victim(name, **SIZES, seed=seed) for seed in range(count)]


@pytest.fixture(scope="module")
def data():
    return ggl.load_dataset("fashion-mnist-heldout")


@pytest.mark.parametrize("backend", ["sequential", "vmap", "layerwise"])
@pytest.mark.parametrize("loss", ["cross-entropy", "cross-entropy:smoothing=0.1", "bce"])
def test_a_joint_gradient_is_the_rounds_side_by_side(data, backend, loss):
    rounds = victims()
    batch = data.images[:2], data.labels[:2]
    joint = ggl.GradientOracle(SeveralRounds(rounds), loss=EveryRound(loss, 3), backend=backend)
    found = joint.observe(*batch)
    expected = join_gradients([ggl.GradientOracle(v, loss=loss).observe(*batch) for v in rounds])
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_its_score_is_that_of_all_gradients_together(data):
    rounds = victims(count=2)
    joint = ggl.GradientOracle(SeveralRounds(rounds), loss=EveryRound("cross-entropy", 2))
    shared = joint.observe(data.images[:1], data.labels[:1])
    view = ggl.load_defense("none").view(shared, "adaptive")
    other = data.images[1:2]
    found = joint.score(other[None], data.labels[:1], view, "cosine")
    parts = [ggl.GradientOracle(v).observe(other, data.labels[:1]) for v in rounds]
    flat = torch.cat([g.flatten() for g in join_gradients(parts).values()])
    goal = torch.cat([shared[name].flatten() for name in join_gradients(parts)])
    assert float(found) == pytest.approx(1 - float(torch.cosine_similarity(flat, goal, dim=0)), abs=1e-5)


def test_local_steps_of_every_round_are_those_of_each_alone(data):
    rounds, local = victims(count=2), ggl.LocalTraining(steps=2, learning_rate=0.1, batch_size=1)
    batch = data.images[:2], data.labels[:2]
    joint = ggl.GradientOracle(SeveralRounds(rounds), loss=EveryRound("cross-entropy", 2), local=local)
    expected = join_gradients([ggl.GradientOracle(v, local=local).observe(*batch) for v in rounds])
    for name, gradient in joint.observe(*batch).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_an_audit_of_several_rounds_runs(data, tmp_path):
    report = ggl.audit(
        SeveralRounds(victims(count=2)),
        data.images[:2],
        data.labels[:2],
        prior=ggl.load_prior("fashion-dcgan32"),
        loss=EveryRound("cross-entropy", 2),
        budget=40,
        ceiling_budget=10,
        defenses=["noise:0.01"],
    )
    assert report.to_dict()["results"][0]["leak_score"] is not None


def test_one_round_is_none_to_join():
    with pytest.raises(InputError, match=r"^expected at least 2 rounds to be joined, found 1$"):
        SeveralRounds(victims(count=1))
