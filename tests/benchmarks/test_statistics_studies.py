"""The studies of intervals and verdicts: what stands beside the product's own code is what it says it is."""

import numpy as np
import pytest
import torch
from scipy import stats

from ggl.benchmarks.studies import coverage, null
from ggl.benchmarks.studies.clients import CLIENTS, measured
from ggl.benchmarks.studies.other_intervals import bca, student, wilson
from ggl.measures.leakage import leak_score
from ggl.measures.statistics import bootstrap_ratio, ratio_bounds


def pairs(m=3, n=12):
    random = np.random.default_rng(0)
    bottoms = 1 + np.exp(0.5 * random.standard_normal((m, n)))
    return bottoms * 0.4 + 0.3 * random.standard_normal((m, n)), bottoms


def test_the_fast_bca_is_scipys():
    """Within what 999 resamples leave of a 2.5 % quantile: a tenth of the width."""
    tops, bottoms = pairs()
    low, high = bca(tops, bottoms, np.random.default_rng(1))
    for k, (x, y) in enumerate(zip(tops, bottoms, strict=True)):
        expected = stats.bootstrap(
            (x, y),
            lambda a, b, axis: a.sum(axis) / b.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=20_000,
            rng=np.random.default_rng(2),
        ).confidence_interval
        allowed = 0.1 * (expected.high - expected.low)
        assert low[k] == pytest.approx(expected.low, abs=allowed)
        assert high[k] == pytest.approx(expected.high, abs=allowed)


def test_students_and_wilsons_are_scipys():
    tops, _ = pairs()
    low, high = student(tops, np.ones_like(tops))
    for k, row in enumerate(tops):
        expected = stats.ttest_1samp(row, 0).confidence_interval()
        assert (low[k], high[k]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    low, high = wilson(np.array([0.3]), 10)
    expected = stats.binomtest(3, 10).proportion_ci(method="wilson")
    assert (low[0], high[0]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_what_is_simulated_is_what_reports_print():
    """But for the order in which resamples meet the images, which a report sorts."""
    tops, bottoms = pairs()
    low, high = ratio_bounds(tops, bottoms)
    for k in range(len(tops)):
        found = bootstrap_ratio(tops[k], bottoms[k])
        width = found.high - found.low
        assert (low[k], high[k]) == (
            pytest.approx(found.low, abs=0.05 * width),
            pytest.approx(found.high, abs=0.05 * width),
        )


def test_a_simulated_leak_score_picks_the_strongest_control_as_an_audit_does():
    draw, truth = coverage.of_ratios()["leak score, noise:0.2"]
    tops, bottoms = draw(np.random.default_rng(0), (20, 6))
    who = np.random.default_rng(0).integers(CLIENTS, size=(20, 6))
    columns = measured()["noise:0.2"]
    for k, rows in enumerate(who):
        controls = {name: columns[name][rows] for name in coverage.CONTROLS}
        found = leak_score(columns["attack"][rows], columns["ceiling"][rows], controls)
        assert found.interval.mean == pytest.approx(tops[k].sum() / bottoms[k].sum())
    everyone = {name: columns[name] for name in coverage.CONTROLS}
    assert truth == pytest.approx(leak_score(columns["attack"], columns["ceiling"], everyone).interval.mean)


def test_means_of_others_are_disjoint_apart_and_share_five_alike():
    """Every other image has a pixel of its own, so that a mean tells whom it is of."""
    apart, alike, control = null.means(torch.eye(99).reshape(99, 1, 1, 99), torch.Generator().manual_seed(0))

    def members(mean):
        return set(mean.flatten().nonzero()[:, 0].tolist())

    for family in (0, null.FAMILIES - 1):
        groups = [members(control[family]), *map(members, apart[family])]
        assert [len(group) for group in groups] == [null.MEAN_OF] * (null.CELLS + 1)
        assert len(set.union(*groups)) == null.MEAN_OF * (null.CELLS + 1)
        shared = [members(mean) for mean in alike[family]]
        assert len(set.intersection(*shared)) == null.COMMON
        assert [len(group) for group in shared] == [null.MEAN_OF] * null.CELLS
        assert not set.union(*shared) & groups[0]
