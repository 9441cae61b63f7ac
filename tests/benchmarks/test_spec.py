"""Specs: which cells a text means, what is refused and in which words, and the hash."""

import itertools
import re
from pathlib import Path

import pytest
from documented import PAGES
from hypothesis import given, settings
from hypothesis import strategies as st

import ggl.benchmarks
from ggl.base.errors import InputError, UnknownNameError
from ggl.benchmarks.sweeps.cells import SweepCell, packs_of
from ggl.benchmarks.sweeps.spec import Spec, load_spec, parse_spec
from ggl.optimizers.catalog import strategies

SPECS = Path(ggl.benchmarks.__file__).parent / "specs"
GPU = ("gpu-imagenet", "gpu-faces")

HEAD = 'name = "a"\nimages = 2\n'
AXES = """[axes]
prior = "fashion-dcgan32"
victim = "lenet"
data = "fashion-mnist-heldout"
defense = ["none", "noise:0.2"]
strategy = ["random", "cma-es"]
budget = [64, 100]
"""
SMALL = HEAD + AXES


def parse(text: str) -> Spec:
    return parse_spec(text, "my.toml")


def values(spec: Spec, *axes: str) -> list[tuple[object, ...]]:
    """Return what cells have on some axes, each once, in order."""
    return list(dict.fromkeys(tuple(getattr(cell, axis) for axis in axes) for cell in spec.cells()))


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_cells_are_the_product_in_the_order_of_writing() -> None:
    spec = parse(SMALL)
    expected = list(itertools.product(["none", "noise:0.2"], ["random", "cma-es"], [64, 100], [0, 1]))
    assert [(c.defense, c.strategy, c.budget, c.image) for c in spec.cells()] == expected


def test_a_cell_has_the_specs_fields_and_the_defaults() -> None:
    spec = parse('image_seed = 5\nrounds = 7\nfit = "pad"\nceiling_budget = 9\n' + SMALL)
    assert spec.cells()[0] == SweepCell(
        prior="fashion-dcgan32",
        victim="lenet",
        victim_weights=None,
        data="fashion-mnist-heldout",
        defense="none",
        attacker="adaptive",
        strategy="random",
        distance="cosine",
        latents=None,
        budget=64,
        round=0,
        seed=0,
        image=0,
        images=2,
        image_seed=5,
        victim_seed=0,
        ceiling_budget=9,
        split="test",
        fit="pad",
        rounds=7,
        precision="float32",
        backend="auto",
    )


def test_a_repeated_value_makes_no_second_cell() -> None:
    again = parse(SMALL.replace("[64, 100]", "[64, 100, 64]"))
    assert again.cells() == parse(SMALL).cells()


def test_own_and_none_stand_for_no_name() -> None:
    spec = parse(SMALL + 'latents = ["own", "tanh"]\nvictim_weights = ["none", "a.pt"]\n')
    assert values(spec, "victim_weights", "latents") == list(
        itertools.product([None, "a.pt"], [None, "tanh"])
    )


def test_zipped_axes_go_together() -> None:
    axes = "\n".join(line for line in AXES.splitlines() if not line.startswith(("victim", "defense")))
    zipped = '\n[[zip]]\nvictim = ["lenet", "mlp"]\ndefense = ["noise:0.2", "noise:0.005"]\n'
    spec = parse(HEAD + axes + zipped)
    assert values(spec, "victim", "defense") == [("lenet", "noise:0.2"), ("mlp", "noise:0.005")]
    assert len(spec.cells()) == 2 * 2 * 2 * 2


def test_an_include_replaces_axes_also_within_a_zip() -> None:
    zipped = (
        '[[zip]]\nattacker = ["naive", "informed"]\ndistance = ["l2", "cosine"]\n'
        '[[include]]\nattacker = "adaptive"\nbudget = 3000\nstrategy = "adam"\n'
    )
    spec = parse(SMALL + zipped)
    further = [cell for cell in spec.cells() if cell.strategy == "adam"]
    assert {(c.attacker, c.distance, c.budget, c.defense) for c in further} == {
        ("adaptive", distance, 3000, defense)
        for distance in ("l2", "cosine")
        for defense in ("none", "noise:0.2")
    }
    assert len(spec.cells()) == 2 * 2 * 2 * 2 * 2 + 2 * 4


def test_excluded_cells_are_skipped_with_the_first_reason() -> None:
    spec = parse(
        SMALL
        + '[[exclude]]\nstrategy = "cma-es"\nbudget = 64\nreason = "too few"\n'
        + '[[exclude]]\nstrategy = "cma-es"\ndefense = "none"\nreason = "known"\n'
    )
    reasons = {(c.strategy, c.budget, c.defense): reason for c, reason in spec.skipped()}
    assert reasons == {
        ("cma-es", 64, "none"): "too few",
        ("cma-es", 64, "noise:0.2"): "too few",
        ("cma-es", 100, "none"): "known",
    }
    every = [*spec.cells(), *(cell for cell, _ in spec.skipped())]
    assert sorted(cell.id for cell in every) == sorted(cell.id for cell in parse(SMALL).cells())


NAMES = st.lists(st.sampled_from("abcde"), min_size=1, unique=True)


@settings(max_examples=30)
@given(strategy=NAMES, defense=NAMES, seed=st.lists(st.integers(0, 9), min_size=1), images=st.integers(1, 4))
def test_a_product_has_as_many_cells_as_its_lists_say(strategy, defense, seed, images) -> None:
    text = f'name = "a"\nimages = {images}\n[axes]\nprior = "p"\nvictim = "v"\ndata = "d"\nbudget = 1\n'
    spec = parse(text + f"strategy = {strategy}\ndefense = {defense}\nseed = {seed}\n")
    assert len(spec.cells()) == len(strategy) * len(defense) * len(set(seed)) * images
    assert len({cell.id for cell in spec.cells()}) == len(spec.cells())


@settings(max_examples=30)
@given(order=st.permutations(AXES.splitlines()[1:]), head=st.permutations(HEAD.splitlines()))
def test_the_hash_does_not_see_the_order_of_keys(order, head) -> None:
    shuffled = "\n".join([*head, "[axes]", *order])
    assert parse(shuffled).hash == parse(SMALL).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "a"', 'name = "b"\ndescription = "other words"'),
        ("images = 2", "images = 2 # two\nimage_seed = 0\npack = 32"),
        ('"lenet"', '["lenet"]'),
        ("[64, 100]", "[100, 64]"),
        ("[axes]", '[axes]\nattacker = "adaptive"\nseed = [0, 0]'),
    ],
)
def test_texts_that_mean_the_same_have_one_hash(old: str, new: str) -> None:
    assert parse(SMALL.replace(old, new)).hash == parse(SMALL).hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("images = 2", "images = 3"),
        ("images = 2", "images = 2\nimage_seed = 1"),
        ("images = 2", "images = 2\npack = 4"),
        ("[64, 100]", "[64, 101]"),
        ("[axes]", "[axes]\nseed = 1"),
    ],
)
def test_texts_that_mean_something_else_have_another_hash(old: str, new: str) -> None:
    assert parse(SMALL.replace(old, new)).hash != parse(SMALL).hash


def test_reasons_and_what_is_skipped_are_in_the_hash() -> None:
    excluded = SMALL + '[[exclude]]\nbudget = 64\nreason = "{}"\n'
    hashes = {parse(text).hash for text in (SMALL, excluded.format("few"), excluded.format("none"))}
    assert len(hashes) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", found) for found in hashes)


KNOWN = (
    "prior, victim, victim_weights, data, defense, attacker, strategy, distance, latents, budget, round, seed"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            SMALL.replace("images = 2", "imagse = 2"),
            "no key of a spec is named 'imagse'; did you mean 'images'? known: name, description, images, "
            "image_seed, victim_seed, ceiling_budget, split, fit, rounds, precision, backend, pack, axes, "
            "zip, include, exclude",
        ),
        (
            SMALL.replace("victim", "victm"),
            f"axes: no axis is named 'victm'; did you mean 'victim'? known: {KNOWN}",
        ),
        (
            SMALL + '[[exclude]]\nbudget = 64\nreson = "r"\n',
            f"exclude[0]: no axis is named 'reson'; did you mean 'reason'? known: {KNOWN}, reason",
        ),
        (SMALL + "pack = 4\n", "axes: 'pack' is no axis; write it above the first table"),
        (SMALL.replace('"a"', "3"), "name: expected a text, found 3"),
        (SMALL.replace('"a"', '""'), "name: expected a text that is not empty, found ''"),
        (SMALL.replace("images = 2", ""), "images: expected a value, found none"),
        (SMALL.replace("images = 2", "images = 0"), "images: expected an integer of at least 1, found 0"),
        (SMALL.replace("images = 2", "images = true"), "images: expected an integer, found True"),
        (SMALL.replace("100", "-5"), "axes.budget[1]: expected an integer of at least 1, found -5"),
        (SMALL.replace("100", "1e2"), "axes.budget[1]: expected an integer, found 100.0"),
        (SMALL.replace("100", "true"), "axes.budget[1]: expected an integer, found True"),
        (
            SMALL.replace("100", str(2**63)),
            "axes.budget[1]: expected an integer of at most 9007199254740992, found 9223372036854775808",
        ),
        (SMALL.replace("[64, 100]", "[]"), "axes.budget: expected at least one value, found ()"),
        (
            SMALL.replace("budget = [64, 100]", ""),
            "axes.budget: expected values here or in a zip, found none",
        ),
        (HEAD + "axes = 3\n", "axes: expected a table, found 3"),
        (SMALL + "round = 10000\n", "axes.round: expected rounds below 10000, found 10000"),
        (SMALL + "seed = -1\n", "axes.seed[0]: expected an integer of at least 0, found -1"),
        (
            SMALL + '[[zip]]\nseed = [1]\nattacker = ["naive", "adaptive"]\n',
            "zip[0]: expected lists of equal length, found 2 of attacker, 1 of seed",
        ),
        (SMALL + "[[zip]]\nseed = [1]\n", "zip[0]: expected two axes or more that go together, found 1"),
        (
            SMALL + '[[zip]]\nseed = [1]\nvictim = ["mlp"]\n',
            "zip[0].victim: the axis is in axes already; name it once",
        ),
        (
            SMALL + "[[zip]]\nseed = [1]\nround = [1]\n[[zip]]\nseed = [2]\nlatents = ['free']\n",
            "zip[1].seed: the axis is in zip[0] already; name it once",
        ),
        (SMALL + "[[include]]\n", "include[0]: expected at least one axis, found none"),
        (
            SMALL + "[[include]]\nseed = 1\n[[include]]\nbudget = 64\n",
            "include[1]: adds nothing, its cells are there; a typo?",
        ),
        (SMALL + "[[exclude]]\nbudget = 64\n", "exclude[0].reason: expected a value, found none"),
        (
            SMALL + '[[exclude]]\nreason = "r"\n',
            "exclude[0]: expected at least one axis beside the reason, found none",
        ),
        (
            SMALL + '[[exclude]]\nstrategy = ["random", "adam"]\nreason = "r"\n',
            "exclude[0].strategy: no cell has 'adam', so that it excludes nothing; a typo?",
        ),
        (
            SMALL + '[[include]]\nseed = 1\nbudget = 5\n[[exclude]]\nseed = 1\nbudget = 64\nreason = "r"\n',
            "exclude[0]: it excludes nothing; a typo?",
        ),
        (
            SMALL + '[[exclude]]\nstrategy = ["random", "cma-es"]\nreason = "r"\n',
            "exclude: it leaves no cell to run",
        ),
        (
            SMALL.replace("images = 2", "images = 1000000"),
            "expected at most 1,000,000 cells, found 8,000,000; make several specs",
        ),
        ("name = \n", "expected TOML: Invalid value (at line 1, column 8)"),
        ("a = " + "[" * 5000, "expected TOML, found brackets nested too deeply"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(text: str, message: str) -> None:
    assert refused(text) == f"my.toml: {message}"


def test_unknown_keys_are_unknown_names() -> None:
    with pytest.raises(UnknownNameError):
        parse(SMALL + "sed = 1\n")


def test_a_file_is_read_with_its_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("# of mine\n" + SMALL)
    spec = load_spec(path)
    assert spec.text == "# of mine\n" + SMALL
    assert spec.cells() == parse(SMALL).cells()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('name = "\xe9"'.encode("latin-1"))
    for name, message in (
        ("", "expected a spec, a TOML file, found a folder"),
        ("none.toml", "expected a spec, a TOML file, found no such file"),
        ("latin.toml", "expected TOML in UTF-8, found another encoding"),
    ):
        path = tmp_path / name
        with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {re.escape(message)}$"):
            load_spec(path)


def test_what_a_component_refuses_is_named_with_its_reason() -> None:
    spec = parse(
        SMALL.replace('"random"', '"bo"').replace("[64, 100]", "[10, 100]")
        + 'attacker = ["adaptive", "drop"]\n[[include]]\ndefense = "soteria:0.8"\nstrategy = "random"\n'
    )
    reasons = {(c.strategy, c.budget, c.defense, c.attacker): reason for c, reason in spec.refused()}
    assert reasons["bo", 10, "none", "adaptive"].startswith(
        "bo: expected a budget above the initial design's"
    )
    assert reasons["cma-es", 10, "none", "adaptive"] == (
        "a budget of 10 evaluations is below one generation of 16; give at least 16"
    )
    assert reasons["cma-es", 100, "noise:0.2", "drop"] == (
        "defense noise:0.2 does not know the attacker 'drop'; it knows naive, adaptive, informed"
    )
    left = {(c.strategy, c.budget, c.defense, c.attacker) for c in spec.cells()} - set(reasons)
    assert ("random", 100, "soteria:0.8", "drop") in left
    assert ("bo", 100, "none", "adaptive") in left
    assert not {key for key in left if key[1] == 10}
    assert len(spec.refused()) == spec.images * len(reasons)


def test_a_victim_that_cannot_take_the_images_or_the_defense_is_refused() -> None:
    spec = parse(SMALL.replace('"noise:0.2"', '"precode:layer=conv9"').replace("[64, 100]", "64"))
    assert {cell.defense for cell, _ in spec.refused()} == {"precode:layer=conv9"}
    assert all("conv9" in reason for _, reason in spec.refused())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cma-es"', '"cma-se"', "no strategy is named 'cma-se'; did you mean 'cma-es'?"),
        ('"noise:0.2"', '"nois:0.2"', "no defense is named 'nois'; did you mean 'noise'?"),
        ('"lenet"', '"lenett"', "no victim is named 'lenett'; did you mean 'lenet'?"),
        ('"fashion-dcgan32"', '"fashion-dcgan23"', "no prior is named 'fashion-dcgan23'"),
        ("-heldout", "-heldou", "no data set is named 'fashion-mnist-heldou'"),
        ("[axes]", '[axes]\ndistance = "cosin"', "no distance is named 'cosin'; did you mean 'cosine'?"),
        ("[axes]", '[axes]\nlatents = "none"', "no latents rule is named 'none'"),
        (
            "[axes]",
            '[axes]\nattacker = "adaptiv"',
            "no attacker is named 'adaptiv'; did you mean 'adaptive'?",
        ),
        ("[axes]", 'backend = "fast"\n[axes]', "no backend is named 'fast'"),
        ("[axes]", 'fit = "pda"\n[axes]', "no fit is named 'pda'; did you mean 'pad'?"),
    ],
)
def test_unknown_names_end_the_check(old: str, new: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match="^" + re.escape(message)):
        parse(SMALL.replace(old, new)).check()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"cma-es"', '"cma-es:sigma0=-1"', "sigma0"),
        ('"cma-es"', '"cma-es:tune=0.1"', "sweeps do not tune, expected it without tune="),
        ('"noise:0.2"', '"noise:-1"', "noise"),
        ("[axes]", '[axes]\nattacker = "all"', "axes.attacker: expected one attacker a value, found 'all'"),
        ("[axes]", 'precision = "half"\n[axes]', "expected precision float32 or bfloat16, found 'half'"),
        (
            "[axes]",
            '[axes]\nvictim_weights = "a.pt"',
            "axes.victim_weights: expected a weight file, found none",
        ),
        (
            "[64, 100]",
            "3",
            "every cell is refused, the first because: a budget of 3 evaluations is below one",
        ),
        ("images = 2", "images = 1001", "every cell is refused, the first because: expected at most 1000"),
    ],
)
def test_what_no_cell_can_use_ends_the_check(old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse(SMALL.replace(old, new)).check()


def test_the_analytic_attacker_needs_a_first_linear_layer() -> None:
    spec = parse(SMALL.replace('"lenet"', '["lenet", "mlp"]') + 'attacker = "analytic"\n')
    assert {cell.victim: reason for cell, reason in spec.refused()} == {
        "lenet": "victim lenet has no first linear layer with a bias for the analytic attacker"
    }


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_the_standing_benchmarks_run_here(name: str) -> None:
    spec = load_spec(SPECS / f"{name}.toml")
    assert spec.name == name
    assert spec.refused() == []


def test_the_documentation_s_example_is_a_spec() -> None:
    page = (PAGES / "benchmarks.md").read_text("utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    spec = parse_spec(text, "docs/benchmarks.md")
    assert len(spec.cells()) == 240 + 40 - 40
    assert {reason for _, reason in spec.skipped()} == {"not of interest"}
    assert spec.refused() == []


def test_the_cpu_benchmark_has_every_strategy_and_says_why_not() -> None:
    spec = load_spec(SPECS / "cpu.toml")
    of_batches = {"block-cma-es"}  # of one image, which a cell's gradient is of, it is cma-es
    younger = {"gauss-newton", "eki"}  # than the committed run; it enters with the next
    known = set(strategies.names()) - of_batches - younger
    assert {c.strategy.partition(":")[0] for c in spec.cells()} == known
    assert {cell.strategy.partition(":")[0] for cell, _ in spec.skipped()} == {"bo", "turbo"}
    assert {len(pack) for pack in packs_of(spec.cells(), spec.pack)} == {10}


@pytest.mark.parametrize("name", GPU)
def test_the_gpu_benchmarks_say_how_many_evaluations_they_are(name: str) -> None:
    spec = load_spec(SPECS / f"{name}.toml")
    assert spec.name == name
    searched = 3 * sum(cell.budget for cell in spec.cells())
    inverted = len({cell.prior for cell in spec.cells()}) * spec.images * spec.ceiling_budget
    assert f"{searched:,} objective evaluations of searches, and {inverted:,} of ceilings" in spec.text
