"""Which classes are hit harder than the rest: by hand where permutations can be counted, and by chance."""

import numpy as np
import pytest

from ggl.base.errors import InputError
from ggl.measures import classes
from ggl.measures.classes import harder_than_the_rest


def test_two_of_five_that_are_hit_and_no_other():
    """Of 10 ways to take 2 of 5 images, one gives this largest difference: p = 0.1, of either class."""
    found = harder_than_the_rest(np.array([[1.0, 1.0, 0.0, 0.0, 0.0]]), np.array([0, 0, 1, 1, 1]))
    assert found[0] == pytest.approx(0.1, abs=0.015)
    assert found[1] == pytest.approx(1.0)


@pytest.mark.parametrize(("each", "shown"), [(2, False), (3, True)])
def test_ten_classes_need_three_images_each(each, shown):
    """Whatever is hit: 10 of 190 pairs of twenty images are a class, 10 of 4,060 triples of thirty."""
    labels = np.repeat(np.arange(10), each)
    found = harder_than_the_rest((labels == 4).astype(float)[None], labels)
    assert (found[4] < 0.05) == shown


def test_a_class_that_is_hit_is_found_and_named():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    hits = random.uniform(0, 0.4, (2, 24))
    hits[1, labels == 2] += 0.5
    found = harder_than_the_rest(hits, labels)
    assert found[2] == pytest.approx(1e-4)
    assert min(p for label, p in found.items() if label != 2) > 0.3


def test_a_class_that_is_spared_does_not_name_each_of_the_others():
    random = np.random.default_rng(1)
    labels = np.repeat(np.arange(5), 6)
    hits = random.uniform(0.4, 0.6, (1, 30)) - 0.4 * (labels == 0)
    assert min(harder_than_the_rest(hits, labels).values()) > 0.05


def test_single_images_and_single_classes_are_not_tested():
    hits = np.array([[1.0, 0.0, 0.0, 0.5]])
    assert set(harder_than_the_rest(hits, np.array([0, 1, 1, 2]))) == {1}
    assert harder_than_the_rest(hits, np.arange(4)) == {}
    assert harder_than_the_rest(hits, np.zeros(4, int)) == {}


def test_hits_that_are_all_the_same_show_nothing():
    assert harder_than_the_rest(np.ones((2, 8)), np.repeat([0, 1], 4)) == {0: 1.0, 1: 1.0}


@pytest.mark.parametrize("batch", [1, 4])
def test_the_order_of_clients_does_not_matter(batch):
    random = np.random.default_rng(2)
    hits, labels = random.random((2, 24)), random.integers(0, 3, 24)
    order = random.permutation(24 // batch)
    rows = (order[:, None] * batch + np.arange(batch)).reshape(-1)
    assert harder_than_the_rest(hits[:, rows], labels[rows], batch) == harder_than_the_rest(
        hits, labels, batch
    )


def test_clients_that_are_all_of_one_class_tell_nothing_of_classes():
    """A client's images share its gradient: eight that are hit are two clients, not eight images."""
    labels = np.repeat([0, 1, 1, 1], 4)
    hits = np.repeat([[1.0, 0.0, 0.0, 0.0]], 4, axis=1)
    assert min(harder_than_the_rest(hits, labels, 4).values()) == 1.0


@pytest.mark.parametrize("batch", [1, 4])
def test_by_chance_any_class_is_named_in_five_percent_of_audits(batch, monkeypatch):
    """600 audits at most: a binomial count of mean 30; 52 and more have probability below 1e-4."""
    monkeypatch.setattr(classes, "RESAMPLES", 199)
    random = np.random.default_rng(3)
    named = 0
    for _ in range(600):
        labels = random.integers(0, 5, 20)
        hits = random.beta(0.3, 0.6, (2, 20)) + np.repeat(random.normal(0, 1, 20 // batch), batch)
        named += min(harder_than_the_rest(hits, labels, batch).values(), default=1.0) < 0.05
    assert named < 52


@pytest.mark.parametrize(("hits", "batch"), [(np.full((1, 4), np.nan), 1), (np.ones((1, 4)), 3)])
def test_what_is_no_hit_of_every_image_is_refused(hits, batch):
    with pytest.raises(InputError, match="expected finite hits"):
        harder_than_the_rest(hits, np.zeros(4, int), batch)
