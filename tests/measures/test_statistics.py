import itertools
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
    max_test,
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


@pytest.mark.parametrize("n", [6, 10])
def test_bootstrap_mean_covers_the_mean_as_often_as_it_says(n):
    """Of 600 normal samples 95 % and up to 2 more, since c is at least Student's, within 4 deviations."""
    intervals = [bootstrap_mean(row) for row in normal((600, n))]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert 0.95 - 4 * math.sqrt(0.95 * 0.05 / 600) < covered < 0.97 + 4 * math.sqrt(0.97 * 0.03 / 600)


def test_the_critical_value_is_the_symmetric_bootstrap_ts():
    """By a loop over resamples of another stream; 9,999 place the quantile within about 2 %."""
    values = np.exp(0.5 * normal(12))
    random, sizes = np.random.default_rng(5), []
    for _ in range(9_999):
        drawn = values[random.integers(12, size=12)]
        sizes.append(abs(drawn.mean() - values.mean()) / (drawn.std(ddof=1) / math.sqrt(12)))
    student = stats.t.ppf(0.975, 11)
    expected = np.quantile(sizes, 0.95)
    assert student < expected < 1.5 * student
    interval = bootstrap_mean(values)
    found = (interval.high - interval.mean) / (values.std(ddof=1) / math.sqrt(12))
    assert found == pytest.approx(expected, rel=0.04)
    assert interval.high - interval.mean == pytest.approx(interval.mean - interval.low)


def test_the_critical_value_is_at_most_half_above_students():
    """Of five equal values and another a third of the resamples have no spread: c would be infinite."""
    values = [0.0, 0.0, 0.0, 0.0, 0.0, 6.0]
    reach = 1.5 * stats.t.ppf(0.975, 5) * np.std(values, ddof=1) / math.sqrt(6)
    interval = bootstrap_mean(values)
    assert (interval.low, interval.high) == (pytest.approx(1 - reach), pytest.approx(1 + reach))


def test_bootstrap_mean_agrees_with_the_normal_interval_for_many_images():
    values = normal(400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.n == 400
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_bootstrap_ratio_pairs_the_images():
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
@given(paired)
def test_bounds_lie_about_the_ratio(pairs):
    interval = bootstrap_ratio(*zip(*pairs, strict=True))
    if not math.isnan(interval.low):
        slack = 1e-9 * max(abs(interval.low), abs(interval.high))
        assert interval.low - slack <= interval.mean <= interval.high + slack


def test_the_ratios_interval_is_fiellers():
    """Fieller 1954 by hand: the roots of (mean(x) - r mean(y))^2 = c^2 var(x - r y) / n.

    c is that of the residuals x - r y, but for the order in which the resamples meet them.
    """
    y = 3 + normal(15)
    x = 0.4 * y + 0.5 * normal(15, seed=1)
    interval = bootstrap_ratio(x, y)
    residuals = x - interval.mean * y
    c = bootstrap_mean(residuals).high / (residuals.std(ddof=1) / math.sqrt(15))
    rests = [x - bound * y for bound in (interval.low, interval.high)]
    sizes = [abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(15)) for rest in rests]
    assert sizes[0] == pytest.approx(sizes[1])
    assert sizes[0] == pytest.approx(c, rel=0.03)


def test_a_wider_ratio_has_the_larger_critical_value():
    values = normal(12)
    narrow, wide = bootstrap_ratio(values, np.ones(12)), bootstrap_ratio(values, np.ones(12), widened=1.5)
    assert wide.high - wide.mean == pytest.approx(1.5 * (narrow.high - narrow.mean))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0])
def test_a_constant_sample_has_no_width(value):
    interval = bootstrap_mean([value] * 7)
    assert interval.low == interval.mean == interval.high == value


def test_a_constant_ratio_has_no_width():
    interval = bootstrap_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_extreme_sizes_keep_their_interval(size):
    interval, unit = (bootstrap_mean([0.0, 0.0, 0.0, x]) for x in (size, 1.0))
    assert interval.mean == size / 4
    assert interval.low / size == pytest.approx(unit.low)
    assert interval.high / size == pytest.approx(unit.high)


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


def test_share_is_the_mid_p_interval():
    """Newcombe 1998 (Statistics in Medicine 17, table I, method 8): 81 of 263 gives 0.2544 to 0.3658."""
    interval = share(81, 263)
    assert interval.mean == pytest.approx(81 / 263)
    assert (round(interval.low, 4), round(interval.high, 4), interval.n) == (0.2544, 0.3658, 263)


def test_share_at_its_ends():
    """Of none of 20, (1 - p)^20 / 2 = 0.025."""
    assert share(0, 20).low == 0
    assert share(0, 20).high == pytest.approx(1 - 0.05 ** (1 / 20))
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


def test_clusters_have_students_interval_of_a_half_at_either_end_added():
    """By hand: of 0.2, 0.6 and 0.7 the mean is (1.5 + 0.5) / 4 and the squares' sum 0.14 + 0.25."""
    reach = stats.t.ppf(0.975, 3) * math.sqrt(0.39 / 3 / 4)
    found = share_of_clusters([0.2, 0.6, 0.7])
    assert (found.mean, found.n) == (pytest.approx(0.5), 3)
    assert found.low == pytest.approx(max(0.0, 0.5 - reach))
    assert found.high == pytest.approx(min(1.0, 0.5 + reach))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_clusters_that_are_all_alike_do_not_say_that_there_is_no_other(value):
    found = share_of_clusters([value] * 10)
    assert found.mean == value
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.high - found.low > 0.15


def test_the_max_test_of_one_cell_is_the_paired_test():
    for n in (8, 20):
        a, b = normal(n), normal(n, seed=1) - 0.4
        assert max_test((a - b)[None])[0] == paired_test(a, b)


def test_the_max_test_agrees_with_counting_every_flip_of_all_cells_at_once():
    rows = np.stack([normal(7) + 0.8, normal(7, seed=1), normal(7, seed=2) - 0.3])
    rows[2, 5:] = 0  # two images that this cell does not have
    found = max_test(rows)
    for row, p_value in zip(rows, found, strict=True):
        count = 0
        for signs in itertools.product([-1, 1], repeat=7):
            greatest = max(abs(np.dot(signs, other)) / np.linalg.norm(other) for other in rows)
            count += greatest >= abs(row.sum()) / np.linalg.norm(row) * (1 - 1e-9)
        assert p_value == pytest.approx(count / 2**7)
    assert (found >= [max_test(row[None])[0] for row in rows]).all()


def test_cells_that_are_one_cost_nothing_and_order_does_not_matter():
    row = normal(9) + 0.6
    assert max_test(np.stack([row, row, row]))[0] == max_test(row[None])[0]
    rows = normal((3, 20))
    assert (max_test(rows) == max_test(rows[:, ::-1])).all()
    assert (max_test(np.zeros((2, 5))) == 1).all()


def test_no_cluster_has_no_share():
    with pytest.raises(InputError, match="at least one cluster's share, found none"):
        share_of_clusters([])
