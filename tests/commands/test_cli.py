"""The command line: what it prints, and that bad input ends in one line, code 2, and no trace."""

import importlib
import io
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from ggl.base.weights import save_tensors
from ggl.datasets.picking import pick_private


def dead_victim(in_channels, num_classes, image_size):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, num_classes))
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    return model


def picture(path, size=32):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size), dtype=np.uint8)).save(path)


def empty_folder(tmp_path):
    (tmp_path / "data").mkdir()
    return ["--data", tmp_path / "data"], "empty|no "


def folder_with_text(tmp_path):
    picture(tmp_path / "data" / "a" / "1.png")
    (tmp_path / "data" / "a" / "notes.png").write_text("hello")
    return ["--data", tmp_path / "data"], "notes.png: expected an image"


def wrong_size(tmp_path):
    for name in "ab":
        picture(tmp_path / "data" / name / "1.png", size=28)
    return ["--data", tmp_path / "data"], "28.*fit"


def label_out_of_range(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, images=np.zeros((3, 32, 32), np.uint8), labels=np.array([0, 1, 12]))
    return ["--data", path], "labels 0 to 9, found 12"


def altered_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.rand(100)})
    path.write_bytes(path.read_bytes()[:-50])
    return ["--victim-weights", path], "damaged"


def foreign_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, {"a": torch.rand(100)})
    return ["--victim-weights", path], "expected float .*, found no such tensor"


def code_in_weights(tmp_path):
    path = tmp_path / "w.pt"
    buffer = io.BytesIO()
    torch.save({"a": print}, buffer)
    path.write_bytes(buffer.getvalue())
    return ["--victim-weights", path], "tensors only"


def folders_by_name(tmp_path):
    for name in ("bag", "boot"):
        picture(tmp_path / "data" / name / "1.png")
    return ["--data", tmp_path / "data"], "named by its labels, 0 to 9, found 'bag'"


def utility_of_another_victim(tmp_path):
    path = tmp_path / "utility.json"
    figure = {"mean": 0.5, "low": None, "high": None}
    figures = dict.fromkeys(("accuracy", "accuracy_kept", "undefended_accuracy"), figure)
    sizes = {"client_bytes": 1.0, "undefended_client_bytes": 1.0}
    results = [{"defense": "none", **figures, **sizes}]
    path.write_text(json.dumps({"settings": {"victim": "mlp"}, "results": results}))
    return ["--utility", path], "utility.json: expected trainings of the audit's victim 'lenet', found 'mlp'"


def utility_that_is_an_audit(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"settings": {}, "results": [{"defense": "none"}]}))
    return ["--utility", path], 'expected "accuracy" of none to be mean, low and high'


def victim_of_another_size(in_channels, num_classes, image_size):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, num_classes))


def grouped(tmp_path, **groups):
    path = tmp_path / "data.npz"
    images = np.random.default_rng(0).integers(0, 255, (20, 32, 32), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(20) % 2, **groups)
    return ["--data", path, "--groups", "sex"]


BAD = {
    "empty folder": empty_folder,
    "a text file that is named as an image": folder_with_text,
    "a size that the prior does not give": wrong_size,
    "class folders that are not labels": folders_by_name,
    "a victim for another size": lambda _: (
        ["--victim", "test_cli:victim_of_another_size"],
        r"can't take images of shape \(1, 32, 32\)",
    ),
    "a label out of range": label_out_of_range,
    "weights cut short": altered_weights,
    "weights of something else": foreign_weights,
    "weights with code": code_in_weights,
    "budget below a generation": lambda _: (["--budget", 5], "below one generation of 16"),
    "unknown victim": lambda _: (["--victim", "lenett"], "did you mean 'lenet'"),
    "unknown prior": lambda _: (["--prior", "fashion-dcgan"], "did you mean 'fashion-dcgan32'"),
    "unknown defense": lambda _: (["--defense", "clip:1+nois:2"], "did you mean 'noise'"),
    "unknown strategy": lambda _: (["--strategy", "adamm"], "did you mean 'adam'"),
    "unknown attacker": lambda _: (["--attacker", "naiv"], "did you mean 'naive'"),
    "unknown data": lambda _: (["--data", "fashion-mnist-helout"], "did you mean 'fashion-mnist-heldout'"),
    "missing data": lambda p: (["--data", p / "nowhere.npz"], "cannot be read"),
    "too many images": lambda _: (["--images", 1001], "at most 1000"),
    "a gradient that is not finite": lambda _: (["--victim", "test_cli:dead_victim"], "not finite"),
    "a victim that cannot be imported": lambda _: (["--victim", "no.such:thing"], "cannot be imported"),
    "a device that is not there": lambda _: (["--device", "cuda:99"], "cuda:99.*is not there"),
    "a device that does not exist": lambda _: (["--device", "gpu"], "expected a device such as"),
    "a strategy's option": lambda _: (["--strategy", "cma-es:sigma=1"], "did you mean 'sigma0'"),
    "an option that is no number": lambda _: (["--strategy", "cma-es:sigma0=big"], "a number for sigma0"),
    "an option that is no word": lambda _: (["--strategy", "pycma:variant=dv"], "did you mean 'dd'"),
    "an optimizer of Nevergrad's": lambda _: (["--strategy", "nevergrad:optimizer=CMAA"], "nearest: CMA,"),
    "a budget that a model can't finish": lambda _: (
        ["--strategy", "turbo", "--budget", 6000],
        "5,?000.*force=1",
    ),
    "a utility file that is not there": lambda p: (["--utility", p / "no.json"], "no.json: .*cannot be read"),
    "a utility file of another victim": utility_of_another_victim,
    "a utility file of an audit": utility_that_is_an_audit,
    "groups of no file": lambda _: (["--groups", "sex"], "from an array of the images' own .npz"),
    "groups that are not there": lambda p: (
        grouped(p, age=np.arange(20)),
        "'sex', found images, labels, age",
    ),
    "groups of other images": lambda p: (
        grouped(p, sex=np.arange(9)),
        "for each of 20 images, found int64 of",
    ),
    "groups that are no groups": lambda p: (grouped(p, sex=np.linspace(0, 1, 20)), "number or a text"),
    "groups with code": lambda p: (
        grouped(p, sex=np.array([None] * 20, dtype=object)),
        "an npz file of plain arrays",
    ),
    "unknown latents": lambda _: (["--latents", "boxx:2"], "did you mean 'box'"),
    "latents without a number": lambda _: (["--latents", "shell"], "expected a number above 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, ggl, tmp_path, monkeypatch):
    import re

    monkeypatch.setenv("GGL_CACHE", str(tmp_path / "cache"))
    arguments, message = BAD[case](tmp_path)
    settings = [] if "--budget" in arguments else ["--budget", 32]
    code, _, errors = ggl("audit", "--out", tmp_path / "out", *settings, *arguments)
    assert code == 2
    assert errors.startswith("ggl: ")
    assert errors.count("\n") == 1
    assert re.search(message, errors), errors
    assert not (tmp_path / "out").exists()


def test_an_audit_prints_its_table_and_refuses_to_overwrite(ggl, tmp_path):
    arguments = ("audit", "--out", tmp_path / "out", "--images", 2, "--budget", 16, "--defense", "clip:1")
    code, output, _ = ggl(*arguments)
    assert code == 0
    assert "clip:1" in output
    assert "undecided" in output
    assert "worst case" not in output
    settings = json.loads((tmp_path / "out" / "result.json").read_text())["settings"]
    assert (settings["victim"], settings["data"]) == ("lenet", "fashion-mnist-heldout")
    before = (tmp_path / "out" / "result.json").read_bytes()
    code, _, errors = ggl(*arguments)
    assert code == 2
    assert "finished run already" in errors
    assert (tmp_path / "out" / "result.json").read_bytes() == before


@pytest.mark.parametrize("groups", [np.arange(20) // 2 % 2, np.array(["f", "m"] * 10)[::-1][:, None]])
def test_groups_are_those_of_the_private_images(ggl, tmp_path, groups):
    data = grouped(tmp_path, sex=groups)
    arguments = ("--images", 6, "--budget", 16, "--ceiling-budget", 8, "--strategy", "random")
    code, output, errors = ggl("audit", "--out", tmp_path / "out", *data, *arguments, "--victim", "mlp")
    assert (code, errors) == (0, "")
    assert "people are recognizable" in output or "no person is shown to be recognizable" in output
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["settings"]["groups"] == "sex"
    chosen = pick_private(torch.arange(20) % 2, 6, 0)
    expected = Counter(str(group) for group in groups.reshape(-1)[chosen])
    found = result["results"][0]["people"]["groups"]
    assert {entry["group"]: entry["images"] for entry in found} == expected


def test_an_audit_beside_what_ggl_utility_measured_in_the_same_folder(ggl, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("ggl.audits.request"), "CEILING_BUDGET", 200)
    random = np.random.default_rng(0)
    splits = {
        f"{split}_images": random.integers(0, 255, (20, 8, 8), dtype=np.uint8) for split in ("train", "test")
    }
    labels = {f"{split}_labels": np.arange(20) % 2 for split in ("train", "test")}
    np.savez(tmp_path / "data.npz", **splits, **labels)
    training = ("--rounds", 2, "--clients", 2, "--batch-size", 5, "--seeds", 2, "--victim", "mlp")
    settings = ("--data", tmp_path / "data.npz", "--defense", "clip:1.0", *training)
    out = tmp_path / "out"
    assert ggl("utility", "--out", out, *settings)[0] == 0
    measured = (out / "utility.json").read_bytes()
    audit = ("--victim", "mlp", "--images", 1, "--budget", 16, "--strategy", "random", "--strategy", "cma-es")
    defenses = ("--defense", "clip:1", "--defense", "sign")
    code, output, _ = ggl("audit", "--out", out, "--utility", out / "utility.json", *audit, *defenses)
    assert code == 0
    table = output[output.index("worst case over attackers and strategies") : output.index("report: ")]
    assert [table.count(f"{name} ") for name in ("clip:1", "sign")] == [1, 1]
    assert [table.count(f"{name}: no person is shown") for name in ("clip:1", "sign")] == [1, 1]
    assert (out / "utility.json").read_bytes() == measured
    result = json.loads((out / "result.json").read_text())
    assert result["utility"]["settings"]["rounds"] == 2
    assert result["utility"]["not_trained"] == ["sign"]
    (found,) = result["utility"]["results"]
    trained = next(e for e in json.loads(measured)["results"] if e["defense"] == "clip:1")
    assert found == {key: trained[key] for key in ("defense", "accuracy", "accuracy_kept", "client_bytes")}
    assert (out / "report.html").read_text("utf-8").count('id="trade-off-point-') == 1


def test_an_unfinished_run_needs_resume_and_resume_needs_one(ggl, tmp_path):
    (tmp_path / "out" / ".ggl-checkpoints").mkdir(parents=True)
    code, _, errors = ggl("audit", "--out", tmp_path / "out")
    assert code == 2
    assert "add --resume" in errors
    code, _, errors = ggl("audit", "--out", tmp_path / "new", "--resume")
    assert code == 2
    assert "no unfinished run" in errors


def test_a_file_in_the_place_of_the_folder(ggl, tmp_path):
    (tmp_path / "out").write_text("mine")
    code, _, errors = ggl("audit", "--out", tmp_path / "out")
    assert code == 2
    assert "is a file" in errors
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_below_a_file(ggl, tmp_path):
    (tmp_path / "mine").write_text("mine")
    code, _, errors = ggl("audit", "--out", tmp_path / "mine" / "out")
    assert code == 2
    assert "is a file" in errors


def test_a_failed_demo_leaves_the_users_files_alone(ggl, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.pt").write_text("mine")
    code, _, _ = ggl("demo", "--out", tmp_path, "--budget", 1)
    assert code == 2
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["model.pt"]


@pytest.mark.parametrize("kind", ["priors", "strategies", "defenses", "victims"])
def test_list_gives_every_name_a_line(kind, ggl):
    from ggl.commands.names import describe

    code, output, _ = ggl("list", kind)
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines] == list(describe(kind))
    assert all(len(line.split()) > 3 for line in lines)


def test_unknown_weights_are_not_fetched(ggl):
    code, _, errors = ggl("weights", "fetch", "lpips-alex")
    assert code == 2
    assert "did you mean 'lpips-alexnet'" in errors


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GGL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GGL_OFFLINE", "1")
    return tmp_path / "cache"


def test_the_catalog_says_licence_size_and_source_of_every_entry(ggl, empty_cache):
    code, output, _ = ggl("weights", "list")
    assert code == 0
    first, second = output.splitlines()[::2], output.splitlines()[1::2]
    assert all("licence: " in line for line in second)
    found = dict(line.split(maxsplit=1) for line in first)
    assert found["fashion-dcgan32"].split() == ["here", "1.3", "MB", "bundled"]
    assert found["mobilestylegan-ffhq"].split() == [
        *("not", "here", "37.6", "MB", "pypi-file", "random-face==2021.6.9.0"),
    ]
    assert found["stylegan2-ffhq256"].startswith("not here  size unknown  url")


def test_the_licence_is_shown_before_anything_is_downloaded(ggl, empty_cache):
    code, output, errors = ggl("weights", "fetch", "stylegan2-ffhq256")
    assert code == 2
    assert "licence: NVIDIA Source Code License: non-commercial" in output
    assert "GGL_OFFLINE forbids" in errors
    assert not empty_cache.exists()


def test_where_says_the_folder_and_verify_what_is_missing(ggl, empty_cache):
    code, output, _ = ggl("weights", "where", "biggan-deep-256")
    assert (code, output.strip()) == (0, str(empty_cache / "weights" / "biggan-deep-256"))
    code, _, errors = ggl("weights", "verify", "biggan-deep-256")
    assert code == 2
    assert "run ggl weights fetch biggan-deep-256 (234 MB" in errors
    code, output, _ = ggl("weights", "verify")
    assert code == 0
    assert output.splitlines() == [
        f"{name}: every hash as expected"
        for name in (
            "cifar10-gan32",
            "fashion-dcgan32",
            "fashion-flow32",
            "mobilestylegan-exit128",
            "mobilestylegan-exit64",
        )
    ]


@pytest.mark.parametrize("prior", ["digiface-dcgan64", "mobilestylegan-ffhq:size=32", "biggan-deep"])
def test_a_prior_whose_weights_are_not_here_says_what_brings_them(ggl, empty_cache, tmp_path, prior):
    code, _, errors = ggl(
        "audit", "--prior", prior, "--out", tmp_path / "run", "--data", "fashion-mnist-heldout"
    )
    assert code == 2
    assert "run ggl weights fetch" in errors
    assert not (tmp_path / "run").exists()


BROKEN_PRIOR = """
import torch

class Broken:
    latent_dim, image_shape = 3, (1, 2, 2)
    def decode(self, z, labels):
        return z.detach()[:, :1, None, None].expand(-1, 1, 2, 2)
"""


def test_check_prior_says_in_plain_words_what_is_wrong(ggl, tmp_path, monkeypatch):
    (tmp_path / "mybroken.py").write_text(BROKEN_PRIOR)
    monkeypatch.syspath_prepend(tmp_path)
    code, output, errors = ggl("check-prior", "mybroken:Broken")
    assert code == 2
    assert "wrong  images are differentiable in the latents\n" in output
    assert "leave out no_grad, detach and NumPy" in output
    assert "wrong  pixels are in 0 to 1\n" in output
    assert "fails 2 of 11 checks" in errors


def test_check_prior_passes_the_embedded_one(ggl):
    code, output, _ = ggl("check-prior", "fashion-dcgan32")
    assert code == 0
    assert [line.split()[0] for line in output.splitlines()] == ["ok"] * 11


def test_a_prior_report_is_written_and_its_table_printed(ggl, tmp_path):
    code, output, _ = ggl(
        *("prior-report", "fashion-dcgan32", "--out", tmp_path / "run", "--images", 2, "--budget", 16)
    )
    assert code == 0
    assert "fashion-mnist-heldout" in output
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"prior.json", "prior.html", "samples.png", "interpolation.png"} <= names


def test_the_ceilings_budget_is_an_option(ggl, tmp_path):
    code, _, _ = ggl(
        *("audit", "--out", tmp_path / "run", "--images", 1, "--budget", 16, "--ceiling-budget", 8)
    )
    assert code == 0
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]
    assert (settings["budget"], settings["ceiling_budget"]) == (16, 8)
