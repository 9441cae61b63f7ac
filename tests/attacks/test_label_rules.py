"""Labels that a search is told, or looks for beside the latents."""

import pytest
import torch

import ggl
from ggl.attacks.label_rules import KNOWN, SearchedLabels, SoftLabels, classes_of
from ggl.attacks.latents import load_latents
from ggl.attacks.search import Search
from ggl.base.errors import InputError, UnknownNameError
from ggl.generators import Prior
from ggl.optimizers import load_group


class Shades(Prior):
    """Two latents, shifted by the class, and as many pixels."""

    name, licence, latent_dim, image_shape, num_classes = "shades", "MIT", 2, (1, 1, 2), 3

    def decode(self, z, labels=None):
        return (z + labels[:, None]).sigmoid().view(-1, 1, 1, 2)


class Wanted:
    """Squared distance to images, plus that of one-hot labels to wanted ones."""

    def __init__(self, images, labels):
        self.images, self.labels, self.seen = images, labels, []

    def __call__(self, images, labels, chosen, counts):
        self.seen.append(labels)
        given = labels if labels.is_floating_point() else torch.nn.functional.one_hot(labels, 3).float()
        wanted = torch.nn.functional.one_hot(self.labels, 3)
        return (images - self.images).square().flatten(1).sum(1) + (given - wanted).square().flatten(1).sum(1)


def search(rule, strategy, budget, batch=2):
    wanted = torch.tensor([2, 1])[:batch]
    images = Shades().decode(torch.tensor([[0.5, -0.5], [0.2, 0.9]])[:batch], wanted)[None]
    objective = Wanted(images, wanted[None])
    size = batch * (2 + rule.size)
    group = load_group(strategy, latent_dim=size, budget=budget, seeds=[0], blocks=batch)
    known = wanted[None] if rule.size == 0 else torch.zeros(1, batch, dtype=torch.int64)
    (result,) = Search(
        Shades(),
        known,
        objective,
        group,
        budget=budget,
        latents=load_latents("free"),
        label_rule=rule,
        device=torch.device("cpu"),
    ).run()
    return result, objective


@pytest.mark.parametrize("strategy", ["cma-es", "block-cma-es"])
def test_searched_labels_are_found_beside_the_latents(strategy):
    result, objective = search(SearchedLabels(3), strategy, 2400)
    assert result.labels.tolist() == [2, 1]
    assert result.latents.shape == (2, 2)
    assert result.milestones[-1].latents.shape == (2, 2)
    assert result.loss < 1e-2
    assert not objective.seen[0].is_floating_point()


def test_soft_labels_follow_their_gradient():
    result, objective = search(SoftLabels(3), "adam:starts=1,learning_rate=0.3", 200)
    assert objective.seen[-1].shape[1:] == (2, 3)
    assert objective.seen[-1].sum(-1).allclose(torch.ones(()))
    assert result.labels.tolist() == [2, 1]


def test_known_labels_cost_no_coordinates():
    result, objective = search(KNOWN, "random", 16)
    assert result.labels.tolist() == [2, 1]
    assert objective.seen[0].tolist() == [[2, 1]] * 16


def test_classes_of_labels():
    assert classes_of(torch.tensor([[1, 0]])).tolist() == [[1, 0]]
    assert classes_of(torch.tensor([[[0.2, 0.5, 0.3]]])).tolist() == [[1]]


@pytest.mark.parametrize("rule", [SearchedLabels, SoftLabels])
def test_one_class_leaves_nothing_to_search(rule):
    with pytest.raises(InputError, match="at least 2 classes to search a label among, found 1"):
        rule(1)


@pytest.fixture(scope="module")
def setting():
    data = ggl.load_dataset("fashion-mnist-heldout")
    victim = ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)
    oracle = ggl.GradientOracle(victim)
    images, labels = data.images[[3, 7]], data.labels[[3, 7]]
    return oracle, oracle.observe(images, labels), ggl.load_prior("fashion-dcgan32")


def test_an_attack_reads_labels_off_the_gradient(setting):
    oracle, shared, prior = setting
    result = ggl.attack(oracle, shared, 2, prior=prior, strategy="random", label_rule="inferred", budget=16)
    assert result.labels.tolist() == [3, 7]
    assert result.images.shape == (2, 1, 32, 32)


def test_an_attack_without_labels_searches_them(setting):
    oracle, shared, prior = setting
    given = {"prior": prior, "strategy": "random", "budget": 16}
    searched = ggl.attack(oracle, shared, 2, **given)
    assert searched.latents.shape == (2, 64)
    assert searched.labels.shape == (2,)
    with pytest.raises(InputError, match="labels of 'attack' are not given"):
        ggl.attack(oracle, shared, 2, label_rule="known", **given)
    with pytest.raises(UnknownNameError, match="label rule"):
        ggl.attack(oracle, shared, 2, label_rule="serched", **given)


def test_no_last_layer_tells_no_label(setting):
    _, _, prior = setting
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 10, 4, stride=4), torch.nn.AdaptiveAvgPool2d(1))
    oracle = ggl.GradientOracle(model.append(torch.nn.Flatten()))
    shared = oracle.observe(torch.rand(1, 1, 32, 32), torch.tensor([1]))
    with pytest.raises(InputError, match="no label can be read off 'attack'"):
        ggl.attack(oracle, shared, 1, prior=prior, label_rule="inferred", budget=16, strategy="random")
