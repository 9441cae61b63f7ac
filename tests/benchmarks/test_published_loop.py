"""The loop that others publish: its losses, what it finds, when it ends."""

import pytest
import torch

import ggl
from ggl.benchmarks.speed.published_loop import evaluation, search


@pytest.fixture(scope="module")
def case():
    """Return a prior, an oracle, an image's label and its gradient."""
    prior = ggl.load_prior("fashion-dcgan32")
    oracle = ggl.GradientOracle(
        ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)
    )
    data = ggl.load_dataset("fashion-mnist-heldout")
    return prior, oracle, data.labels[:1], oracle.observe(data.images[:1], data.labels[:1])


@pytest.mark.parametrize(("latents", "penalty"), [("free", 0.0), ("shell:2", 2.0)])
def test_a_loss_is_the_mean_of_the_parameters_squared_distances_and_the_penalty(case, latents, penalty):
    prior, oracle, label, shared = case
    z = prior.sample(1, torch.Generator().manual_seed(0))
    found = evaluation(prior, oracle.model, shared, label, latents)(z[0].double())
    distance = oracle.score(prior.decode(z, label), label, shared, "l2").item() / len(shared)
    assert found == pytest.approx(distance + penalty * prior.penalty(z).item(), rel=1e-4)


def test_the_course_ends_with_the_best_latents_it_met(case):
    prior, oracle, label, shared = case
    course = search(prior, oracle.model, shared, label, budget=129, seed=0)
    assert [r.evaluations for r in course.rounds] == [50, 100]
    losses, seconds = [r.loss for r in course.rounds], [r.seconds for r in course.rounds]
    assert losses == sorted(losses, reverse=True)
    assert 0 < seconds[0] < seconds[1] == course.seconds
    found = evaluation(prior, oracle.model, shared, label)(course.latents.double())
    assert found == pytest.approx(course.loss, rel=1e-5)
    assert course.latents.abs().max() <= 1  # the published tanh
    again = search(prior, oracle.model, shared, label, budget=129, seed=0)
    assert [r.loss for r in again.rounds] == losses


def test_no_round_begins_after_the_seconds_and_one_is_always_run(case):
    prior, oracle, label, shared = case
    course = search(
        *(prior, oracle.model, shared, label),
        **{"budget": 10**6, "seed": 1, "strategy": "cma-es:population=5", "latents": "tanh", "seconds": 0.0},
    )
    assert course.evaluations == 5
    assert course.latents.abs().max() < 1


def test_the_victim_is_left_as_it_was(case):
    prior, oracle, label, shared = case
    before = {name: tensor.clone() for name, tensor in oracle.model.state_dict().items()}
    search(prior, oracle.model, shared, label, budget=50, seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in oracle.model.state_dict().items())
    assert all(p.grad is None for p in oracle.model.parameters())
