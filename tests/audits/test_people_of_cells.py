"""What a report says of each person: in `result.json`, on the first screen, on the page."""

import dataclasses
import json
import re

import numpy as np
import pytest
from test_page import Page, cell, html, report, rows, scores

from ggl.audits.findings import _without_scores
from ggl.audits.page import render
from ggl.audits.people import people_of, worst_people
from ggl.base.errors import InputError
from ggl.measures.leakage import Scores

N = 20


def found(firsts, n=N, defense="none", attacker="adaptive", mse=0.02, batch=1):
    """A cell whose private images rank first so often, and tenth with every control."""
    made = cell(defense, mse, attacker=attacker, n=n)

    def ranked(known, ranks):
        return dataclasses.replace(known, ranks=ranks, batch=batch)

    first = np.where(np.arange(n) < firsts, 1, 10)
    return dataclasses.replace(
        made,
        attack=ranked(made.attack, first),
        controls={name: ranked(known, np.full(n, 10)) for name, known in made.controls.items()},
        results={kind: searches[: n // batch] for kind, searches in made.results.items()},
    )


def people(*cells):
    """Return what is said of every defense at its worst."""
    return [entry["people"] for entry in report(*cells).to_dict()["worst_case"]]


def test_the_worst_case_says_how_many_people_are_recognizable():
    most, none = people(found(4), found(1, defense="noise:1", mse=0.12))
    assert most["said"] == "at least 3 of 20 people are recognizable"
    assert (
        most["rests_on"] == "4 rank first among 100 images of the class, and to no control; chance gives 0.2"
    )
    assert (most["at_least"], most["of"], most["picked_out"], most["among"]) == (3, 20, 4, [100, 100])
    assert none["said"] == "no person is shown to be recognizable"
    assert none["rests_on"].startswith("1 ranks first among 100 images")


def test_of_several_attacks_the_one_that_recognizes_most_is_held_to_their_number():
    """Four of 20 show three to one look; two looks leave three (0.0138 twice), four leave two."""
    one = people(found(4))[0]
    two = people(found(0, attacker="naive"), found(4, mse=0.12))[0]
    four = people(*(found(k, attacker=name) for k, name in [(0, "a"), (4, "b"), (3, "c"), (0, "d")]))[0]
    assert [(p["at_least"], p["looks"]) for p in (one, two, four)] == [(3, 1), (3, 2), (2, 4)]
    assert (two["attacker"], four["attacker"]) == ("adaptive", "b")


def test_what_controls_rank_first_too_is_said_and_not_counted():
    made = found(5)
    ranks = np.where(np.arange(N) < 3, 1, 10)
    sibling = dataclasses.replace(made.controls["sibling"], ranks=ranks)
    (said,) = people(dataclasses.replace(made, controls={**made.controls, "sibling": sibling}))
    assert said["rests_on"].startswith("5 rank first among 100 images of the class, 2 of them to no control;")
    assert (said["rank_first"], said["picked_out"], said["at_least"]) == (5, 2, 1)


def test_one_person_is_one():
    assert people(found(2))[0]["said"] == "at least 1 of 20 people is recognizable"


def test_images_of_batches_are_no_people():
    made = report(found(4, batch=4))
    made = dataclasses.replace(made, ceiling=dataclasses.replace(made.ceiling, batch=4))
    said = made.to_dict()["worst_case"][0]["people"]
    assert said["said"] == "no image is shown to be recognizable"
    assert said["unit"] == "images"


def test_figures_of_a_cell_by_hand():
    """Control 0.09, ceiling 0.01, both times what the attack's error is: a leak score of 0.875 each."""
    (result,) = report(found(4)).to_dict()["results"]
    got = result["people"]
    assert got["leak_scores"] == pytest.approx([0.875] * N)
    assert (got["undefined"], [entry["leak_score"] for entry in got["above"]]) == (0, [0.25, 0.5])
    assert got["above"][1]["share"]["mean"] == 1.0
    assert got["above"][1]["controls"]["sibling"]["mean"] == 0.0
    assert set(got["above"][1]["controls"]) == {"sibling", "noise"}
    assert got["risk_at_most"]["leak_score_above_0.5"] == 1.0
    assert got["risk_at_most"]["identified"] == pytest.approx(0.401, abs=5e-4)
    worst = got["worst_image"]
    assert worst["label"] == worst["image"] < 4
    assert (worst["rank"], worst["picked_out"]) == (1, True)
    assert worst["p_value"] == pytest.approx(1 - 0.99**17)
    assert worst["harder_at_most"] == pytest.approx(0.139, abs=5e-4)


def test_where_the_sibling_is_the_reference_the_noise_control_shows_what_chance_is():
    made = found(0)
    controls = {**made.controls, "sibling": scores(0.05, N)}
    (result,) = report(dataclasses.replace(made, controls=controls)).to_dict()["results"]
    assert result["leak_score"]["control"] == "sibling"
    assert set(result["people"]["above"][0]["controls"]) == {"noise"}


def test_images_without_a_score_are_counted_and_written_as_none():
    made = report(found(0))
    ceiling = made.ceiling.values["mse"].copy()
    ceiling[:3] = 0.5
    made = dataclasses.replace(
        made, ceiling=dataclasses.replace(made.ceiling, values={**made.ceiling.values, "mse": ceiling})
    )
    result = made.to_dict()
    got = result["results"][0]["people"]
    assert got["leak_scores"][:3] == [None] * 3
    assert got["undefined"] == 3
    assert got["above"][0]["share"]["mean"] == pytest.approx(17 / 20)
    assert got["above"][0]["share"]["high"] == 1.0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_order_of_images_does_not_matter():
    random = np.random.default_rng(0)

    def drawn(n=24):
        values = {"mse": random.uniform(0.01, 0.1, n), "psnr": random.uniform(10, 30, n)}
        return Scores(values, random.integers(1, 101, n), np.full(n, 99))

    every = {name: drawn() for name in ("attack", "sibling", "noise", "class mean", "ceiling")}
    labels = random.integers(0, 4, 24)

    def seen(order):
        def moved(known):
            values = {name: values[order] for name, values in known.values.items()}
            return Scores(values, known.ranks[order], known.decoys[order])

        controls = {name: moved(every[name]) for name in ("sibling", "noise", "class mean")}
        attack, ceiling = moved(every["attack"]), moved(every["ceiling"])
        return people_of(attack, controls, "class mean", ceiling, labels[order].tolist())

    order = random.permutation(24)
    plain, mixed = seen(np.arange(24)), seen(order)
    assert order[mixed["worst_image"].pop("image")] == plain["worst_image"].pop("image")
    assert mixed.pop("leak_scores") == [plain["leak_scores"][i] for i in order]
    del plain["leak_scores"]
    leaks = [[entry.pop("leak_score") for entry in got["classes"]] for got in (plain, mixed)]
    assert leaks[0] == pytest.approx(leaks[1])
    assert plain == mixed


def test_classes_that_are_hit_harder_are_named_and_single_images_say_so():
    made = found(0, n=13)
    ranks = np.array([1, 1, 1, 1, *np.linspace(30, 90, 9).astype(int)])
    labels = [7] * 4 + [1] * 4 + [2] * 4 + [3]
    got = people_of(
        dataclasses.replace(made.attack, ranks=ranks), made.controls, "class mean", scores(0.01, 13), labels
    )
    assert [(entry["label"], entry["images"], entry["too_few"]) for entry in got["classes"]] == [
        (1, 4, False),
        (2, 4, False),
        (3, 1, True),
        (7, 4, False),
    ]
    assert [entry["label"] for entry in got["classes"] if entry["hit_harder"]] == [7]
    assert got["classes"][2]["p_value"] is None
    assert got["classes"][3]["identified"] == 4


def test_groups_are_compared_like_classes():
    made = report(found(4)).with_groups(["a"] * 4 + ["b"] * 15 + ["c"])
    got = made.to_dict()["results"][0]["people"]
    assert [(e["group"], e["images"], e["identified"], e["hit_harder"]) for e in got["groups"]] == [
        ("a", 4, 4, True),
        ("b", 15, 0, False),
        ("c", 1, 0, False),
    ]
    assert got["groups"][2]["too_few"]
    page = Page(render(made, made.to_dict()))
    assert "Hit harder group" in rows(page, "people")[0]
    assert rows(page, "people")[1].endswith("not tested a p < 0.001")
    assert report(found(4)).to_dict()["results"][0]["people"]["groups"] is None
    with pytest.raises(InputError, match="expected a group for each of 20 images, found 2 groups"):
        report(found(4)).with_groups(["a", "b"])


def test_nothing_is_said_of_people_whose_scores_are_withheld():
    assert worst_people([{"people": None}]) is None


# The page


def test_the_page_says_it_before_anything_else():
    content = html(found(4), found(0, defense="noise:1", mse=0.12), found(1, defense="sign", mse=0.12))
    page = Page(content)
    assert page.text("recognized") == (
        "At least 3 of 20 people are recognizable under none; no person is shown to be recognizable under "
        "noise:1 and sign. Image by image."
    )
    assert content.index('id="recognized"') < content.index("Measured:")


def test_the_page_has_a_row_a_cell_and_marks_the_worst_image():
    page = Page(html(found(4, attacker="naive"), found(0)))
    head, first, second, *_ = rows(page, "people")
    assert head.startswith("Cell Defense Attacker strategy Recognizable at least, at 95 %")
    assert first.startswith("00 none naive cma-es 3 of 20 4 picked out, chance 0.2 1.00 [0.86, 1.00] sibling")
    assert re.search(r"([0-3]), class \1 0\.8[78], 17\.[34] dB, rank 1 not tested", first)
    assert second.startswith("01 none adaptive cma-es 0 of 20 0 picked out")
    assert "corrected for 2 attacks" in page.text("people")
    assert rows(page, "cell00")[0].count("worst") == 1
    assert "one image, not tested" in page.text("people")


def test_a_worst_image_beyond_the_first_ones_is_shown_beside_them():
    made = found(0, n=22)
    ranks = np.where(np.arange(22) == 21, 1, 10)
    page = Page(html(dataclasses.replace(made, attack=dataclasses.replace(made.attack, ranks=ranks))))
    head = rows(page, "cell00")[0]
    assert head.endswith("21 class 21rank 1 of 100worst")
    assert "20 class 20" not in head
    assert len(page.all("img")) == 5 * 21


def test_a_withheld_page_says_so_instead():
    made = report(found(4))
    result = made.to_dict()
    result["results"] = [_without_scores(entry) for entry in result["results"]]
    result["worst_case"][0] |= {"people": None, "verdict": "withheld"}
    page = Page(render(made, result))
    assert "recognized" not in page.texts
    assert page.text("people").endswith("Withheld: the private images do not make the captured update.")
    assert "worst" not in rows(page, "cell00")[0]
