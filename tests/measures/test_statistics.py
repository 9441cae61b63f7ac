import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ggl.base.errors import InputError
from ggl.measures.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_ratio,
    paired_test,
    share,
    share_of_clusters,
)

finite = st.floats(-1e6, 1e6)
samples = st.lists(finite, min_size=1, max_size=12)
paired = st.lists(st.tuples(finite, st.floats(-1, 1e3)), min_size=1, max_size=12)
quick = settings(max_examples=30)


def normal(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def same(a, b):
    return str(a) == str(b)


def test_bootstrap_mean_covers_the_mean_as_often_as_it_says():
    """For normal samples of n = 30 the bootstrap interval is about mean ± 1.96 s sqrt((n - 1) / n) / sqrt(n).

    So it covers with P(|t_29| < 1.96 sqrt(29 / 30)) = 0.936. Over 300 samples that share has a standard
    deviation of 0.0141; four of them, and 0.01 for the asymmetry of BCa, are allowed.
    """
    n, trials = 30, 300
    expected = 1 - 2 * stats.t.sf(1.96 * math.sqrt((n - 1) / n), n - 1)
    allowed = 4 * math.sqrt(expected * (1 - expected) / trials) + 0.01
    intervals = [bootstrap_mean(row) for row in normal((trials, n))]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert abs(covered - expected) < allowed


def test_bootstrap_mean_agrees_with_the_normal_interval_for_many_images():
    values = normal(400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.n == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bca_leans_to_the_long_tail():
    values = np.exp(1.5 * normal(30))
    interval = bootstrap_mean(values)
    assert interval.high - interval.mean > 1.3 * (interval.mean - interval.low)


def test_bootstrap_ratio_resamples_the_images_jointly():
    """The delta method: the standard error of sum(x) / sum(y) is sd(x - r y) / (mean(y) sqrt(n))."""
    y = 3 + normal(300)
    x = 0.5 * y + 0.1 * normal(300, seed=1)
    interval = bootstrap_ratio(x, y)
    half = 1.96 * (x - interval.mean * y).std() / y.mean() / math.sqrt(300)
    assert interval.mean == pytest.approx(x.sum() / y.sum())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


@quick
@given(st.data(), paired)
def test_order_of_the_images_does_not_matter(data, pairs):
    shuffled = data.draw(st.permutations(pairs))
    for figure in (bootstrap_ratio, paired_test):
        assert same(figure(*zip(*pairs, strict=True)), figure(*zip(*shuffled, strict=True)))
    first, other = ([x for x, _ in order] for order in (pairs, shuffled))
    assert same(bootstrap_mean(first), bootstrap_mean(other))


def test_order_does_not_matter_to_random_flips_either():
    a, b = normal(40), normal(40, seed=1) + 0.5
    assert paired_test(a, b) == paired_test(a[::-1], b[::-1])


@quick
@given(st.integers(-20, 20), samples)
def test_intervals_scale_with_the_values(power, values):
    scale = 2.0**power
    base, scaled = bootstrap_mean(values), bootstrap_mean(np.asarray(values) * scale)
    bounds = np.asarray([base.mean, base.low, base.high])
    np.testing.assert_allclose([scaled.mean, scaled.low, scaled.high], bounds * scale, rtol=1e-9, atol=1e-300)


@quick
@given(samples)
def test_bounds_are_means_that_the_values_can_have(values):
    interval = bootstrap_mean(values)
    if len(values) > 1:
        slack = 1e-9 * max(map(abs, values))
        assert min(values) - slack <= interval.low <= interval.high + slack
        assert interval.high <= max(values) + slack


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0])
def test_a_constant_sample_has_no_width(value):
    interval = bootstrap_mean([value] * 7)
    assert interval.low == interval.mean == interval.high == value


def test_a_constant_ratio_has_no_width():
    interval = bootstrap_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_extreme_sizes_keep_their_interval(size):
    interval = bootstrap_mean([0.0, 0.0, 0.0, size])
    assert 0 <= interval.low < interval.mean == size / 4 < interval.high <= size


def test_images_without_weight_do_not_make_a_ratio_constant():
    interval = bootstrap_ratio([0.0, 1.0, 2.0], [0.0, 1.0, 1.0])
    assert interval.mean == 1.5
    assert not interval.low == interval.mean == interval.high


def test_one_image_gives_no_interval():
    interval = bootstrap_mean([0.3])
    assert interval.mean == 0.3
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_a_ratio_whose_denominator_may_vanish_has_no_interval():
    interval = bootstrap_ratio([1.0, 2.0, 3.0], [2.0, -1.0, 3.0])
    assert interval.mean == 1.5
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)
    assert math.isnan(bootstrap_ratio([1.0, 2.0], [1.0, -1.0]).mean)


def test_a_ratio_keeps_its_interval_where_both_sums_are_negative():
    x, y = 1 + 0.1 * normal(20), 2 + 0.1 * normal(20, seed=1)
    negative = bootstrap_ratio(-x, -y)
    assert negative.low < negative.mean == bootstrap_ratio(x, y).mean < negative.high


@pytest.mark.parametrize("bad", [[], np.ones((1, 2)), [1.0, math.nan], [math.inf, 1.0]], ids=str)
def test_values_that_are_not_one_finite_number_an_image_are_refused(bad):
    with pytest.raises(InputError, match="expected"):
        bootstrap_mean(bad)
    with pytest.raises(InputError, match="expected"):
        paired_test(bad, bad)


def test_pairs_of_different_lengths_are_refused():
    for figure in (bootstrap_ratio, paired_test):
        with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
            figure([1.0, 2.0], [1.0, 2.0, 3.0])


def test_share_is_wilsons_interval():
    """Newcombe 1998 (Statistics in Medicine 17, table I): 81 of 263 gives 0.2553 to 0.3662."""
    interval = share(81, 263)
    assert interval.mean == pytest.approx(81 / 263)
    assert (round(interval.low, 4), round(interval.high, 4), interval.n) == (0.2553, 0.3662, 263)


def test_share_at_its_ends():
    assert share(0, 20).low == 0
    assert round(share(0, 20).high, 4) == 0.1611
    assert share(20, 20).high == 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_share_of_impossible_counts_is_refused(successes, n):
    with pytest.raises(InputError, match="successes"):
        share(successes, n)


def test_eight_images_that_all_agree_reach_the_exact_minimum():
    a = np.arange(1.0, 9.0)
    assert paired_test(a, np.zeros(8)) == paired_test(np.zeros(8), a) == 2 / 256


def test_paired_test_agrees_with_counting_every_sign_flip():
    a, b = normal(9), normal(9, seed=1) - 0.7
    flips = np.stack(np.meshgrid(*[[-1, 1]] * 9, indexing="ij"), -1).reshape(-1, 9)
    means = np.abs(flips @ (a - b))
    expected = np.mean(means >= abs(np.sum(a - b)) * (1 - 1e-12))
    assert paired_test(a, b) == pytest.approx(expected)


def test_paired_test_has_its_nominal_level():
    """Of 400 true null hypotheses a share of at most 0.05 is rejected, up to 4 standard deviations."""
    p = [paired_test(row, np.zeros(10)) for row in normal((400, 10))]
    assert np.mean(np.asarray(p) <= 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 400)


def test_paired_test_by_random_flips_has_a_least_value():
    assert paired_test(1 + 0.1 * normal(50), np.zeros(50)) == 2 / 10_000


def test_paired_test_without_any_difference_is_one():
    assert paired_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1
    assert paired_test([1.0], [0.0]) == 1


def test_interval_as_json_has_no_nan():
    assert Interval(0.5, 0.25, 0.75, 8).to_dict() == {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8}
    assert json.loads(json.dumps(bootstrap_mean([0.5]).to_dict(), allow_nan=False))["low"] is None


@pytest.mark.parametrize(("successes", "n"), [(0, 4), (3, 7), (12, 12)])
def test_clusters_that_agree_within_are_wilsons_draws(successes, n):
    shares = [1.0] * successes + [0.0] * (n - successes)
    expected = share(successes, n)
    found = share_of_clusters(shares)
    assert (found.mean, found.n) == (expected.mean, expected.n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_cluster_has_no_share():
    with pytest.raises(InputError, match="at least one cluster's share, found none"):
        share_of_clusters([])
