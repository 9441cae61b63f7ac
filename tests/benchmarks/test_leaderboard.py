"""The leaderboard: strengths chosen by validation images alone, defenses sorted by what leaks at worst."""

from dataclasses import replace

import pytest
from made_records import made_record

from ggl.base.errors import CheckpointError, InputError
from ggl.benchmarks.leaderboard.board import NONE, choose, load_board, parse_board, spec_of
from ggl.benchmarks.leaderboard.front import BEGIN, END, check_front, write_front
from ggl.benchmarks.leaderboard.page import page_of, standings, table_rows
from ggl.benchmarks.leaderboard.run import BoardRun, make_leaderboard
from ggl.benchmarks.report.rows import rows_of
from ggl.benchmarks.reproduce.measurements.base import Row
from ggl.defenses import load_defense

BOARD = """
name = "b"
about = "a"
within = 0.02
floor = 0.6
images = 8
strategies = ["cma-es", "random"]
prior = "fashion-dcgan32"
data = "fashion-mnist-heldout"
budget = 20
ceiling_budget = 20
[training]
victim = "lenet"
data = "{files}/data.npz"
learning_rate = [0.02]
rounds = 5
[[files]]
path = "data.npz"
source = "somewhere"
[[families]]
name = "noise"
strengths = ["noise:0.1", "noise:1"]
attackers = ["adaptive"]
[[families]]
name = "pruning"
strengths = ["prune:0.9"]
attackers = ["naive", "adaptive"]
[[families]]
name = "signs"
strengths = ["sign"]
attackers = ["naive"]
[[untrained]]
name = "Soteria"
why = "it takes long"
"""

ACCURACY = {"none": 0.8, "noise:0.1": 0.79, "noise:1": 0.5, "prune:0.9": 0.81, "sign": 0.3}


def board():
    return parse_board(BOARD, "b.toml")


def trainings(validation=ACCURACY, accuracy=ACCURACY):
    return [
        Row(
            {"defense": name, "at": "end"},
            seed,
            {
                "accuracy": accuracy[name] + 0.001 * seed,
                "validation": validation[name] + 0.001 * seed,
                "client_bytes": 1000.0,
            },
            {"client_seconds": 2.0 if name == "prune:0.9" else 1.0},
        )
        for name in accuracy
        for seed in range(3)
    ]


def records(spec, errors):
    """Return a record a cell, its error by defense, attacker and strategy."""
    return [made_record(cell, errors(cell.defense, cell.attacker, cell.strategy)) for cell in spec.cells()]


def test_the_strongest_strength_that_keeps_accuracy_is_chosen():
    assert choose(board(), trainings()) == {"noise": "noise:0.1", "pruning": "prune:0.9"}
    assert choose(board(), trainings(validation={**ACCURACY, "noise:1": 0.781}))["noise"] == "noise:1"
    assert "noise" not in choose(board(), trainings(validation={**ACCURACY, "noise:0.1": 0.7}))


def test_what_did_not_train_chooses_nothing():
    lower = {name: value - 0.25 for name, value in ACCURACY.items()}
    with pytest.raises(InputError, match=r"at least 0\.6 without a defense, found 0\.551: it did not"):
        choose(board(), trainings(validation=lower))
    assert choose(board().shortened(None, None, 2), trainings(validation=lower))


def test_test_images_choose_nothing():
    assert choose(board(), trainings(accuracy={**ACCURACY, "noise:1": 0.9})) == choose(board(), trainings())


def test_every_defense_meets_its_attackers_by_every_strategy():
    spec = spec_of(board(), choose(board(), trainings()))
    met = {(cell.defense, cell.attacker, cell.strategy) for cell in spec.cells()}
    pairs = [
        ("none", "adaptive"),
        ("noise:0.1", "adaptive"),
        ("prune:0.9", "naive"),
        ("prune:0.9", "adaptive"),
    ]
    assert met == {(*pair, strategy) for pair in pairs for strategy in ("cma-es", "random")}
    assert {cell.images for cell in spec.cells()} == {8}


def test_rows_are_sorted_by_the_worst_case():
    chosen = choose(board(), trainings())
    errors = {("prune:0.9", "adaptive", "random"): 0.012, ("none", "adaptive", "cma-es"): 0.011}
    made = records(spec_of(board(), chosen), lambda *key: errors.get(key, 0.03))
    found = standings(chosen, rows_of(made, None), trainings())
    assert [standing.family for standing in found] == ["noise", "pruning", NONE]
    worst = found[1].worst
    assert (worst.group.cell.attacker, worst.strategy) == ("adaptive", "random")
    assert found[1].slowdown == 2.0
    assert found[1].kept.mean == pytest.approx(0.01)
    assert found[2].kept.mean == 0
    assert table_rows(found)[1][0] == "pruning: `prune:0.9`"
    assert table_rows(found)[2][0] == "no defense"


def test_the_page_says_what_is_not_on_it():
    chosen = choose(board(), trainings())
    made = records(spec_of(board(), chosen), lambda *_: 0.02)
    page = page_of(board(), chosen, made, trainings(), commits=["abc"], shortened=False)
    assert "- signs: none keeps the accuracy; `sign` 0.301 [" in page
    assert "- Soteria: not trained: it takes long" in page
    assert "8 images of `fashion-mnist-heldout`" in page
    assert "3 seeds" in page
    assert "Shortened" not in page
    again = page_of(board(), chosen, made[::-1], trainings(), commits=["abc"], shortened=True)
    assert again.count("Shortened") == 1


def test_the_first_rows_go_into_a_page(tmp_path):
    chosen = choose(board(), trainings())
    made = records(spec_of(board(), chosen), lambda *_: 0.02)
    found = standings(chosen, rows_of(made, None), trainings())
    page = tmp_path / "README.md"
    page.write_text(f"# A\n{BEGIN}\nold\n{END}\nafter\n")
    write_front(page, found)
    text = page.read_text()
    assert text.startswith(f"# A\n{BEGIN}\n\n| defense | worst-case leak score | verdict | accuracy kept |")
    assert text.endswith(f"\n\n{END}\nafter\n")
    assert "old" not in text
    assert text.count("\n| ") == 2 + len(chosen) + 1
    assert text.splitlines()[-4].startswith("| no defense |")
    write_front(page, found)
    assert page.read_text() == text


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{END}{BEGIN}"])
def test_a_page_without_a_place_for_rows_is_refused(tmp_path, text):
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(InputError, match="expected a page with the lines"):
        check_front(page)


def test_the_board_of_this_version():
    """Twenty images and three seeds a row, every defense and attacker known, strengths that grow."""
    known = load_board()
    assert known.images >= 20
    assert known.trainings().seeds >= 3
    for family in known.families:
        for strength in family.strengths:
            attackers = load_defense(strength).attackers
            assert set(family.attackers) <= set(attackers), strength
    chosen = {family.name: family.strengths[-1] for family in known.families}
    spec = spec_of(known, chosen)
    assert (
        len({(c.defense, c.attacker, c.strategy) for c in spec.cells()}) == len(spec.cells()) / known.images
    )
    assert known.shortened(2, 10, 3).trainings().seeds == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("within = 0.02", "within = 2.0", "b.toml: within: input should be less than 1"),
        ('victim = "lenet"\n', "", "b.toml: victim: field required"),
        ("rounds = 5", "round = 5", "b.toml: rounds: field required"),
        ('name = "b"', "name = ", "b.toml: expected TOML: "),
    ],
)
def test_boards_that_are_none(old, new, message):
    with pytest.raises(InputError) as error:
        parse_board(BOARD.replace(old, new, 1), "b.toml")
    assert str(error.value).startswith(message)


def test_what_is_refused(tmp_path):
    (tmp_path / "fashion-mnist.npz").touch()
    for change, kind, message in (
        (
            {"files": tmp_path / "no"},
            InputError,
            "fashion-mnist.npz: expected it there, found nothing; get it",
        ),
        ({"resume": True}, CheckpointError, "holds no leaderboard to resume; leave --resume out"),
        ({"images": 1, "page": tmp_path / "page.md"}, InputError, "a shortened run claims nothing"),
    ):
        asked = replace(BoardRun(tmp_path, tmp_path / "out"), **change)
        with pytest.raises(kind, match=message):
            make_leaderboard(asked, print)
    assert not (tmp_path / "out").exists()
