"""A report's headline, each defense's worst case, and what it says of the defenses' costs."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from test_page import N, cell, entry, report, utility

from ggl.audits.verdicts import HEADLINES, worst_case
from ggl.base.errors import InputError


def found(defense, verdict, mean, attacker="naive", strategy="cma-es"):
    return {
        "defense": defense,
        "attacker": attacker,
        "strategy": strategy,
        "verdict": verdict,
        "leak_score": {"mean": mean},
        "identification": {"mean": 0.5},
        "psnr": {"mean": 12.0},
        "curve": "left out",
    }


def refusal(source, victim="LeNet"):
    made = report(cell("none", 0.02))
    made = dataclasses.replace(made, settings={**made.settings, "victim": victim})
    with pytest.raises(InputError) as error:
        made.with_utility(source)
    assert "\n" not in str(error.value)
    return str(error.value)


# The worst case


def test_a_leak_comes_before_identification_and_that_before_a_higher_score():
    ordered = [
        found("a", "leaks", 0.5),
        found("a", "leaks", 0.2),
        found("a", "identifies", 0.9),
        found("a", "identifies", None),
        found("a", "no leak shown", 0.8),
        found("a", "undecided", 0.7),
        found("a", "no leak shown", -0.2),
        found("a", "undecided", None),
    ]
    for stronger, weaker in itertools.combinations(ordered, 2):
        for pair in ([stronger, weaker], [weaker, stronger]):
            assert worst_case(pair) == [{key: stronger[key] for key in HEADLINES if key in stronger}]


def test_of_equals_the_first_is_named_and_defenses_keep_their_order():
    cells = [
        found("b", "no leak shown", 0.0),
        found("a", "leaks", 0.3, attacker="naive"),
        found("a", "leaks", 0.3, attacker="adaptive"),
        found("b", "no leak shown", 0.1, strategy="adam"),
    ]
    worst = worst_case(cells)
    assert [(c["defense"], c["attacker"], c["strategy"]) for c in worst] == [
        ("b", "naive", "adam"),
        ("a", "naive", "cma-es"),
    ]
    assert worst_case([]) == []


def test_what_is_corrected_comes_before_what_a_cell_shows_alone():
    """The higher score of two attacks may be the luckier one."""
    lucky = {**found("a", "leaks", 0.5), "corrected": {"verdict": "no leak shown"}}
    sure = {**found("a", "leaks", 0.3), "corrected": {"verdict": "leaks"}}
    assert worst_case([lucky, sure]) == [{key: sure[key] for key in HEADLINES}]
    alone = {**found("a", "no leak shown", 0.6), "corrected": {"verdict": "no leak shown"}}
    assert worst_case([alone, lucky]) == [{key: lucky[key] for key in HEADLINES}]


def test_cells_are_corrected_for_those_of_their_defense_and_for_all():
    """Errors of every cell are one shape, so that the cells' signs flip alike and p stays 2 / 2^6."""
    cells = [cell("none", 0.02), cell("clip:1", 0.03), cell("clip:1", 0.05, attacker="naive")]
    result = report(*cells).to_dict()
    looks = [(c["corrected"]["looks"], c["corrected"]["table"]["looks"]) for c in result["results"]]
    assert looks == [(1, 3), (2, 3), (2, 3)]
    for known in result["results"]:
        corrected = known["corrected"]
        assert (
            corrected["p_value"] == corrected["table"]["p_value"] == known["leak_score"]["p_value"] == 1 / 32
        )
        assert corrected["mean"] == known["leak_score"]["mean"]
        assert corrected["low"] <= known["leak_score"]["low"]
        assert corrected["verdict"] == known["verdict"] == "leaks"
    first = result["results"][0]
    assert {key: first["corrected"][key] for key in first["leak_score"]} == first["leak_score"]
    assert result["worst_case"][1]["corrected"] == result["results"][1]["corrected"]


def test_a_lucky_cell_of_many_is_no_leak_and_says_what_it_was_alone():
    """One cell in which six images gain a little, and eleven in which the same images scatter."""
    random = np.random.default_rng(0)
    cells = [cell("noise:1", 0.06, attacker="adaptive")]
    for k in range(11):
        other = cell("noise:1", 0.09, attacker=f"other{k}")
        mse = other.controls["class mean"].values["mse"] * (1 + 0.1 * random.choice([-1, 1], N))
        scattered = dataclasses.replace(other.attack, values={**other.attack.values, "mse": mse})
        cells.append(dataclasses.replace(other, attack=scattered))
    result = report(*cells).to_dict()
    (worst,) = result["worst_case"]
    assert worst["attacker"] == "adaptive"
    assert worst["verdict"] == "leaks"
    assert worst["corrected"]["looks"] == 12
    assert worst["corrected"]["p_value"] >= worst["leak_score"]["p_value"]
    low, alone = worst["corrected"]["low"], worst["leak_score"]["low"]
    assert low is None or low < alone


def test_a_diagnostic_rung_is_no_worst_case():
    def rung(kind, verdict, mean):
        return {"defense": "sign", "kind": kind, "verdict": verdict, "leak_score": {"mean": mean}}

    cells = [rung("realistic", "no leak shown", 0.1), rung("diagnostic", "leaks", 0.9)]
    (worst,) = worst_case(cells)
    assert worst["leak_score"] == {"mean": 0.1}
    assert worst_case(cells[1:]) == []


def test_the_result_holds_the_worst_case_of_real_cells():
    """By hand: a leak score is (0.09 - mse) / (0.09 - 0.01), the class mean being the strongest control."""
    cells = [
        cell("prune:0.9", 0.05, attacker="adaptive"),
        cell("none", 0.02, attacker="naive"),
        cell("prune:0.9", 0.03, attacker="naive", strategy="adam"),
    ]
    identified = dataclasses.replace(cells[0].attack, ranks=np.ones(N, dtype=int))
    cells[0] = dataclasses.replace(cells[0], attack=identified)
    result = report(*cells).to_dict()
    prune, none = result["worst_case"]
    assert (prune["defense"], prune["attacker"], prune["strategy"]) == ("prune:0.9", "naive", "adam")
    assert prune["leak_score"]["mean"] == pytest.approx(0.75)
    assert {key: prune[key] for key in HEADLINES} == {key: result["results"][2][key] for key in HEADLINES}
    # Of people the attack that picks out most speaks, whatever its leak score; the sibling is first once too.
    assert (prune["people"]["attacker"], prune["people"]["picked_out"]) == ("adaptive", N - 1)
    assert (none["defense"], none["verdict"]) == ("none", "leaks")
    assert none["leak_score"]["mean"] == pytest.approx(0.875)
    assert result["utility"] is None


# Utility


def test_defenses_are_matched_by_their_full_names_with_the_figures_as_they_were_read():
    cells = [cell(name, 0.05) for name in ("none", "noise:0.5", "sign", "my.module:thing")]
    read = utility(entry("none", 0.8), entry("noise:0.50", 0.7), entry("my.module:thing", 0.6), entry("x", 0))
    result = report(*cells).with_utility(read).to_dict()["utility"]
    assert result["settings"] == read["settings"]
    assert result["undefended_accuracy"]["mean"] == 0.8
    assert result["undefended_client_bytes"] == 60_000
    assert [e["defense"] for e in result["results"]] == ["none", "noise:0.5", "my.module:thing"]
    assert result["results"][1] == {
        "defense": "noise:0.5",
        **{key: read["results"][1][key] for key in ("accuracy", "accuracy_kept", "client_bytes")},
    }
    assert result["not_trained"] == ["sign"]


def test_nothing_is_imported_because_a_utility_file_names_it():
    read = utility(
        entry("none", 0.8), entry("os:abort", 0.7), entry("noise", 0.7), entry("noise:1+os:abort", 0)
    )
    result = report(cell("none", 0.02)).with_utility(read).to_dict()["utility"]
    assert [e["defense"] for e in result["results"]] == ["none"]


def test_a_report_keeps_a_copy_and_the_first_report_stays_as_it_was():
    read, made = utility(entry("none", 0.8)), report(cell("none", 0.02))
    beside = made.with_utility(read)
    read["results"].clear()
    assert made.utility is None
    assert beside.to_dict()["utility"]["results"][0]["accuracy"]["mean"] == 0.8


def test_a_saved_result_holds_what_a_file_says(tmp_path):
    path = tmp_path / "utility.json"
    path.write_text(json.dumps(utility(entry("none", 0.8))))
    for source in (path, str(path)):
        report(cell("none", 0.02)).with_utility(source).save(tmp_path / "out", html=False)
        saved = json.loads((tmp_path / "out" / "result.json").read_text())
        assert saved["utility"]["results"][0]["accuracy"] == entry("none", 0.8)["accuracy"]
        assert saved["worst_case"][0]["defense"] == "none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy: 0.8", "expected JSON as `ggl utility` writes it, found none: Expecting value"),
        ('{"settings": {"a": NaN}}', "found none: Out of range float values are not JSON"),
        ('{"settings": {"a": 1e999}}', "found none: Out of range float values are not JSON"),
        ("[]", 'expected "settings" and "results" as `ggl utility` writes them, found list'),
        ("{}", 'expected "settings" and "results" as `ggl utility` writes them, found nothing'),
        ('{"settings": {}, "ceiling": {}}', "as `ggl utility` writes them, found settings, ceiling"),
        ('{"settings": {}, "results": []}', "as `ggl utility` writes them, found settings, results"),
        ('{"settings": {}, "results": [{"name": "a"}]}', 'expected "defense" in every result as'),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, text, message):
    path = tmp_path / "utility.json"
    path.write_text(text)
    said = refusal(path)
    assert said.startswith(f"{path}: expected ")
    assert message in said


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    expected = "expected utility.json of `ggl utility`, but it cannot be read: "
    assert refusal(tmp_path / "none.json") == (
        f"{tmp_path / 'none.json'}: {expected}No such file or directory"
    )
    assert refusal(str(tmp_path)) == f"{tmp_path}: {expected}Is a directory"
    (tmp_path / "utility.json").write_bytes(b"\xff\xfe\x00")
    assert "found none: 'utf-8' codec can't decode" in refusal(tmp_path / "utility.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"accuracy": {"mean": 81.0, "low": None, "high": None}},
            "utility: expected \"accuracy\" of a to be mean, low and high in [-1, 1], found {'mean': 81.0",
        ),
        ({"accuracy": {"mean": None, "low": 0, "high": 0}}, 'expected "accuracy" of a to be mean, low'),
        ({"accuracy_kept": {"mean": 0.1}}, 'expected "accuracy_kept" of a to be mean, low and high'),
        ({"accuracy_kept": True}, "in [-1, 1], found True"),
        ({"undefended_accuracy": None}, 'expected "undefended_accuracy" of a to be mean, low and high'),
        ({"client_bytes": "53 kB"}, 'expected "client_bytes" of a to be at least 0, or null, found 53 kB'),
        (
            {"undefended_client_bytes": -1},
            'expected "undefended_client_bytes" of a to be at least 0, or null',
        ),
        (
            {"client_bytes": {1, 2}},
            "utility: expected JSON as `ggl utility` writes it, found none: Object of",
        ),
    ],
)
def test_figures_that_mean_nothing_are_refused(changes, message):
    assert message in refusal(utility(entry("none", 0.8), {**entry("a", 0.8), **changes}))


def test_trainings_of_another_victim_are_refused():
    read = utility(entry("none", 0.8))
    assert refusal(read, victim="ResNet18") == (
        "utility: expected trainings of the audit's victim 'ResNet18', found 'lenet'; "
        "audit that victim, or run `ggl utility` with the audit's"
    )
    del read["settings"]["victim"]
    assert "found None" in refusal(read)
