"""The reproduction of GGL: its file, what it runs, its page, and what it refuses."""

import hashlib
import math
import random
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from made_records import failed, made_record, made_records

from ggl.base.errors import CheckpointError, InputError, UnknownNameError
from ggl.benchmarks.reproduce.file import SCALES, load_reproduction, parse_reproduction
from ggl.benchmarks.reproduce.groups import groups_of_plan
from ggl.benchmarks.reproduce.judging import verdict_of
from ggl.benchmarks.reproduce.measuring import Measured
from ggl.benchmarks.reproduce.page import page_of
from ggl.benchmarks.reproduce.plan import Overrides, plan_of
from ggl.benchmarks.reproduce.run import ReproductionRun, check_files, judged, reproduce
from ggl.benchmarks.reproduce.worst_cases import worst_cases, worst_counts, worst_table
from ggl.benchmarks.sweeps.store import Store

SMALLEST = """
name = "x"
title = "t"
source = "s"
settings = []
[scales.small]
about = "a"
groups.one = { sweep = "main", strategy = "cma-es" }
groups.two = { sweep = "main", strategy = "random" }
[scales.small.sweeps.main]
images = 6
axes = { prior = ["fashion-dcgan32"], victim = ["lenet"], data = ["fashion-mnist-heldout"], strategy = \
["cma-es", "random"], budget = [20] }
[scales.paper]
about = "b"
sweeps = {}
groups = {}
[[claims]]
id = "c"
place = "Table 1"
statement = "one beats two"
reported = [{ what = "one", mse = 0.1, psnr = 10.0, small = "one" }]
small = { checks = [{ rule = "better", a = "one", b = "two", metric = "mse" }] }
paper = { not_testable = "no reason" }
"""

GROUP_ONE = "x.toml: scales.small.groups.one: expected cells that differ in image and seed alone, found "


def smallest():
    return parse_reproduction(SMALLEST, "x.toml")


def records_of(plan, attack=lambda cell: 0.02):
    cells = dict.fromkeys(cell for spec in plan.specs.values() for cell in spec.cells())
    return [made_record(cell, attack(cell)) for cell in cells]


@pytest.fixture
def made(monkeypatch):
    """Let sweeps end at once with made figures, and count those that ran; nothing else is measured."""
    ran = []

    def run(spec, store, engine, *, device, watch):
        records = [made_record(c, 0.02) for c in spec.cells() if c.id not in store.statuses()]
        ran.extend(records)
        store.write(records)
        watch(records)

    monkeypatch.setitem(sys.modules, "ggl.benchmarks.sweeps.runner", SimpleNamespace(run=run))
    monkeypatch.setattr("ggl.benchmarks.reproduce.run.measure", lambda *_: Measured())
    return ran


def run_ggl(out, scale="small", *, name="ggl", less=(None, None, None), note=None, **options):
    """Reproduce as the command line does."""
    reproduce(ReproductionRun(name, scale, out, less=Overrides(*less), **options), note)


def test_optimizers_are_compared_at_equal_evaluations():
    known = load_reproduction("ggl")
    plan = plan_of(known, "small")
    for claim in known.claims:
        if claim.id in ("losses", "optimizers-celeba", "optimizers-imagenet", "discarded-evaluations"):
            for check in claim.small.checks:
                assert plan.groups[check.a][0].budget == plan.groups[check.b][0].budget


def test_losses_are_compared_without_a_penalty():
    known = load_reproduction("ggl")
    for scale in SCALES:
        groups = plan_of(known, scale).groups
        for check in (check for claim in known.claims for check in claim.at(scale).checks):
            if check.metric == "loss":
                assert groups[check.a][0].latents == groups[check.b][0].latents == "tanh"
                assert groups[check.a][0].distance == groups[check.b][0].distance


def test_reported_figures_agree_with_each_other():
    """The mean PSNR is at least that of the mean error (Jensen); both are printed rounded."""
    for claim in load_reproduction("ggl").claims:
        for row in (row for row in claim.reported if row.mse is not None):
            assert row.psnr > -10 * math.log10(row.mse) - 0.06, row.what


def test_a_shortened_plan_runs_what_is_asked():
    plan = plan_of(load_reproduction("ggl"), "small", overrides=Overrides(budget=60))
    cells = [cell for spec in plan.specs.values() for cell in spec.cells()]
    assert plan.shortened
    assert {cell.budget for cell in cells} == {60}
    assert {cell.images for cell in cells} == {10, 30}
    assert "turbo:population=10,initial=20" in {cell.strategy for cell in cells}
    assert {cell.budget for spec in plan.whole.values() for cell in spec.cells()} == {500, 2000}


def test_files_stand_where_the_sweeps_name_them(tmp_path):
    folder = tmp_path / 'with "quotes" and \\ in it'
    plan = plan_of(load_reproduction("ggl"), "paper", folder)
    cells = [cell for spec in plan.specs.values() for cell in spec.cells()]
    assert {cell.data for cell in cells} == {f"{folder}/imagenet", f"{folder}/celeba"}
    assert f"wgan-gp:{folder}/wgan-gp.safetensors" in {cell.prior for cell in cells}


def test_verdicts_follow_the_figures():
    plan = plan_of(smallest(), "small")
    for ahead, verdict in (("cma-es", "reproduced"), ("random", "not")):
        records = records_of(plan, lambda cell: 0.01 if cell.strategy == ahead else 0.03)  # noqa: B023
        findings = judged(plan, records)
        assert verdict_of(findings["c"]) == verdict
        assert f"Verdict: **{verdict}**." in page_of(plan, records, Measured(), findings)


def test_nothing_is_claimed_of_too_few_images_or_of_what_has_failed():
    plan = plan_of(smallest(), "small")
    records = records_of(plan, lambda cell: 0.01 if cell.strategy == "random" else 0.03)
    cut = [failed(records[0]), *records[1:]]
    assert verdict_of(judged(plan, cut)["c"]) == "undecided"
    page = page_of(plan, cut, Measured(), judged(plan, cut))
    assert "5 images, and fewer than 6 show nothing" in page
    assert "- 1 failed: GradientError: the gradient is zero" in page
    assert "11 of 12 ok, 1 failed" in page
    assert verdict_of(judged(plan, [])["c"]) == "undecided"


def test_a_shortened_run_claims_nothing():
    plan = plan_of(smallest(), "small", overrides=Overrides(images=7))
    records = records_of(plan)
    assert judged(plan, records) == {}
    page = page_of(plan, records, Measured(), judged(plan, records))
    assert "Verdict: **not judged: shortened**." in page
    assert "## Who finds most" not in page
    assert "**Shortened: 7 images, 20 evaluations, 2000 for the ceiling. No verdict is claimed.**" in page


def test_the_page_says_who_finds_most_under_each_defense():
    errors = {"naive": 0.045, "ignore": 0.012, "adaptive": 0.03}
    records = made_records(
        ("none", "ppp:prune=0.9", "noise:3"),
        ("random",),
        attackers=tuple(errors),
        attack=lambda cell: (
            errors[cell.attacker] if cell.defense != "noise:3" else 0.1 - errors[cell.attacker]
        ),
    )
    worst = worst_cases(records)
    found = [(row.defense, row.group.cell.attacker, row.verdict) for row in worst]
    assert found[0] == ("none", "ignore", "leaks")
    assert found[2] == ("ppp:prune=0.9", "ignore", "leaks")
    assert found[1][::2] == ("noise:3", "no leak shown")
    said = (
        "of 2 defended settings, by the strongest attack on each, 1 leak, 1 show no leak; most often that is"
    )
    assert worst_counts(worst).startswith(said)
    assert worst_counts(worst[2:]).endswith(
        "strongest attack on each, 1 leak ([who finds most](#who-finds-most))."
    )
    assert worst_table(worst).count("\n| lenet | ") == 3
    assert worst_counts(worst_cases(records[:24])) == worst_table([]) == ""


def test_the_page_depends_on_the_records_alone():
    plan = plan_of(smallest(), "small")
    records = records_of(plan)
    page = page_of(plan, records, Measured(), judged(plan, records))
    random.Random(0).shuffle(records)
    assert page_of(plan, records, Measured(), judged(plan, records)) == page


def test_the_page_pins_the_claims():
    for text in (SMALLEST, SMALLEST.replace("one beats two", "one beats two, perhaps")):
        plan = plan_of(parse_reproduction(text, "x.toml"), "small")
        digest = hashlib.sha256(text.encode()).hexdigest()
        assert f"SHA-256 {digest[:16]}… of `x.toml`" in page_of(plan, [], Measured(), {"c": []})


def test_the_page_gives_both_conventions_and_the_cost():
    plan = plan_of(smallest(), "small")
    records = records_of(plan)
    page = page_of(plan, records, Measured(), judged(plan, records))
    group = groups_of_plan(plan, records, Measured())["one"]
    errors = [4 * record.figures["attack_mse"] for record in group.records]
    assert f"| one | 0.1000 | 10.00 (16.02) | - | - | one | {sum(errors) / 6:.3g} [" in page
    # 12 cells of 20 evaluations, three searches each; made records take 3 ms an evaluation of one search.
    assert f"| main | 720 | 1e+03 | {720 / 1000 / 3600:.3g} |" in page


@pytest.mark.slow("a page of 630 cells, twice")
def test_reproduce_writes_the_same_page_and_tables_again(tmp_path, made):
    out, page, results = tmp_path / "out", tmp_path / "docs" / "ggl.md", tmp_path / "results"
    notes = []
    run_ggl(out, page=page, results=results, note=notes.append)
    first = page.read_bytes(), (results / "cells.csv").read_bytes()
    assert (out / "ggl-small.md").read_bytes() == first[0]
    assert (out / "cells.csv").read_bytes() == first[1]
    assert (len(made), notes[-1]) == (630, "630 of 630 cells")
    run_ggl(out, page=page, resume=True, results=results)
    assert (page.read_bytes(), (results / "cells.csv").read_bytes()) == first
    assert len(made) == 630


def test_reproduce_keeps_to_its_own_cells(tmp_path, made):
    """What a shortened run left in the folder is not in the page of the whole one."""
    run_ggl(tmp_path, less=(1, 50, 20))
    run_ggl(tmp_path, resume=True)
    assert "- cells: 630 of 630 ok" in (tmp_path / "ggl-small.md").read_text()
    assert len((tmp_path / "cells.csv").read_text().splitlines()) == 631
    with Store(tmp_path) as store:
        assert len(store.records()) == 656


def test_what_reproduce_refuses(tmp_path, made):
    for change, kind, message in (
        (
            {"resume": True},
            CheckpointError,
            f"{tmp_path}: holds no reproduction to resume; leave --resume out",
        ),
        (
            {"less": (1, None, None), "page": tmp_path / "page.md"},
            InputError,
            "a shortened run claims nothing: expected no place for its page, leave --page out",
        ),
        ({"files": tmp_path}, InputError, "this scale needs no files: leave --files out"),
    ):
        with pytest.raises(kind) as error:
            run_ggl(tmp_path, **change)
        assert str(error.value) == message
    with pytest.raises(UnknownNameError, match=r"^no reproduction is named 'gll'; did you mean 'ggl'"):
        run_ggl(tmp_path, name="gll")
    with pytest.raises(UnknownNameError, match=r"^no scale is named 'papr'; did you mean 'paper'"):
        run_ggl(tmp_path, "papr")
    assert made == []
    run_ggl(tmp_path, less=(1, None, None))
    with pytest.raises(InputError, match=r": holds a reproduction already; add --resume, or choose another"):
        run_ggl(tmp_path)


def test_files_are_asked_for_one_by_one(tmp_path):
    scale = load_reproduction("ggl").at("paper")
    with pytest.raises(
        InputError, match=r"^this scale needs files: expected --files DIR with biggan-deep-256, "
    ):
        check_files(scale, None)
    for needed in scale.files:
        with pytest.raises(InputError) as error:
            check_files(scale, tmp_path)
        assert str(error.value).startswith(
            f"{tmp_path / needed.path}: expected it there, found nothing; get it:"
        )
        assert "\n" not in str(error.value)
        (tmp_path / needed.path).touch()
    check_files(scale, tmp_path)
    with pytest.raises(InputError, match="expected a path without a comma"):
        check_files(scale, tmp_path / "a,b")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "x"', "name = ", "x.toml: expected TOML: Invalid value (at line 2, column 8)"),
        ('title = "t"', "", "x.toml: title: field required"),
        (
            'title = "t"',
            'titel = "t"\ntitle = "t"',
            "x.toml: titel: extra inputs are not permitted, found 't'",
        ),
        ("[scales.paper]", "[scales.large]", None),
        ('rule = "better"', 'rule = "beats"', None),
        ('b = "two"', 'b = "tow"', None),
        ('b = "two", ', "", "x.toml: claim c, small: rule 'better' takes a 'b'"),
        ('small = "one"', 'small = "on"', None),
        (
            'not_testable = "no reason"',
            "",
            "x.toml: claim c, paper: expected checks, or why it is not testable, and not both",
        ),
        (
            "mse = 0.1",
            'mse = "much"',
            "x.toml: claims.0.reported.0.mse: input should be a valid number, "
            "unable to parse string as a number, found 'much'",
        ),
    ],
)
def test_a_file_that_is_none(old, new, message):
    assert old in SMALLEST
    with pytest.raises(InputError) as error:
        parse_reproduction(SMALLEST.replace(old, new, 1), "x.toml")
    assert "\n" not in str(error.value)
    assert message is None or str(error.value) == message


def test_claims_have_names_of_their_own():
    twice = SMALLEST + SMALLEST[SMALLEST.index("[[claims]]") :]
    with pytest.raises(InputError, match=r"^x\.toml: claims: expected each id once, found 'c' twice$"):
        parse_reproduction(twice, "x.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            ', strategy = "cma-es" }',
            " }",
            GROUP_ONE + "2 kinds",
        ),
        (
            'strategy = "cma-es" }',
            'strategy = "adam" }',
            GROUP_ONE + "0 kinds",
        ),
        ('sweep = "main", strategy = "cma-es"', 'sweep = "man", strategy = "cma-es"', None),
        ('strategy = "cma-es" }', 'stratgy = "cma-es" }', None),
        ("images = 6", "images = 0", None),
        ("images = 6", "imags = 6", None),
        ("budget = [20]", "budgets = [20]", None),
    ],
)
def test_sweeps_and_groups_that_do_not_fit(old, new, message):
    assert old in SMALLEST
    known = parse_reproduction(SMALLEST.replace(old, new, 1), "x.toml")
    with pytest.raises(InputError) as error:
        plan_of(known, "small")
    assert str(error.value).startswith(("x.toml", "no x.toml"))
    assert "\n" not in str(error.value)
    assert message is None or str(error.value) == message


def test_a_group_may_hold_several_seeds():
    known = parse_reproduction(SMALLEST.replace("budget = [20]", "budget = [20], seed = [0, 1]"), "x.toml")
    plan = plan_of(known, "small")
    assert len(plan.groups["one"]) == 12
    records = records_of(plan)
    assert groups_of_plan(plan, records, Measured())["one"].n == 6
    assert replace(plan.groups["one"][0], seed=1) in plan.groups["one"]
