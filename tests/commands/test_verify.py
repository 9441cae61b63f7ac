"""`ggl audit --evidence` and `ggl verify`: what is kept, what is found out, and the audit run again."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_update_command import RATE, captured, files  # noqa: F401
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.audits.evidence import Evidence
from ggl.commands.audit import run
from ggl.commands.audit_plan import AuditPlan
from ggl.commands.evidence import EvidenceFile, without_paths
from ggl.commands.evidence_plan import command_of, input_files, options_of, plan_of, with_files
from ggl.commands.verify import verify
from ggl.victims import load_victim

SHORT = {
    "victim": "mlp",
    "data": "fashion-mnist-heldout",
    "prior": "fashion-dcgan32",
    "strategies": ("random",),
    "budget": 16,
    "ceiling_budget": 60,
    "seed": 0,
    "device": "cpu",
}
TYPED = ("--victim", "mlp", "--strategy", "random", "--budget", 16, "--ceiling-budget", 60, "--device", "cpu")


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """The evidence of two images under one defense, and of its page's folder."""
    folder = tmp_path_factory.mktemp("evidence")
    plan = AuditPlan(**SHORT, defenses=("sign",), attackers=("naive",), out=folder / "out", images=2)
    assert run(plan, False, evidence=EvidenceFile(folder / "evidence.zip"))
    return folder / "evidence.zip"


def read(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed_anew(path, into, change):
    """Write evidence whose every hash and copy agrees with a change of its contents."""
    members = read(path)
    run_content, result = (json.loads(members[name]) for name in ("run.json", "result.json"))
    change(run_content, result)
    timing = json.loads(members["timing.json"])["timing"]
    into.write_bytes(Evidence(run_content, result, members["report.html"].decode(), timing, {}).pack())
    return into


def test_what_evidence_holds(evidence):
    members = read(evidence)
    assert set(members) == {
        *("manifest.json", "report.html", "result.json", "run.json", "timing.json", "values.csv"),
    }
    own = json.loads((evidence.parent / "out" / "result.json").read_text())
    kept = json.loads(members["result.json"])
    assert json.loads(members["timing.json"])["timing"] == own.pop("timing")
    assert kept == own
    run_content = json.loads(members["run.json"])
    assert run_content["command"] == (
        "ggl audit --out again --victim mlp --data fashion-mnist-heldout --prior fashion-dcgan32 "
        "--defense sign --attacker naive --images 2 --budget 16 --seed 0 --device cpu --ceiling-budget 60 "
        "--strategy random"
    )
    assert run_content["machine"]["threads"] == 1
    names = run_content["pictures"]["sha256"]
    assert {Path(name).name for name in names} == {
        path.name for path in (evidence.parent / "out" / "images").iterdir()
    }
    text = b"".join(members.values()).decode()
    assert str(evidence.parent) not in text


def test_pictures_are_left_out_unless_they_are_asked_for(evidence):
    page = read(evidence)["report.html"].decode()
    assert "<img" not in page
    assert "data:image/png" not in page
    assert "card.png" not in page
    assert "A copy without its pictures" in page
    assert " s.</caption>" not in page
    assert "data:image/png" in (evidence.parent / "out" / "report.html").read_text()


@pytest.mark.slow("three audits")
def test_the_same_run_is_the_same_bytes_but_for_its_time_killed_and_resumed_too(
    ggl, evidence, tmp_path, monkeypatch
):
    """With pictures; the second run is killed after its searches."""
    audit = ("audit", *TYPED, "--defense", "sign", "--attacker", "naive", "--images", 2)
    out, file = tmp_path / "out", tmp_path / "new" / "evidence.zip"
    options = ("--out", out, "--evidence", file, "--evidence-with-images")
    with monkeypatch.context() as patch:
        patch.setattr("ggl.audits.audit.scored", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(
                AuditPlan(**SHORT, defenses=("sign",), attackers=("naive",), out=out, images=2),
                False,
                evidence=EvidenceFile(file, pictures=True),
            )
    assert not file.exists()
    code, _, errors = ggl(*audit, *options, "--resume")
    assert (code, errors) == (0, "")
    members, first = read(file), read(evidence)
    same = {"result.json", "values.csv"} & {name for name in first if first[name] == members[name]}
    assert "result.json" in same
    run_content, other = json.loads(members["run.json"]), json.loads(first["run.json"])
    assert run_content.pop("pictures")["sha256"] == other.pop("pictures")["sha256"]
    assert run_content == other
    assert {name for name in members if name.startswith("images/")} == {
        f"images/{path.name}" for path in (out / "images").iterdir()
    }
    again = tmp_path / "again.zip"
    code, _, _ = ggl(*audit, "--out", tmp_path / "again", "--evidence", again, "--evidence-with-images")
    assert code == 0
    other = read(again)
    assert {name for name in members if members[name] != other[name]} == {"timing.json"}
    assert ggl("verify", again)[0] == 0


def interrupt(*_):
    raise KeyboardInterrupt


def test_evidence_that_holds(ggl, evidence):
    from ggl.base.files import sha256

    digest = sha256(evidence)
    code, output, errors = ggl("verify", evidence)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == "evidence.zip: 6 members as they were written; figures and settings agree"
    assert lines[1] == f"SHA-256 {digest}"
    assert lines[2].startswith("made by: ggl audit --out again --victim mlp ")
    assert "whoever rewrites everything in agreement is not found out" in output
    code, output, _ = ggl("verify", evidence, "--sha256", digest.upper())
    assert code == 0
    assert f"SHA-256 {digest}, as published" in output
    assert "whoever rewrites" not in output


def test_another_file_than_the_published(ggl, evidence):
    code, output, _ = ggl("verify", evidence, "--sha256", "0" * 64)
    assert code == 3
    assert output.startswith("differs: the file: its SHA-256 is ")
    code, _, errors = ggl("verify", evidence, "--sha256", "0" * 63)
    assert code == 2
    assert "expected 64 hexadecimal digits" in errors


def cell(result):
    return result["results"][0]


REWRITTEN = {
    "a leak score": (
        lambda _, r: [
            leak.update(mean=0.01) for leak in (cell(r)["leak_score"], cell(r)["leak_scores"]["mse"])
        ],
        r"result\.json: results\[0\]\.leak_scores\.mse\.mean: expected -?[0-9.]+ of the means",
    ),
    "the score that stands first": (
        lambda _, r: cell(r)["leak_score"].update(low=0.3),
        r"result\.json: results\[0\]\.leak_score: expected that of mse, found another",
    ),
    "an interval that leaves its figure out": (
        lambda _, r: cell(r)["leak_scores"]["ssim_error"].update(low=5.0, high=6.0),
        r"result\.json: results\[0\]\.leak_scores\.ssim_error: expected .* within its interval",
    ),
    "the control of a score": (
        lambda _, r: cell(r)["leak_scores"]["ssim_error"].update(control="nobody"),
        r"results\[0\]\.leak_scores\.ssim_error\.control: expected '[a-z ]+', of least mean error",
    ),
    "a verdict": (
        lambda _, r: cell(r).update(verdict="no leak shown"),
        r"results\[0\]\.verdict: expected 'undecided' of its figures, found 'no leak shown'",
    ),
    "whether it leaks": (
        lambda _, r: cell(r).update(leaks=True),
        r"results\[0\]\.leaks: expected False of its figures, found True",
    ),
    "an image's error": (
        lambda _, r: cell(r)["images"][0].update(mse=0.9),
        r"results\[0\]\.mse\.mean: expected 0\.[0-9]+, found 0\.[0-9]+",
    ),
    "an image's rank": (
        lambda _, r: cell(r)["images"][0].update(rank=1 + cell(r)["images"][0]["rank"] % 2),
        r"results\[0\]\.identification",
    ),
    "a mean": (
        lambda _, r: cell(r)["psnr"].update(mean=1.0),
        r"results\[0\]\.psnr\.mean: expected ",
    ),
    "a bound": (
        lambda _, r: cell(r)["mse"].update(high=cell(r)["mse"]["high"] * 1.001),
        r"results\[0\]\.mse\.high: expected ",
    ),
    "a control's error": (
        lambda _, r: cell(r)["controls"]["sibling"]["mse"].update(mean=1e-6),
        r"results\[0\]\.leak_scores\.mse\.control: expected 'sibling'",
    ),
    "the ceiling": (
        lambda _, r: r["ceiling"]["mse"].update(mean=1e-6),
        r"results\[0\]\.leak_scores\.mse\.mean: expected ",
    ),
    "a worst case": (
        lambda _, r: r["worst_case"][0].update(attacker="adaptive"),
        r"worst_case\[0\]\.attacker: expected that of sign's strongest cell",
    ),
    "what is said of people": (
        lambda _, r: r["worst_case"][0]["people"].update(said="at least 6 of 6 people are recognizable"),
        r"worst_case\[0\]\.people: expected what sign's cells say, found another",
    ),
    "a defense of the worst case left out": (
        lambda _, r: r["worst_case"].clear(),
        r"worst_case: expected 1 defenses, found 0",
    ),
    "the number of images": (
        lambda _, r: r["settings"].update(images=20),
        r"images is 2 as asked, 20 in the settings",
    ),
    "a setting": (
        lambda _, r: r["settings"].update(budget=20_000),
        r"budget is 16 as asked, 20000 in the settings",
    ),
    "an option": (
        lambda run, _: run["options"].update(seed=1),
        r"run\.json and result\.json: the command is not that of the options",
    ),
    "an option and the command": (
        lambda run, _: (
            run["options"].update(seed=1),
            run.update(command=run["command"].replace("--seed 0", "--seed 1")),
        ),
        r"seed is 1 as asked, 0 in the settings",
    ),
    "the defenses": (
        lambda run, _: (
            run["options"].update(defenses=["sign", "none"]),
            run.update(command=run["command"].replace("--defense sign", "--defense sign --defense none")),
        ),
        r"defenses are sign, none as asked, sign in the figures",
    ),
    "the command": (
        lambda run, _: run.update(command="ggl audit"),
        r"the command is not that of the options",
    ),
    "an option that is none": (
        lambda run, _: run["options"].update(sed=1),
        r"not laid out as ggl writes them .*no option of an audit is named 'sed'",
    ),
    "an option of another kind": (
        lambda run, _: run["options"].update(seed="1"),
        r"not laid out as ggl writes them .*seed: expected .*int.*, found '1'",
    ),
    "figures that are none": (
        lambda _, r: r.update(results=["none"]),
        r"run\.json or result\.json: not laid out as ggl writes them \(TypeError",
    ),
    "versions that are none": (
        lambda _, r: r.update(versions={}),
        r"run\.json or result\.json: not laid out as ggl writes them \(KeyError",
    ),
}


@pytest.mark.parametrize("what", REWRITTEN)
def test_figures_rewritten_in_agreement_with_every_hash_contradict_each_other(
    what, evidence, tmp_path, capsys
):
    change, message = REWRITTEN[what]
    path = signed_anew(evidence, tmp_path / "evidence.zip", change)
    assert not verify(path, published=None, again=False, inputs=(), device=None)
    output = capsys.readouterr().out
    assert output.startswith("differs: ")
    assert re.search(message, output), output


def test_evidence_written_anew_without_a_change_holds(evidence, tmp_path):
    path = signed_anew(evidence, tmp_path / "evidence.zip", lambda run, result: None)
    assert path.read_bytes() == evidence.read_bytes()


def test_a_tampered_member_is_named_and_nothing_else_is_said(ggl, evidence, tmp_path):
    members = read(evidence)
    members["report.html"] = members["report.html"].replace(b"undecided", b"no leak shown")
    with zipfile.ZipFile(tmp_path / "evidence.zip", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    code, output, errors = ggl("verify", tmp_path / "evidence.zip", "--rerun")
    assert (code, errors) == (3, "")
    assert output == "differs: report.html: changed, its SHA-256 is not the manifest's\n"


def test_what_is_no_evidence(ggl, tmp_path):
    (tmp_path / "a.zip").write_text("no archive")
    for arguments in (("verify", tmp_path / "a.zip"), ("verify", tmp_path / "b.zip")):
        code, output, errors = ggl(*arguments)
        assert (code, output) == (2, "")
        assert errors.startswith("ggl: ")
        assert errors.count("\n") == 1


def test_where_evidence_may_go(ggl, tmp_path):
    (tmp_path / "there.zip").write_text("mine")
    out = ("--out", tmp_path / "out")
    for options, message in (
        (("--evidence", tmp_path / "there.zip"), "is there already; choose another name"),
        (("--evidence", tmp_path / "there.zip" / "new.zip"), "expected a folder that can be written to"),
        (("--evidence", tmp_path), "is there already"),
        (("--evidence-with-images",), "says what goes into --evidence: give that too"),
    ):
        code, output, errors = ggl("audit", *out, *options)
        assert (code, output) == (2, "")
        assert message in errors
    assert (tmp_path / "there.zip").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.zip"]


# Run again


def test_an_audit_run_again_has_every_value(ggl, evidence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, errors = ggl("verify", evidence, "--rerun")
    assert (code, errors) == (0, "")
    assert re.search(r"run again on the like: \d{3} values compared, to the last digit", output)
    assert [*tmp_path.iterdir()] == []


def test_figures_that_agree_and_are_not_the_audits_are_found_by_running_it(ggl, evidence, tmp_path):
    """The p-value, which no other figure of the file tells."""

    def change(_, result):
        for leak in (cell(result)["leak_score"], cell(result)["leak_scores"]["mse"]):
            leak["p_value"] = 0.9
        result["worst_case"][0]["leak_score"]["p_value"] = 0.9

    path = signed_anew(evidence, tmp_path / "evidence.zip", change)
    assert ggl("verify", path)[0] == 0
    code, output, _ = ggl("verify", path, "--rerun")
    assert code == 3
    differing = [line for line in output.splitlines() if line.startswith("differs: ")]
    assert [line.partition(": ")[2].partition(":")[0] for line in differing] == [
        "worst_case[0].leak_score.p_value",
        "results[0].leak_score.p_value",
        "results[0].leak_scores.mse.p_value",
    ]
    assert "0.9 in the evidence, " in differing[0]


def test_on_another_machine_means_are_held_against_intervals(ggl, evidence, tmp_path):
    """An error of another size, as if it came of another processor: its interval is not met."""

    def other(run_content, _):
        run_content["machine"]["processor"] = "another"

    code, output, _ = ggl("verify", signed_anew(evidence, tmp_path / "a.zip", other), "--rerun")
    assert code == 0
    assert 'other here: processor: "another" in the evidence, ' in output
    assert "run again on another: means compared with each other's intervals, and verdicts" in output

    def lower(run_content, result):
        other(run_content, result)
        for image in cell(result)["images"]:
            image["psnr"] += 30
        for interval in (cell(result)["psnr"], result["worst_case"][0]["psnr"]):
            interval.update({key: interval[key] + 30 for key in ("mean", "low", "high")})

    code, output, _ = ggl("verify", signed_anew(evidence, tmp_path / "b.zip", lower), "--rerun")
    assert code == 3
    assert re.search(r"differs: results\[0\]\.psnr: \d+.* in the evidence, \d+.* here", output)


def test_a_captured_update_with_its_truth_from_the_command_line(ggl, captured, tmp_path, monkeypatch):  # noqa: F811
    """Gate, evidence, and a rerun with one's own copies; paths of the machine are nowhere in it."""
    update = [*files(captured), "--truth", captured / "truth.npz", "--lr", RATE]
    steps = ["--local-steps", 2, "--local-batch-size", 1, "--strategy", "random", "--budget", 32]
    options = [*update, *steps, "--ceiling-budget", 40, "--device", "cpu"]
    file = tmp_path / "evidence.zip"
    code, output, errors = ggl(
        "audit", "--out", tmp_path / "out", *options, "--evidence", file, "--fail-on", "leaks"
    )
    assert (code, errors) == (3, "")
    assert "gate: 'none' is not decided for leaks: undecided" in output
    members = read(file)
    assert str(captured).encode() not in b"".join(members.values())
    result = json.loads(members["result.json"])
    assert result["settings"]["truth"] == "truth.npz"
    names = ["before.safetensors", "after.safetensors", "truth.npz"]
    assert list(json.loads(members["run.json"])["files"]) == names
    code, _, errors = ggl("verify", file, "--rerun")
    assert code == 2
    assert (
        "before.safetensors: is not there; the audit read it, give --input before.safetensors=PATH" in errors
    )
    code, _, errors = ggl("verify", file, "--rerun", "--input", f"befor.pt={captured}")
    assert code == 2
    assert "no input is named 'befor.pt'; did you mean 'before.safetensors'?" in errors
    monkeypatch.chdir(captured)
    code, output, errors = ggl("verify", file, "--rerun")
    assert (code, errors) == (0, "")
    assert "to the last digit" in output
    mine = [shutil.copy(captured / name, tmp_path / f"my-{name}") for name in names]
    given = [part for name, path in zip(names, mine, strict=True) for part in ("--input", f"{name}={path}")]
    monkeypatch.chdir(tmp_path)
    code, output, errors = ggl("verify", file, "--rerun", *given)
    assert (code, errors) == (0, ""), output
    other = tmp_path / "other.npz"
    np.savez(other, images=np.zeros((2, 32, 32), np.uint8), labels=np.arange(2))
    code, output, _ = ggl("verify", file, "--rerun", *given, "--input", f"truth.npz={other}")
    assert code == 3
    assert re.search("differs: truth.npz: SHA-256 [0-9a-f]{64} in the evidence, [0-9a-f]{64} here", output)
    assert "values compared" not in output


def test_withheld_scores_fail_the_gate_and_are_kept(ggl, captured, tmp_path):  # noqa: F811
    update = [*files(captured), "--truth", captured / "truth.npz", "--lr", 4 * RATE]
    steps = ["--local-steps", 2, "--local-batch-size", 1, "--strategy", "random", "--budget", 32]
    file = tmp_path / "evidence.zip"
    options = [*update, *steps, "--ceiling-budget", 40, "--evidence", file, "--fail-on", "score:0.5"]
    code, output, _ = ggl("audit", "--out", tmp_path / "out", *options)
    assert code == 3
    assert "gate: 'none' is not decided for score:0.5: withheld, the private images do not make" in output
    assert ggl("verify", file)[0] == 0

    def given(_, result):
        cell(result)["leak_scores"]["mse"]["mean"] = 0.5

    code, output, _ = ggl("verify", signed_anew(file, tmp_path / "other.zip", given))
    assert code == 3
    assert "results[0]: expected no scores where they are withheld" in output


@pytest.mark.slow("three audits of two rounds")
def test_rounds_whose_files_have_one_name_and_a_list_of_images(ggl, data, tmp_path, monkeypatch):
    """Every input stands by a name of its own, and images that a list names are compared as loaded."""
    monkeypatch.chdir(tmp_path)
    images, labels = data.images[3:4], data.labels[3:4]
    for r in range(2):
        Path(str(r)).mkdir()
        victim = load_victim("lenet", in_channels=1, num_classes=10, image_size=32, seed=r)
        torch.save(victim.state_dict(), f"{r}/before.pt")
        F.cross_entropy(victim(images), labels).backward()
        torch.optim.SGD(victim.parameters(), lr=RATE).step()
        torch.save(victim.state_dict(), f"{r}/after.pt")
    np.savez("truth.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    Path("list").mkdir()
    for k, image in enumerate(data.images[:24]):
        save_image(image, f"list/{k}.png")
    rows = [f"{k}.png,{label}" for k, label in enumerate(data.labels[:24].tolist())]
    Path("list/images.csv").write_text("\n".join(["path,label", *rows]))
    updates = [part for r in range(2) for part in ("--update", f"{r}/before.pt", f"{r}/after.pt")]
    options = ["--truth", "truth.npz", "--data", "list/images.csv", "--fit", "resize", "--lr", RATE]
    short = ["--strategy", "random", "--budget", 16, "--ceiling-budget", 8, "--device", "cpu"]
    code, _, errors = ggl("audit", "--out", "out", *updates, *options, *short, "--evidence", "e.zip")
    assert (code, errors) == (0, "")
    names = list(json.loads(read("e.zip")["run.json"])["files"])
    assert names == ["before.pt", "after.pt", "(2) before.pt", "(2) after.pt", "images.csv", "truth.npz"]
    paths = ["0/before.pt", "0/after.pt", "1/before.pt", "1/after.pt", "list/images.csv", "truth.npz"]
    given = [part for name, path in zip(names, paths, strict=True) for part in ("--input", f"{name}={path}")]
    code, output, errors = ggl("verify", "e.zip", "--rerun", *given)
    assert (code, errors) == (0, ""), output
    save_image(data.images[30], "list/0.png")
    code, output, _ = ggl("verify", "e.zip", "--rerun", *given)
    assert code == 3
    assert "differs: loaded data: " in output


@pytest.mark.slow("thirteen attacks")
def test_a_captured_update_whose_images_nobody_knows(ggl, captured, tmp_path, monkeypatch):  # noqa: F811
    options = [*files(captured), "--lr", RATE, "--private-labels", "0,1", "--device", "cpu"]
    steps = ["--local-steps", 2, "--local-batch-size", 1, "--strategy", "random", "--budget", 32]
    file = tmp_path / "evidence.zip"
    assert ggl("audit", "--out", tmp_path / "out", *options, *steps, "--evidence", file)[0] == 0
    assert b"<img" not in read(file)["report.html"]
    monkeypatch.chdir(captured)
    code, output, _ = ggl("verify", file, "--rerun")
    assert code == 0
    assert "to the last digit" in output
    for change, message in (
        (lambda r: r.update(match=0.5), r"updates\[0\]: expected the match 0.5, found another"),
        (lambda r: r.update(stands_out=not r["stands_out"]), "stands_out: expected "),
        (lambda r: r.update(settings_doubtful=not r["settings_doubtful"]), "settings_doubtful: expected "),
        (lambda r: r["control_gap"].update(low=0.9), r"control_gap\.low: expected "),
        (lambda r: r["updates"][1].update(match_to_captured=0.9), r"control_gap\.mean: expected "),
        (lambda r: r["updates"][0].update(gap=0.9), r"updates\[0\]\.gap: expected "),
    ):
        path = signed_anew(file, tmp_path / "other.zip", lambda _, result, change=change: change(result))
        code, output, _ = ggl("verify", path)
        assert code == 3
        assert re.search(message, output)


OWN = """
import torch
def tiny(in_channels, num_classes, image_size):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(in_channels * image_size**2, num_classes))
"""


def test_code_of_ones_own_is_not_run_unasked(ggl, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "owncode.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "here")
    file = tmp_path / "evidence.zip"
    victim = ("--victim", "owncode:tiny", *TYPED[2:], "--images", 1)
    code, output, errors = ggl("audit", "--out", tmp_path / "out", *victim, "--evidence", file)
    assert (code, errors) == (0, "")
    monkeypatch.undo()
    del sys.modules["owncode"]
    assert list(json.loads(read(file)["run.json"])["code"]) == ["owncode"]
    code, _, errors = ggl("verify", file, "--rerun")
    assert code == 2
    assert (
        "the module 'owncode', which is not run unasked: read it, and give --input owncode=FILE.py" in errors
    )
    assert "owncode" not in sys.modules
    copied = shutil.copy(tmp_path / "here" / "owncode.py", tmp_path / "owncode.py")
    code, output, errors = ggl("verify", file, "--rerun", "--input", f"owncode={copied}")
    assert (code, errors) == (0, "")
    assert sys.modules.pop("owncode").__file__ == str(copied)
    (tmp_path / "owncode.py").write_text(OWN + "print('executed')\n")
    code, output, _ = ggl("verify", file, "--rerun", "--input", f"owncode={copied}")
    assert code == 3
    assert "differs: module owncode: SHA-256 " in output
    assert "executed" not in output


def test_evidence_that_names_files_by_paths_or_code_by_a_trick_is_not_run(ggl, evidence, tmp_path):
    for change, message in (
        (
            lambda run, r: [o.update(data="/etc/passwd") for o in (run["options"], r["settings"])],
            "/etc/passwd",
        ),
        (lambda run, r: [o.update(data="../x.npz") for o in (run["options"], r["settings"])], "'../x.npz'"),
        (lambda run, r: run["files"].update({"../x": "0" * 64}), "by its name alone, found '../x'"),
        (lambda run, r: run["options"].update(loss="os:system"), "the module 'os', which is not run unasked"),
    ):

        def agreeing(run_content, result, change=change):
            change(run_content, result)
            run_content["command"] = command_of(plan_of(run_content["options"], Path()))

        path = signed_anew(evidence, tmp_path / "evidence.zip", agreeing)
        code, _, errors = ggl("verify", path, "--rerun")
        assert code == 2
        assert message in errors
        assert errors.count("\n") == 1


def test_inputs_need_a_rerun(ggl, evidence):
    code, _, errors = ggl("verify", evidence, "--input", "a=b")
    assert code == 2
    assert "--input and --device say how --rerun is done: give that too" in errors
    code, _, errors = ggl("verify", evidence, "--rerun", "--input", "a")
    assert code == 2
    assert "--input a: expected NAME=PATH" in errors


# The plan without paths


def full_plan(folder):
    folder.mkdir()
    for name in ("server.pt", "truth.npz", "G.pth", "utility.json"):
        (folder / name).write_text(name)
    (folder / "faces" / "a").mkdir(parents=True)
    (folder / "faces" / "a" / "1.png").write_text("one")
    for r in range(2):
        (folder / str(r)).mkdir()
        for name in ("before.pt", "after.pt"):
            (folder / str(r) / name).write_text(f"{name} {r}")
    return AuditPlan(
        **{**SHORT, "data": str(folder / "faces"), "prior": f"own:Net,weights={folder / 'G.pth'},range=tanh"},
        defenses=("clip:4+noise:0.01", "none"),
        attackers=("naive", "adaptive"),
        out=folder / "out",
        images=4,
        victim_weights=f"{folder / 'server.pt'},key=model",
        utility=folder / "utility.json",
        truth=str(folder / "truth.npz"),
        private_labels=(3, 7),
        learning_rate="0.1",
        momentum=0.5,
        batch_statistics=True,
        update=(f"{folder / '0' / 'before.pt'}", f"{folder / '0' / 'after.pt'}"),
        further_updates=((f"{folder / '1' / 'before.pt'},key=net", f"{folder / '1' / 'after.pt'}"),),
    )


def test_a_plan_without_paths_and_back(tmp_path):
    plan = full_plan(tmp_path / "folder")
    found = input_files(plan)
    names = {file.text: file.name for file in found}
    portable = with_files(plan, names)
    options = json.loads(json.dumps(options_of(portable)))
    assert str(tmp_path) not in json.dumps(options)
    assert options["update"] == ["before.pt", "after.pt"]
    assert options["further_updates"] == [["(2) before.pt,key=net", "(2) after.pt"]]
    assert options["prior"] == "own:Net,weights=G.pth,range=tanh"
    assert options["victim_weights"] == "server.pt,key=model"
    assert (options["data"], options["truth"], options["utility"]) == ("faces", "truth.npz", "utility.json")
    texts = {name: text for text, name in names.items()}
    assert with_files(plan_of(options, plan.out), texts) == plan
    assert len({file.sha256 for file in found}) == len(found) == 9
    (tmp_path / "folder" / "faces" / "a" / "1.png").write_text("two")
    changed = {file.name for file, old in zip(input_files(plan), found, strict=True) if file != old}
    assert changed == {"faces"}


def test_a_folder_of_torchvisions_is_named_and_not_read(tmp_path):
    (tmp_path / "root").mkdir()
    given = {**SHORT, "data": f"torchvision:FashionMNIST:{tmp_path / 'root'}"}
    plan = AuditPlan(**given, defenses=("none",), attackers=("naive",), out=tmp_path, images=1)
    (file,) = input_files(plan)
    assert (file.name, file.sha256) == ("root", None)
    assert with_files(plan, {file.text: file.name}).data == "torchvision:FashionMNIST:root"


def test_settings_name_files_and_no_folder_of_the_machine():
    settings = {
        "data": "/home/me/faces",
        "prior": "dcgan:/home/me/G.pth,size=64",
        "update": ["a.pt, SHA-256 0"],
    }
    trained = {"data": "torchvision:CIFAR10:/home/me/data", "test_data": "x/test.npz", "rounds": 3}
    result = {"settings": settings, "utility": {"settings": trained}, "results": []}
    names = {"/home/me/faces": "faces", "/home/me/G.pth": "G.pth", "64": "64"}
    assert without_paths(result, names) == {
        "settings": {"data": "faces", "prior": "dcgan:G.pth,size=64", "update": ["a.pt, SHA-256 0"]},
        "utility": {"settings": {"data": "torchvision:CIFAR10:data", "test_data": "test.npz", "rounds": 3}},
        "results": [],
    }


def test_a_command_asks_for_the_plan_that_it_was_made_of(tmp_path, monkeypatch):
    """The command line's own reading of it, with every kind of option; a space in a name is quoted."""
    import shlex

    from ggl import cli

    plan = full_plan(tmp_path / "a folder")
    asked = []
    monkeypatch.setattr("ggl.commands.audit.run", lambda plan, resume, **_: asked.append(plan) or True)
    monkeypatch.setattr("ggl.cli.check_names", lambda **_: None)
    monkeypatch.setattr("sys.argv", shlex.split(command_of(plan)))
    with pytest.raises(SystemExit):
        cli.main()
    (found,) = asked
    assert options_of(found) == options_of(plan)


def test_the_console_says_where_the_evidence_is_and_its_hash(evidence, capsys, tmp_path):
    packed = Evidence({}, {}, "", None, {})
    EvidenceFile(tmp_path / "new" / "evidence.zip").write(packed, Console())
    printed = capsys.readouterr().out
    assert "evidence.zip" in printed
    assert re.search("its SHA-256, to be published: [0-9a-f]{64}", printed)
