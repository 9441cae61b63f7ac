"""No traceback from any combination of what is bundled: commands end well, or in one line with code 2."""

import itertools
import random
import warnings

import pytest

AXES = {
    "--victim": ["lenet", "mlp", "convnet"],
    "--victim-mode": ["eval", "train"],
    "--prior": ["fashion-dcgan32", "cifar10-gan32", "pixels:3x13x13", "pixels:1x16x16"],
    "--loss": [
        "cross-entropy",
        "cross-entropy:smoothing=0.1",
        "cross-entropy:weights=1/2/3/4/5/6/7/8/9/10",
        "bce",
        "nll",
        "focal",
        "mse",
    ],
    "--batch-size": ["1", "2"],
    "--label-rule": ["known", "inferred", "searched"],
    "--strategy": ["random", "adam", "cma-es", "ig"],
    "--defense": ["none", "clip:1+noise:0.01", "prune:0.9", "soteria:0.5", "precode"],
    "--distance": ["cosine", "l2"],
    "--local-steps": ["1", "2"],
}


def pairwise(axes, seed=0, tries=30):
    """Return combinations in which every two values of two axes meet: each the best of some random ones."""
    drawn = random.Random(seed)
    names = list(axes)
    left = {((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in axes[a] for y in axes[b]}
    found = []
    while left:
        first, second = drawn.choice(sorted(left))
        candidates = [
            {name: drawn.choice(axes[name]) for name in names} | dict([first, second]) for _ in range(tries)
        ]
        best = max(candidates, key=lambda c: len(left & {*itertools.combinations(c.items(), 2)}))
        left -= {*itertools.combinations(best.items(), 2)}
        found.append(best)
    return found


SLOW = [
    f"--victim {victim} --victim-mode {mode} --prior pixels:{shape} --loss {loss} --strategy random"
    for (victim, shape), mode, loss in zip(
        [("vit", "1x16x16"), ("resnet18", "3x13x13"), ("resnet18-groupnorm", "1x16x16"),
         ("resnet18-imagenet", "1x33x33"), ("resnet18", "1x16x16"), ("vit", "3x16x16")],
        ["train", "train", "eval", "eval", "eval", "train"],
        ["bce", "focal", "cross-entropy:smoothing=0.1", "mse", "nll", AXES["--loss"][2]],
        strict=True,
    )
]  # fmt: skip
"""Victims that take longer, each with a few of the others' values."""

REFUSED = {
    "--prior pixels:1x8x8": "SSIM needs images of at least 11 x 11 px",
    "--victim vit --prior pixels:1x13x13": "victim vit: expected an image size that is a multiple of 4",
    "--victim resnet18-imagenet --victim-mode train": "the victim raised ValueError: Expected more than 1",
    "--loss cross-entropy:weights=1/2": "expected 10 weights, one a class, found 2",
    "--batch-size 2 --images 2 --label-rule inferred --loss " + AXES["--loss"][2]: "the labels of a batch",
}


def run(ggl, out, arguments):
    """Run a tiny audit, check that it ends as it should, and return its exit code and last line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code, _, errors = ggl(
            "audit", "--out", out, "--images", 1, "--fit", "resize", "--budget", 16, "--ceiling-budget", 4,
            *arguments,
        )  # fmt: skip
    assert code in (0, 2), (arguments, errors)
    assert "Traceback" not in errors
    assert (out / "result.json").exists() == (code == 0)
    lines = errors.strip().splitlines()
    assert len(lines) == (code == 2), (arguments, errors)
    return code, lines[-1] if lines else ""


def test_every_pair_is_in_some_combination():
    combinations = pairwise(AXES)
    pairs = {pair for c in combinations for pair in itertools.combinations(c.items(), 2)}
    sizes = [len(values) for values in AXES.values()]
    assert len(pairs) == sum(a * b for a, b in itertools.combinations(sizes, 2))
    assert len(combinations) < 60


@pytest.mark.slow("an audit for every pair of options")
@pytest.mark.parametrize("part", range(6))
def test_no_combination_ends_in_a_traceback(ggl, tmp_path, part):
    codes = []
    for k, chosen in enumerate(pairwise(AXES)[part::6]):
        arguments = [word for pair in chosen.items() for word in pair]
        if chosen["--local-steps"] != "1":
            arguments += ["--lr", "0.01"]
        code, _ = run(ggl, tmp_path / str(k), [*arguments, "--images", chosen["--batch-size"]])
        codes.append(code)
    assert 0 in codes


@pytest.mark.slow("audits of larger victims")
@pytest.mark.parametrize("asked", SLOW)
def test_larger_victims_end_well(ggl, tmp_path, asked):
    assert run(ggl, tmp_path / "out", asked.split()) == (0, "")


@pytest.mark.parametrize("asked", REFUSED)
def test_what_does_not_fit_is_refused_before_it_is_searched(ggl, tmp_path, asked):
    code, line = run(ggl, tmp_path / "out", ["--strategy", "random", *asked.split()])
    assert code == 2
    assert REFUSED[asked] in line
    assert not (tmp_path / "out").exists()
