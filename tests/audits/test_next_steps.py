"""What a result says would settle it: at most two lines, of its own figures, none where none would."""

import copy

import numpy as np
import pytest

from ggl.audits.next_steps import MOST_STEPS, enough_clients, next_steps
from ggl.audits.verdicts import FEWEST_IMAGES
from ggl.measures.statistics import bootstrap_mean, paired_test


def entry(defense="none", verdict="leaks", mean=0.8, low=0.5, n=20):
    high = None if low is None else 2 * mean - low
    figures = {"mean": mean, "low": low, "high": high, "n": n}
    return {"defense": defense, "corrected": {**figures, "leaks": verdict == "leaks", "verdict": verdict}}


def result(
    *worst, strategies=("auto", "adam"), attackers=("all",), alike=(), ladder=None, truth=None, **settings
):
    told = {"images": 20, "batch_size": 1, "captured": False, **settings}
    told |= {"attackers": list(attackers), "strategies": list(strategies)}
    cells = [
        {
            "defense": one["defense"],
            "attacker": attacker,
            "attackers_alike": list(alike),
            "strategy": "gauss-newton" if name == "auto" else name,
        }
        for one in worst
        for attacker in attackers
        for name in strategies
    ]
    return {"settings": told, "truth": truth, "ladder": ladder, "worst_case": worst, "results": cells}


LADDER = "how little an attacker has to know for the leak under none: --ladder, in place of"
HELD = entry("prune:0.9", "no leak shown", -0.5, -0.9)


def test_a_leak_under_a_ladder_of_a_defense_that_was_tried_has_no_next_step():
    assert next_steps(result(entry("prune:0.9"), ladder={"rungs": []})) == []


def test_a_defense_that_holds_against_all_has_no_next_step():
    assert next_steps(result(HELD)) == []


def test_withheld_scores_have_no_next_step():
    withheld = result(entry(verdict="withheld", mean=None, low=None), truth={"scores_withheld": True})
    assert next_steps(withheld) == []


def test_a_leak_without_a_defense_asks_for_a_ladder_and_a_defense():
    first, second = next_steps(result(entry()))
    assert first.startswith(LADDER)
    assert second == "what a defense changes: --defense none --defense noise:0.1 --defense prune:0.99"
    (only,) = next_steps(result(entry(), captured=True))
    assert only == first


def test_weaker_attackers_ask_for_all_of_them_and_for_derivatives():
    (said,) = next_steps(result(HELD, attackers=("naive", "adaptive"), strategies=("auto",)))
    assert said == (
        "before calling it safe, try the attacks by all who know prune:0.9 and by derivatives of victim and "
        "prior too: --attacker all --strategy auto --strategy adam"
    )
    (said,) = next_steps(result(HELD, attackers=("naive",)))
    assert said.endswith("too: --attacker all")
    (said,) = next_steps(result(HELD, strategies=("cma-es",)))
    assert said.endswith("too: --strategy cma-es --strategy adam")


def test_attackers_that_are_all_that_a_defense_knows_are_not_asked_for():
    noise = entry("noise:3", "no leak shown", -0.5, -0.9)
    assert next_steps(result(noise, attackers=("naive", "adaptive", "informed"))) == []
    assert len(next_steps(result(noise, attackers=("naive", "adaptive")))) == 1
    assert next_steps(result(noise, attackers=("naive",), alike=("adaptive", "informed"))) == []
    assert next_steps(result(entry("none", "no leak shown", -0.5, -0.9), attackers=("naive",))) == []


def test_a_defense_that_nothing_is_registered_under_is_met_by_the_usual_attackers():
    mine = entry("my own", "no leak shown", -0.5, -0.9)
    assert next_steps(result(mine, attackers=("naive", "adaptive", "informed"))) == []
    assert len(next_steps(result(mine, attackers=("naive",)))) == 1


def test_few_images_ask_for_more_and_say_why():
    (said,) = next_steps(result(entry("prune:0.9", "undecided", 0.5, None, n=2), images=2))
    assert said == (
        "about 10 images would settle prune:0.9 (fewer than 6 can show no leak, and few leave wide "
        "intervals): --images 10"
    )


def test_a_wide_interval_asks_for_as_many_images_as_would_narrow_it():
    wide = entry("prune:0.9", "identifies", 0.5, -0.2, n=10)
    (said,) = next_steps(result(wide, images=10))
    assert said == (
        "about 18 images would settle prune:0.9 (if the leak score and its spread stay as they are): "
        "--images 18"
    )
    (said,) = next_steps(result(wide, images=40, batch_size=4))
    assert said.startswith("about 72 images in 18 batches would settle prune:0.9")
    assert next_steps(result(wide, captured=True)) == []


def test_the_defense_that_needs_most_images_says_how_many():
    near, far = entry("a", "identifies", 0.5, -0.2, n=10), entry("b", "identifies", 0.5, -0.5, n=10)
    steps = next_steps(result(near, far, entry("c"), images=10, ladder={}))
    assert steps[0].startswith(f"about {enough_clients(far['corrected'])} images would settle a and b ")


def test_an_interval_that_does_not_exist_is_the_priors():
    (said,) = next_steps(result(entry("prune:0.9", "undecided", None, None)))
    assert said.startswith("the prior says hardly more of these images than their class does")


def test_there_are_two_lines_at_most():
    few = entry("a", "undecided", 0.5, None, n=2)
    steps = next_steps(result(few, HELD, entry(), attackers=("naive",), strategies=("auto",)))
    assert len(steps) == MOST_STEPS == 2


def test_a_result_of_before_the_asked_attackers_were_kept_has_a_step_all_the_same():
    old = result(entry(), HELD)
    old["settings"] = {"images": 20}
    assert next_steps(old) == [LADDER + " --attacker and --strategy"]


def test_a_result_is_not_changed():
    given = result(entry("prune:0.9", "identifies", 0.5, -0.2, n=10), HELD)
    before = copy.deepcopy(given)
    next_steps(given)
    assert given == before


@pytest.mark.parametrize("seed", range(4))
def test_so_many_images_of_the_same_mean_and_spread_would_decide_and_half_would_not(seed):
    random = np.random.default_rng(seed)
    drawn = random.normal(size=10)
    drawn = 0.4 + (drawn - drawn.mean()) / drawn.std(ddof=1)
    found = bootstrap_mean(drawn)
    assert found.low < 0
    enough = enough_clients(found.to_dict())

    def low(n):
        values = np.resize(drawn, n)
        return bootstrap_mean(0.4 + (values - values.mean()) / values.std(ddof=1)).low

    assert low(round(1.15 * enough)) > 0
    assert low(enough // 2) < 0


def test_the_fewest_images_are_those_of_the_exact_test():
    leaking = np.ones(FEWEST_IMAGES)
    assert paired_test(leaking, 0 * leaking) < 0.05 < paired_test(leaking[1:], 0 * leaking[1:])
    assert enough_clients({"mean": 0.9, "low": -0.01, "n": 3}) == FEWEST_IMAGES


@pytest.mark.parametrize(
    "interval",
    [
        {"mean": -0.1, "low": -0.5, "n": 10},
        {"mean": None, "low": None, "n": 10},
        {"mean": 0.5, "low": None, "n": 1},
        {"mean": 0.01, "low": -2.0, "n": 10},
    ],
)
def test_what_no_affordable_number_would_decide_has_none(interval):
    assert enough_clients(interval) is None
