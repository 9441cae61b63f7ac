"""An audit of real images: what leaks, what does not, and that a kill changes nothing."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import ggl
from ggl.audits import request
from ggl.base.errors import GradientError, InputError, UnknownNameError
from ggl.commands.audit_summary import alike_lines
from ggl.datasets.picking import pick_private
from ggl.gradients import Step, View


@pytest.fixture(scope="module")
def victim():
    return ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=0)


@pytest.fixture(scope="module")
def report(data, prior, victim):
    # Intervals are asked to hold a value, which one in twenty does not: these images stay.
    rows = pick_private(data.labels, 10, seed=0)[:8]
    return ggl.audit(
        victim,
        data.images[rows],
        data.labels[rows],
        prior=prior,
        defenses=["none", "noise:30", "prune:0.99"],
        attackers=["naive", "adaptive"],
        budget=640,
        seed=0,
    )


def cell_of(report, defense, attacker="naive"):
    result = report.to_dict()["results"]
    return next(c for c in result if (c["defense"], c["attacker"]) == (defense, attacker))


@pytest.mark.slow("an audit of eight images that shows something")
def test_an_undefended_gradient_leaks(report):
    cell = cell_of(report, "none")
    assert cell["leaks"]
    assert cell["leak_score"]["low"] > 0
    assert cell["identification"]["mean"] >= 0.5
    assert cell["label_recovery"]["mean"] == 1.0


@pytest.mark.slow("an audit of eight images that shows something")
def test_the_controls_are_at_chance(report):
    cell = cell_of(report, "none")
    for control in ("sibling", "noise"):
        found = cell["controls"][control]
        assert found["identification"]["mean"] <= 0.25
        assert found["identification_percentile"]["low"] < 0.5 < found["identification_percentile"]["high"]
        assert found["leak_score"]["high"] < cell["leak_score"]["low"]


@pytest.mark.slow("an audit of eight images that shows something")
def test_heavy_noise_shows_no_leak(report):
    cell = cell_of(report, "noise:30")
    assert not cell["leaks"]
    assert cell["identification"]["mean"] <= 0.25


@pytest.mark.slow("an audit of eight images that shows something")
def test_reading_the_mask_off_the_zeros_recovers_more(report):
    naive, adaptive = (cell_of(report, "prune:0.99", attacker) for attacker in ("naive", "adaptive"))
    assert adaptive["mse"]["mean"] < naive["mse"]["mean"]


@pytest.mark.slow("an audit of eight images that shows something")
def test_attackers_are_one_where_a_defense_leaves_nothing_to_adapt_to(report):
    pairs = [(c["defense"], c["attacker"]) for c in report.to_dict()["results"]]
    assert pairs == [
        ("none", "naive"),
        ("noise:30", "naive"),
        ("prune:0.99", "naive"),
        ("prune:0.99", "adaptive"),
    ]
    assert [c["attackers_alike"] for c in report.to_dict()["results"]] == [
        ["adaptive", "informed"],
        ["adaptive", "informed"],
        [],
        ["informed"],
    ]
    assert alike_lines(report.to_dict()) == [
        "under none, adaptive would do what naive does: counted once",
        "under noise:30, adaptive would do what naive does: counted once",
    ]


@pytest.mark.slow("an audit with its ceiling")
def test_attackers_are_one_where_the_distance_does_not_see_what_they_do(data, prior):
    victim = ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)
    settings = {"prior": prior, "defenses": ["clip:1"], "attackers": ["naive", "informed"], "budget": 16}
    images, labels = data.images[:1], data.labels[:1]
    for distance, expected in (("cosine", ["naive"]), ("l2", ["naive", "informed"])):
        report = ggl.audit(victim, images, labels, distance=distance, **settings)
        assert [cell.attacker for cell in report.cells] == expected


@pytest.mark.slow("an audit with its ceiling")
def test_few_images_and_no_last_layer_are_undecided(data, prior):
    victim = torch.nn.Sequential(torch.nn.Conv2d(1, 10, 4, stride=4), torch.nn.AdaptiveAvgPool2d(1))
    victim.append(torch.nn.Flatten())
    report = ggl.audit(victim, data.images[:2], data.labels[:2], prior=prior, budget=16)
    (cell,) = report.to_dict()["results"]
    assert cell["verdict"] == "undecided"
    assert cell["label_recovery"]["mean"] == 0.0


@pytest.mark.slow("an audit of eight images that shows something")
def test_the_ceiling_is_above_the_attack(report):
    assert report.to_dict()["ceiling"]["psnr"]["mean"] > cell_of(report, "none")["psnr"]["mean"]


@pytest.mark.slow("an audit of eight images that shows something")
def test_a_saved_report_holds_json_page_and_pictures(report, tmp_path):
    report.save(tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["results"] == json.loads(json.dumps(report.to_dict()["results"]))
    for cell in result["results"]:
        for key in ("leak_score", "identification"):
            assert {"mean", "low", "high", "n"} <= set(cell[key])
            assert all({"mean", "low", "high", "n"} <= set(c[key]) for c in cell["controls"].values())
    assert "data:image/png;base64," in (tmp_path / "out" / "report.html").read_text()
    assert len(list((tmp_path / "out" / "images").glob("*.png"))) == 8 * (2 + 3 * len(result["results"]))


@pytest.mark.slow("an audit with its ceiling")
def test_trained_batch_norm_victims_and_two_strategies(data, prior):
    victim = ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)
    report = ggl.audit(
        victim, data.images[:2], data.labels[:2], prior=prior, strategies=["random", "adam"], budget=16
    )
    cells = report.to_dict()["results"]
    assert [c["strategy"] for c in cells] == ["random", "adam"]
    assert [c["backward_passes"] for c in cells] == [0, 16]


@pytest.fixture
def audited(data, prior, monkeypatch):
    """A short audit of three images, its ceiling too."""
    monkeypatch.setattr(request, "CEILING_BUDGET", 32)
    rows = pick_private(data.labels, 3, seed=0)

    def run(victim, **changes):
        settings = {"prior": prior, "budget": 32, "seed": 0, **changes}
        return ggl.audit(victim, data.images[rows], data.labels[rows], **settings)

    return run


@pytest.fixture(scope="module")
def mlp():
    return ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)


def attackers_of(report, defense):
    return [cell.attacker for cell in report.cells if cell.defense == defense]


def test_an_image_is_attacked_alike_whichever_others_are(audited, victim):
    whole, part = (
        audited(victim, defenses=["noise:0.1"]),
        audited(victim, defenses=["noise:0.1"], only=[2, 0]),
    )
    (all_three,), (two,) = whole.cells, part.cells
    for kind, images in two.images.items():
        assert torch.allclose(images, all_three.images[kind][[2, 0]], atol=1e-4)
    assert torch.equal(part.siblings, whole.siblings[[2, 0]])
    assert torch.equal(part.images, whole.images[[2, 0]])
    for name, scores in two.controls.items():
        assert scores.values["mse"] == pytest.approx(all_three.controls[name].values["mse"][[2, 0]], rel=1e-3)


def test_a_known_ceiling_is_taken_as_it_is(audited, victim, monkeypatch):
    first = audited(victim)
    monkeypatch.setattr(sys.modules["ggl.audits.cells"], "inversion_jobs", None)
    again = audited(victim, ceiling=first.ceiling_images)
    assert again.to_dict()["results"] == first.to_dict()["results"]


def test_the_private_image_matches_its_own_gradient_and_not_a_noisy_one(audited, victim):
    report = audited(victim, defenses=["none", "noise:0.5"], latents="free")
    plain, noisy = report.cells
    assert plain.matches["private"] == pytest.approx(0, abs=1e-6)
    assert (noisy.matches["private"] > 0.1).all()
    losses = [result.loss for result in plain.results["private"]]
    assert plain.matches["attack"] == pytest.approx(losses, rel=1e-3)
    image = report.to_dict()["results"][0]["images"][0]
    assert image["match_of_private"] == plain.matches["private"][0]


@pytest.mark.slow("an audit with its ceiling")
def test_all_is_every_attacker_that_differs(audited, mlp):
    """Informed is adaptive to all three; a victim without noise has nothing to average or match."""
    names = ["none", "soteria:0.8", "precode:16,beta=0.001"]
    report = audited(mlp, defenses=names, attackers=["all"])
    assert attackers_of(report, "none") == ["naive", "analytic"]
    assert attackers_of(report, "soteria:0.8") == ["naive", "adaptive", "drop", "analytic"]
    sampled = ["naive", "matched", "expectation", "ignore", "adaptive", "analytic"]
    assert attackers_of(report, "precode:16,beta=0.001") == sampled


def test_a_cell_says_how_many_passes_an_evaluation_took(audited, victim):
    report = audited(victim, defenses=["none", "cvb:3,channels=4"], attackers=["ignore", "expectation"])
    passes = {(cell.defense, cell.attacker): cell.passes for cell in report.cells}
    name = ggl.load_defense("cvb:3,channels=4").name
    assert passes == {("none", "adaptive"): 1, (name, "ignore"): 1, (name, "expectation"): 4}


def test_the_analytic_attacker_breaks_precode_where_a_linear_layer_comes_first(audited, mlp):
    """And a noise gradient gives it nothing."""
    report = audited(mlp, defenses=["precode"], attackers=["naive", "analytic"])
    naive, analytic = (cell_of(report, "precode:256,beta=0.001", who) for who in ("naive", "analytic"))
    assert (analytic["strategy"], analytic["evaluations"]) == ("closed form", 3)
    assert analytic["identification"]["mean"] == 1.0
    assert analytic["psnr"]["low"] > 80
    assert naive["psnr"]["mean"] < 20
    assert analytic["controls"]["noise"]["psnr"]["mean"] < 12
    assert analytic["controls"]["sibling"]["identification"]["mean"] == 0


def test_the_analytic_attacker_needs_such_a_layer(audited, victim):
    with pytest.raises(
        InputError, match="a victim whose first layer is linear with a bias, such as mlp, for the analytic"
    ):
        audited(victim, attackers=["analytic"])


@pytest.mark.slow("an audit with its ceiling")
def test_an_attacker_that_a_defense_does_not_know_is_adaptive_to_it(audited, victim):
    report = audited(victim, defenses=["prune:0.9", "soteria:0.8"], attackers=["drop"])
    assert attackers_of(report, "prune:0.9") == ["adaptive"]
    assert attackers_of(report, "soteria:0.8") == ["drop"]


def test_a_noise_client_has_no_memory_of_its_sibling(audited, victim):
    """Top-k would send what the sibling's residual holds."""
    met = []

    class Remembers(ggl.Defense):
        name = "remembers"

        def share(self, client, generator):
            met.append(dict(client.memory))
            client.memory["seen"] = client.gradient()
            return client.gradient()

    audited(victim, defenses=[Remembers()])
    assert met
    assert not any(met)


class Odd(torch.nn.Linear):
    """A layer that the layerwise backend does not know."""


class WithOddLayer(ggl.Defense):
    name = "odd"

    def wrap(self, victim, seed=0):
        wrapped = copy.deepcopy(victim)
        odd = Odd(wrapped.fc.in_features, wrapped.fc.out_features)
        odd.load_state_dict(wrapped.fc.state_dict())
        wrapped.fc = odd
        return wrapped

    def protect(self, gradients, generator):
        return dict(gradients)


@pytest.mark.filterwarnings("ignore:scoring by the vmap backend")
def test_every_wrapped_victim_gets_the_backend_that_was_asked_for(audited, victim):
    report = audited(victim, defenses=["none", WithOddLayer()])
    losses = [[image["loss"] for image in cell_of(report, d, "adaptive")["images"]] for d in ("none", "odd")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@dataclasses.dataclass(frozen=True)
class Shift(Step):
    by: torch.Tensor

    def apply(self, gradients):
        return {name: g + self.by.sum() for name, g in gradients.items()}


class Shifted(ggl.Defense):
    """Its informed attacker differs from the adaptive one in the middle of a large tensor."""

    name = "shifted"

    def protect(self, gradients, generator):
        return dict(gradients)

    def adapt(self, observed, attacker, model):
        by = torch.zeros(5000)
        by[2500] = attacker == "informed"
        return View(observed, (Shift(by),))


class Doubled(ggl.Defense):
    """Its attacker changes the target alone."""

    name = "doubled"

    def protect(self, gradients, generator):
        return {name: 2 * g for name, g in gradients.items()}

    def adapt(self, observed, attacker, model):
        return View({name: g / 2 for name, g in observed.items()})


@pytest.mark.slow("an audit with its ceiling")
def test_attackers_that_differ_in_a_tensor_alone_are_two(audited, victim):
    report = audited(victim, defenses=[Shifted(), Doubled()], attackers=["naive", "adaptive", "informed"])
    assert attackers_of(report, "shifted") == ["naive", "adaptive", "informed"]
    assert attackers_of(report, "doubled") == ["naive", "adaptive"]


@pytest.mark.slow("an audit with its ceiling")
def test_the_round_reaches_the_defense(audited, victim):
    """OUTPOST perturbs every gradient of round 0, and of round 10^9 none."""
    first, last = (audited(victim, defenses=["outpost"], round=r, rounds=2 * 10**9) for r in (0, 10**9))
    clean = audited(victim)
    losses = [
        [image["loss"] for image in cell_of(r, d, "adaptive")["images"]]
        for r, d in ((first, "outpost"), (last, "outpost"), (clean, "none"))
    ]
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"defenses": ["prun:0.9"]}, UnknownNameError, "did you mean 'prune'"),
        ({"strategies": ["cmaes"]}, UnknownNameError, "did you mean 'cma-es'"),
        ({"attackers": ["adaptiv"]}, UnknownNameError, "did you mean 'adaptive'"),
        ({"distance": "cosin"}, UnknownNameError, "did you mean 'cosine'"),
        ({"backend": "layer"}, UnknownNameError, "did you mean 'layerwise'"),
        ({"budget": 3}, InputError, "below one generation of 16"),
        ({"defenses": ["clip:1e-44"]}, GradientError, "under clip:1e-44 is zero"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(changes, error, message, data, prior, victim):
    stages = []
    settings = {"budget": 32, **changes}
    with pytest.raises(error, match=message):
        ggl.audit(
            victim,
            data.images[:1],
            data.labels[:1],
            prior=prior,
            progress=lambda *stage: stages.append(stage),
            **settings,
        )
    assert not stages


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.rand(1, 3, 32, 32), [0], r"shape that prior fashion-dcgan32 gives, \(1, 32, 32\)"),
        (torch.rand(1, 1, 32, 32) * 255, [0], r"images in \[0, 1\]"),
        (torch.rand(1, 1, 32, 32), [10], "labels 0 to 9, found 10"),
    ],
)
def test_bad_images_are_refused(images, labels, message, prior, victim):
    with pytest.raises(InputError, match=message):
        ggl.audit(victim, images, torch.tensor(labels), prior=prior, budget=16)


def test_a_dead_victim_is_refused(data, prior):
    victim = ggl.load_victim("mlp", in_channels=1, num_classes=10, image_size=32, seed=0)
    for weight, message in ((0.0, "is zero"), (float("nan"), "not finite")):
        with torch.no_grad():
            for parameter in victim.parameters():
                parameter.fill_(weight)
            victim.fc.bias.copy_(torch.tensor([200.0] + [-200.0] * 9) + weight)
        with pytest.raises(GradientError, match=message):
            ggl.audit(victim, data.images[:1], torch.zeros(1, dtype=torch.int64), prior=prior, budget=16)


PROGRAM = """
import sys, ggl.audits.request, ggl.attacks.search
ggl.attacks.search.CHECKPOINT_SECONDS = 0.0
ggl.audits.request.CEILING_BUDGET = 200
sys.argv = ["ggl", "audit", "--images", "2", "--budget", "96", "--defense", "none", "--defense", "noise:0.1"]
sys.argv += ["--strategy", "cma-es", "--strategy", "adam", "--device", "cpu", *EXTRA]
from ggl.cli import main
main()
"""


def command(*extra):
    return [sys.executable, "-c", f"EXTRA = {list(extra)!r}\n{PROGRAM}"]


def outcome(folder):
    result = json.loads((folder / "result.json").read_text())
    del result["timing"]
    pictures = {p.name: p.read_bytes() for p in (folder / "images").iterdir()}
    return result, pictures


@pytest.mark.slow("kills and resumes")
def test_killed_at_any_moment_and_resumed_the_result_is_identical(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command("--out", str(whole)), check=True, capture_output=True)
    resume: tuple[str, ...] = ()
    for stages in (1, 2, 4):
        run = subprocess.Popen(command("--out", str(killed), *resume), stdout=subprocess.DEVNULL)
        while len(list(killed.glob(".ggl-checkpoints/*.safetensors"))) < stages:
            assert run.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        assert not (killed / "result.json").exists()
        resume = ("--resume",)
    subprocess.run(command("--out", str(killed), "--resume"), check=True, capture_output=True)
    assert outcome(killed) == outcome(whole)
    assert not (killed / ".ggl-checkpoints").exists()
