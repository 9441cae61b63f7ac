"""Who is recognizable, own leak scores, shares and risks: hand-computed values, and what chance gives."""

import numpy as np
import pytest
import scipy
import torch

from ggl.base.errors import InputError
from ggl.measures.leakage import Scores, leak_score, rank
from ggl.measures.people import (
    harder_at_most,
    own_scores,
    picked_out,
    recognizable,
    risk_at_most,
    share_above,
    worst_image,
)

CHANCE = 0.01


def found_of(picked, n, batch=1, chance=CHANCE):
    return recognizable(np.arange(n) < picked, np.full(n, chance), batch)


# Recognizable


def test_p_values_are_binomial_tails_of_what_is_left_of_the_images():
    """Of 20 with 3 picked out: all 20, then 19 with 2 and 18 with 1, taken as chance."""
    tails = [1 - 0.99**20 - 20 * 0.01 * 0.99**19 - 190 * 1e-4 * 0.99**18]
    tails += [1 - 0.99**19 - 19 * 0.01 * 0.99**18, 1 - 0.99**18]
    found = found_of(3, 20)
    assert found.p_values == pytest.approx(tails, abs=1e-12)
    assert (found.picked, found.n, found.expected) == (3, 20, pytest.approx(0.2))
    assert found.at_least() == 2
    assert found.p_value_of_each == pytest.approx(1 - 0.99**18)


def test_among_a_thousand_all_three_of_twenty_are_shown():
    """1 - 0.999^18 = 0.0178 is below 0.05; five looks at it are not."""
    found = found_of(3, 20, chance=0.001)
    assert (found.at_least(), found.at_least(looks=5)) == (3, 2)


def test_nobody_picked_out_nobody_recognizable():
    found = found_of(0, 10)
    assert (found.at_least(), found.p_values, found.p_value_of_each) == (0, (), 1.0)


def test_one_person_first_of_twenty_is_chance_and_everybody_is_not():
    assert found_of(1, 20).at_least() == 0
    assert found_of(20, 20).at_least() == 20


def test_several_looks_are_corrected_for():
    """1 - 0.99^4 = 0.039 shows the seventh, and not twice; 1 - 0.99^5 - 5 0.01 0.99^4 = 0.00098 the sixth."""
    found = found_of(7, 10)
    assert [found.at_least(looks) for looks in (1, 2, 51, 52)] == [7, 6, 6, 5]


def test_images_with_few_decoys_count_less():
    """The hardest set to tell from chance keeps the image whose chance is a half: 1 - 0.5 0.99^4 > 0.05."""
    chance = np.array([0.5, 0.01, 0.01, 0.01, 0.01, 0.01])
    picked = np.array([True, True, False, False, False, False])
    found = recognizable(picked, chance)
    both = 1 - 0.5 * 0.99**5 - 0.5 * 0.99**5 - 0.5 * 5 * 0.01 * 0.99**4
    assert found.p_values == pytest.approx([both, 1 - 0.5 * 0.99**4])
    assert found.at_least() == 1


def test_of_batches_the_clients_are_the_trials_and_the_images_are_counted():
    """Six clients of four, one with three picked out: 1 - 0.96^6 for the clients; two have 0.0216."""
    assert found_of(3, 24, batch=4).p_values == pytest.approx([1 - 0.96**6] * 3)
    two = found_of(7, 24, batch=4)
    assert two.p_values[0] == pytest.approx(1 - 0.96**6 - 6 * 0.04 * 0.96**5)
    # Without the client of three, whose fourth image may still be there by chance: 5 clients and 0.01.
    assert two.p_values[3] == pytest.approx(1 - 0.96**5 * 0.99)
    assert two.at_least() == 3


@pytest.mark.parametrize("looks", [1, 12])
@pytest.mark.parametrize("n", [6, 10, 20, 50])
def test_where_nothing_leaks_someone_is_named_in_five_percent_of_audits_at_most(n, looks):
    """2,000 audits of uniform ranks; an audit errs if any of its attacks says "at least 1"."""
    random = np.random.default_rng(n)
    picked = (random.integers(1, 101, (2000, looks, n)) == 1).sum(axis=2)
    least = np.array([found_of(k, n).at_least(looks) for k in range(int(picked.max()) + 1)])
    assert (least[picked].max(axis=1) > 0).mean() <= 0.05


def test_the_rates_that_the_documents_state():
    """docs/people.md: how often "at least 1" is said where nothing leaks, in percent."""
    rates = []
    for looks in (1, 12):
        for n in (6, 10, 20, 50):
            needed = next(k for k in range(n + 1) if found_of(k, n).at_least(looks))
            rates.append(100 * (1 - scipy.stats.binom.cdf(needed - 1, n, CHANCE) ** looks))
    assert np.round(rates, 1).tolist() == [0.1, 0.4, 1.7, 1.4, 1.7, 0.1, 1.2, 1.9]


@pytest.mark.parametrize("true", [1, 3, 6])
def test_no_more_are_named_than_there_are_but_in_five_percent_of_audits(true):
    """Exactly: `true` are always picked out, of the other 20 - `true` a binomial number."""
    for n in (8, 20, 60):
        by_chance = scipy.stats.binom.pmf(np.arange(n - true + 1), n - true, CHANCE)
        wrong = [found_of(true + k, n).at_least() > true for k in range(n - true + 1)]
        assert by_chance[wrong].sum() <= 0.05


@pytest.mark.parametrize("together", [True, False])
def test_what_images_of_a_client_have_in_common_does_not_matter(together):
    """All four of a client are first at once, or never two of them: 2,000 audits of eight clients."""
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(2000):
        ranks = random.integers(1, 101, 8)
        first = (
            np.repeat(ranks == 1, 4) if together else (ranks[:, None] == np.arange(1, 5)[None]).reshape(-1)
        )
        wrong += recognizable(first, np.full(32, CHANCE), 4).at_least() > 0
    assert wrong <= 0.05 * 2000


def test_the_order_of_clients_does_not_matter():
    random = np.random.default_rng(0)
    picked, chance = random.random((6, 4)) < 0.3, random.uniform(0.01, 0.2, (6, 4))
    first = recognizable(picked.reshape(-1), chance.reshape(-1), 4)
    order = random.permutation(6)
    assert recognizable(picked[order].reshape(-1), chance[order].reshape(-1), 4) == first


@pytest.mark.parametrize(
    ("picked", "chance", "batch"),
    [
        (np.zeros(0, bool), np.zeros(0), 1),
        (np.zeros(3, bool), np.full(3, 0.1), 2),
        (np.zeros(2, bool), np.array([0.1, 0.0]), 1),
    ],
)
def test_what_is_no_chance_of_an_image_is_refused(picked, chance, batch):
    with pytest.raises(InputError, match="expected"):
        recognizable(picked, chance, batch)


def test_what_a_control_ranks_first_too_is_not_picked_out():
    def ranked(*ranks):
        return Scores({}, np.array(ranks), np.full(len(ranks), 99))

    picked = picked_out(ranked(1, 1, 2, 1), {"sibling": ranked(5, 1, 1, 9), "noise": ranked(9, 9, 9, 1)})
    assert picked.tolist() == [True, False, False, False]


def test_private_images_that_are_near_to_everything_are_not_recognized():
    """Blurred ones among sharp decoys rank first whatever is drawn: their domain is not the decoys'."""
    random = torch.Generator().manual_seed(0)
    private = 0.5 + 0.02 * torch.rand((10, 1, 12, 12), generator=random)
    decoys = torch.rand((99, 1, 12, 12), generator=random)

    def ranked():
        drawn = 0.4 + 0.2 * torch.rand(private.shape, generator=random)
        ranks = [rank(made[None], image, decoys) for made, image in zip(drawn, private, strict=True)]
        return Scores({}, np.array(ranks), np.full(10, 99))

    attack, control = ranked(), ranked()
    assert attack.ranks.tolist() == [1] * 10
    assert recognizable(picked_out(attack, {"sibling": control}), 1 / (attack.decoys + 1)).at_least() == 0


# Own leak scores


def test_own_scores_weighted_by_what_there_is_to_find_have_the_ratio_of_sums_as_their_mean():
    random = np.random.default_rng(0)
    ceiling = random.uniform(0.01, 0.02, 9)
    control, attack = ceiling + random.uniform(0.01, 0.1, 9), random.uniform(0.01, 0.1, 9)
    own = own_scores(attack, control, ceiling)
    whole = leak_score(attack, ceiling, {"control": control}).interval.mean
    assert np.average(own, weights=control - ceiling) == pytest.approx(whole)


def test_without_room_between_control_and_ceiling_there_is_no_score():
    found = own_scores(np.array([0.1, 0.1, 0.0]), np.array([0.2, 0.2, 0.2]), np.array([0.2, 0.3, 0.1]))
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(2.0)


def test_images_without_a_score_widen_the_interval_to_both_sides():
    """Mid-p: the lower bound of 1 of 4, and the upper one of 2 of 4."""
    found = share_above(np.array([0.9, 0.1, 0.5, np.nan]), 0.5)

    def more(k, p):
        return scipy.stats.binom.sf(k, 4, p) + scipy.stats.binom.pmf(k, 4, p) / 2

    assert (found.mean, found.n) == (0.25, 4)
    assert (more(1, found.low), more(2, found.high)) == (pytest.approx(0.025), pytest.approx(0.975))


def test_shares_of_batches_have_the_intervals_of_clients():
    found = share_above(np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), 0.5, batch=2)
    assert (found.mean, found.n) == (pytest.approx(0.5), 3)


# The risk of the next image


def test_the_risk_is_clopper_and_pearsons_upper_bound():
    """Of none of n it is 1 - 0.05^(1/n); of 3 of 20 the p with P(at most 3 of 20) = 0.05."""
    assert risk_at_most(np.zeros(20, bool)) == pytest.approx(1 - 0.05 ** (1 / 20))
    bound = risk_at_most(np.arange(20) < 3)
    assert scipy.stats.binom.cdf(3, 20, bound) == pytest.approx(0.05)
    assert risk_at_most(np.ones(4, bool)) == 1.0


def test_the_risk_of_batches_takes_their_shares_rounded_up_at_half_the_level():
    hit = np.array([1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0], bool)
    bound = risk_at_most(hit, batch=4)
    assert scipy.stats.binom.cdf(1, 3, bound) == pytest.approx(0.025)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_risk_is_covered(batch):
    """1,500 audits of ten clients whose images are hit together, or each by itself, at a risk of 0.3."""
    random = np.random.default_rng(1)
    for alike in (0.0, 1.0):
        common = random.random((1500, 10, 1)) < 0.3
        alone = random.random((1500, 10, batch)) < 0.3
        hits = np.where(random.random((1500, 10, 1)) < alike, common, alone).reshape(1500, -1)
        assert np.mean([risk_at_most(hit, batch) >= 0.3 for hit in hits]) >= 0.95


def test_the_worst_of_n_is_a_tolerance_bound():
    """P(all n lie below the quantile 1 - q) = (1 - q)^n = 0.05."""
    assert (1 - harder_at_most(20)) ** 20 == pytest.approx(0.05)


def test_the_worst_image_is_picked_out_then_of_the_highest_score_then_nearest():
    picked = np.array([False, True, True, True, True])
    scores = np.array([9.0, np.nan, 3.0, 1.0, 0.9])
    psnr = np.array([40.0, 39.0, 20.0, 21.0, 38.0])
    assert worst_image(picked, scores, psnr) == 3
    assert worst_image(~picked, scores, psnr) == 0
