import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from ggl.base.errors import InputError, UnknownNameError
from ggl.commands.utility import UtilityPlan, run_utility
from ggl.costs import utility
from ggl.costs.federation import Federation
from ggl.costs.utility import measure_utility, t_interval
from ggl.datasets.loading import Dataset
from ggl.defenses import Defense, NoDefense
from ggl.victims import load_victim

CLASSES, SIDE = 3, 8
SMALL = Federation(clients=3, rounds=5, batch_size=10, learning_rate=0.2)


def blobs(n, seed=0, shape=(1, SIDE, SIDE)):
    """Images of three classes whose brightest row tells the class: linearly separable."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.6 * torch.rand(n, *shape, generator=random)
    images[torch.arange(n), :, labels] += 0.4
    return images, labels


def dataset(n, seed=0):
    return Dataset("blobs", *blobs(n, seed), CLASSES)


def mlp(seed):
    return load_victim("mlp", in_channels=1, num_classes=CLASSES, image_size=SIDE, seed=seed)


def measure(defenses, seeds=(0, 1, 2), federation=SMALL):
    return measure_utility(
        mlp, dataset(90), dataset(60, 1), defenses=defenses, federation=federation, seeds=seeds
    )


def write(path, shape=(SIDE, SIDE), splits=("train_", "test_")):
    """Write an npz file of separable images with a trailing channel dimension for three channels."""
    arrays = {}
    for k, split in enumerate(splits):
        images, labels = blobs(90, k, (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]))
        pixels = (255 * images).byte().permute(0, 2, 3, 1).numpy()
        arrays |= {f"{split}images": pixels.reshape(90, *shape), f"{split}labels": labels.numpy()}
    np.savez(path, **arrays)
    return str(path)


def plan(folder, data=None, **options):
    chosen = {"victim": "mlp", "clients": 3, "rounds": 8, "batch_size": 10, "seeds": 2, "learning_rate": 0.2}
    chosen |= {"defenses": ("none", "noise:5"), "out": folder / "out", **options}
    return UtilityPlan(data=data or write(folder / "blobs.npz"), **chosen)


class Twin(NoDefense):
    """Does what no defense does."""

    name = "twin"


class Broken(Defense):
    """Shares what is not finite."""

    name = "broken"

    def protect(self, gradients, generator):
        return {name: g * math.nan for name, g in gradients.items()}


# Intervals


def test_the_interval_is_students():
    """By hand for 1, 2, 3: 2 ± t(0.975, 2 degrees) · 1 / sqrt(3), t being 4.302653 (any table)."""
    interval = t_interval([1.0, 2.0, 3.0])
    assert (interval.mean, interval.n) == (2.0, 3)
    assert interval.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2 - interval.low == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_the_interval_covers_the_mean_of_three_seeds_as_often_as_it_says():
    """Of 2,000 normal samples 95 % are covered, give or take four times sqrt(0.95 · 0.05 / 2000)."""
    samples = np.random.default_rng(0).normal(size=(2000, 3))
    intervals = [t_interval(sample) for sample in samples.tolist()]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_the_interval_agrees_with_scipys():
    values = np.random.default_rng(1).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = t_interval(values.tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_an_interval_is_cut_to_what_the_mean_can_be():
    interval = t_interval([0.9, 1.0], 0.0, 1.0)
    assert interval.high == 1.0
    assert interval.low == pytest.approx(0.95 - 12.7062 * 0.05, abs=1e-5)
    assert t_interval([0.0, 0.1], 0.0, 1.0).low == 0.0


def test_equal_values_have_no_width_and_one_value_no_interval():
    same = t_interval([0.3, 0.3, 0.3])
    assert same.low == same.mean == same.high == 0.3
    one = t_interval([0.3])
    assert (one.mean, one.n) == (0.3, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_nothing_and_what_is_not_finite_have_no_interval(values):
    with pytest.raises(InputError, match="expected at least one value, all finite, for an interval"):
        t_interval(values)


# Figures


def test_no_defense_comes_first_and_every_defense_stands_beside_it():
    calls = []
    utilities = measure_utility(
        mlp,
        dataset(90),
        dataset(60, 1),
        defenses=[Twin(), "noise:5", "none", "noise:5.0"],
        federation=replace(SMALL, rounds=10),
        seeds=[0, 1],
        progress=lambda title, done, planned: calls.append((title, done, planned)),
    )
    assert [u.defense for u in utilities] == ["none", "twin", "noise:5"]
    plain, twin, noisy = (u.to_dict() for u in utilities)
    assert twin["accuracies"] == plain["accuracies"] == utilities[2].plain.accuracies
    assert twin["accuracy_kept"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2}
    assert noisy["undefended_accuracy"] == plain["accuracy"]
    differences = np.subtract(noisy["accuracies"], plain["accuracies"])
    assert noisy["accuracy_kept"]["mean"] == pytest.approx(differences.mean())
    assert noisy["accuracy_kept"]["mean"] < -0.2
    assert plain["accuracy"]["mean"] == pytest.approx(np.mean(plain["accuracies"]))
    assert len(calls) == 3 * 2 * 10
    assert calls[-1] == ("noise:5, seed 1", 10, 10)


def test_seeds_differ_and_define_all_but_the_time():
    first, again = (measure(["noise:0.1"], seeds=[0, 1]) for _ in range(2))
    assert [u.to_dict() for u in first] == [u.to_dict() for u in again]
    assert len(set(first[1].accuracies)) > 1


def test_bytes_stand_beside_the_undefended_ones():
    """An mlp of 8 pixels has 64 · 200 + 200 + 200 · 200 + 200 + 200 · 3 + 3 numbers; noise leaves no zero."""
    plain, noisy = (u.to_dict() for u in measure(["noise:0.1"], seeds=[0]))
    assert noisy["client_bytes"] == 4 * 53_803
    assert noisy["undefended_client_bytes"] == plain["client_bytes"] < 4 * 53_803
    assert plain["undefended_client_bytes"] == plain["client_bytes"]


def test_times_are_ratios_to_gradients_and_to_no_defense():
    plain, noisy = (u.timing() for u in measure(["noise:0.1"], seeds=[0]))
    assert plain["slowdown"] == 1.0
    assert noisy["slowdown"] == pytest.approx(noisy["client_seconds"] / plain["client_seconds"])
    assert noisy["protect_seconds"] == pytest.approx(noisy["client_seconds"] - noisy["gradient_seconds"])
    assert noisy["protect_ratio"] == pytest.approx(noisy["protect_seconds"] / noisy["gradient_seconds"])
    assert noisy["protect_ratio"] > plain["protect_ratio"] >= 0


def test_a_training_that_diverges_keeps_the_accuracy_it_ended_with():
    plain, broken = (u.to_dict() for u in measure([Broken()], seeds=[0, 1]))
    assert plain["diverged"] == [False, False]
    assert (broken["diverged"], broken["rounds"]) == ([True, True], [0, 0])
    untrained = Federation(clients=3, rounds=1, batch_size=10, learning_rate=1e-12, momentum=0.0)
    assert broken["accuracies"] == list(measure([], seeds=[0, 1], federation=untrained)[0].accuracies)


# Runs


def test_a_run_writes_its_figures_and_prints_a_table(tmp_path, capsys):
    run_utility(plan(tmp_path, rounds=20))
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "utility.json").read_text())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["utility.json"]
    assert list(result) == ["settings", "versions", "results", "timing"]
    assert result["settings"]["seeds"] == [0, 1]
    assert (result["settings"]["training_images"], result["settings"]["learning_rate"]) == (90, 0.2)
    plain, noisy = result["results"]
    assert plain["accuracy"]["mean"] > 0.9 > noisy["accuracy"]["mean"]
    assert list(result["timing"]) == ["none", "noise:5"]
    assert "noise:5" in printed
    assert f"{100 * noisy['accuracy']['mean']:.1f} [" in printed
    assert "0 of 2" in printed
    assert "utility.json" in printed


def test_one_seed_and_a_diverged_training_are_printed_too(tmp_path, capsys):
    run_utility(plan(tmp_path, defenses=("none", "noise:1e39"), seeds=1))
    assert "1 of 1" in capsys.readouterr().out
    plain, broken = json.loads((tmp_path / "out" / "utility.json").read_text())["results"]
    assert plain["accuracy"]["low"] is None
    assert broken["diverged"] == [True]


def test_color_images_other_test_data_and_a_folder_of_an_audit_are_taken(tmp_path):
    training = write(tmp_path / "training.npz", (SIDE, SIDE, 3), ["", "unused_"])
    test = write(tmp_path / "test.npz", (SIDE, SIDE, 3), ["unused_", ""])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("{}")
    run_utility(plan(tmp_path, training, test_data=test, defenses=("none",), seeds=1, rounds=1))
    assert (tmp_path / "out" / "utility.json").exists()
    assert (tmp_path / "out" / "result.json").read_text() == "{}"


@pytest.mark.parametrize(("victim", "rate"), [("lenet", 0.02), ("mlp", 0.05), ("my.module:victim", 0.05)])
def test_a_victim_may_have_a_learning_rate_of_its_own(tmp_path, victim, rate):
    assert plan(tmp_path, victim=victim, learning_rate=None).federation().learning_rate == rate
    assert plan(tmp_path, victim=victim, learning_rate=0.7).federation().learning_rate == 0.7


@pytest.fixture
def untrained(monkeypatch):
    """Fail where a training begins."""

    def fail(*arguments, **options):
        pytest.fail("a training began")

    monkeypatch.setattr(utility, "train", fail)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "resize"}, "--fit resize: expected the size to fit to, give --image-size"),
        ({"seeds": 0}, "expected at least one seed, found none"),
        ({"clients": 91}, "expected 1 to 90 clients, one example each at least; found 91"),
        ({"momentum": 1.0}, "federated training: expected a momentum in [0, 1), found 1"),
        ({"defenses": ("noise:-1",)}, "noise: expected a standard deviation of at least 0, found -1"),
        ({"victim": "resnet18"}, "federated training: the victim has batch normalization ('bn1'), whose "),
        ({"partition": "dirichlet:0"}, "partition 'dirichlet:0': expected a concentration of 1e-06 to 1e+06"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_bad_input_is_refused_before_any_training(tmp_path, options, message):
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path, **options))
    assert str(error.value).startswith(message)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("untrained")
def test_unknown_names_are_refused_before_any_training(tmp_path):
    for options in ({"defenses": ("none", "nois:1")}, {"victim": "mpl"}, {"partition": "idd"}):
        with pytest.raises(UnknownNameError):
            run_utility(plan(tmp_path, **options))


@pytest.mark.usefixtures("untrained")
def test_data_without_test_images_of_its_own_is_refused(tmp_path):
    single = write(tmp_path / "single.npz", splits=[""])
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path, single))
    assert str(error.value) == (
        f"{single}: the test images are the training images; "
        "give data with the splits train and test, or other test data"
    )


@pytest.mark.usefixtures("untrained")
def test_images_of_another_shape_or_not_square_are_refused(tmp_path):
    wide = write(tmp_path / "wide.npz", (SIDE, SIDE + 2))
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path, wide))
    expected = "expected square images, found 8x10 pixels; give --image-size with --fit pad, resize or"
    assert expected in str(error.value)
    larger = write(tmp_path / "larger.npz", (SIDE + 2, SIDE + 2))
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path, test_data=larger))
    assert str(error.value) == (
        "expected test images of the training images' shape (1, 8, 8), found (1, 10, 10)"
    )


@pytest.mark.usefixtures("untrained")
def test_a_folder_that_holds_results_or_is_a_file_is_refused(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "utility.json").write_text("{}")
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path))
    assert str(error.value) == f"{out}: holds utility.json already; choose another folder"
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InputError) as error:
        run_utility(plan(tmp_path, out=file / "deeper"))
    assert str(error.value) == f"{file / 'deeper'}: expected a folder for the results, but {file} is a file"
