"""Whether images make a captured update is said, and what is likely where they do not."""

import copy
import html
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ggl
from ggl.audits.truth import check_truth
from ggl.base.errors import InputError
from ggl.defenses import Client, load_defense
from ggl.gradients import GradientOracle, LocalTraining

RATE = 0.05
HALF = {torch.float16: 9.8e-4, torch.bfloat16: 7.8e-3, torch.float32: 1.2e-7}


def small_victim():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 10)]
        return nn.Sequential(*body).eval()


@pytest.fixture(scope="module")
def batch(data):
    return data.images[:4], data.labels[:4]


def capture(
    victim,
    images,
    labels,
    *,
    steps,
    size,
    rate=RATE,
    stated=RATE,
    loss=F.cross_entropy,
    dtype=None,
    make=torch.optim.SGD,
):
    """Train as a client does, by torch alone; return the victim and the update as its files give them."""
    trained = copy.deepcopy(victim)
    optimizer = make(trained.parameters(), rate)
    for k in range(steps):
        rows = [(k * size + i) % len(images) for i in range(size)]
        optimizer.zero_grad()
        loss(trained(images[rows]), labels[rows]).backward()
        optimizer.step()
    old, new = (
        {name: p.detach().to(dtype or p.dtype) for name, p in m.named_parameters()} for m in (victim, trained)
    )
    read = copy.deepcopy(victim)
    read.load_state_dict({**victim.state_dict(), **old})
    return read, {name: ((old[name].double() - new[name].double()) / stated).float() for name in old}


def checked(victim, update, images, labels, *, steps, size, stated=RATE, **options):
    local = LocalTraining(steps, stated, batch_size=size)
    return check_truth(victim, images, labels, update, local=local, **options)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("steps", "size"), [(1, 4), (4, 2), (8, 2)])
@pytest.mark.parametrize("rate", [0.1, 0.01])
def test_right_settings_raise_no_doubt(batch, steps, size, training, dtype, rate):
    victim = small_victim().train(training)
    read, update = capture(victim, *batch, steps=steps, size=size, rate=rate, stated=rate, dtype=dtype)
    check = checked(read, update, *batch, steps=steps, size=size, stated=rate, rounding=HALF[dtype])
    assert check.verdict in (("reproduced",) if dtype is torch.float32 else ("reproduced", "hidden"))
    if dtype is torch.float32:
        assert check.distance < 1e-4
        assert check.allowed == pytest.approx(0.02, abs=2e-3)


@pytest.mark.slow("every victim")
@pytest.mark.parametrize("name", ["mlp", "lenet", "convnet", "vit", "resnet18"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_right_settings_raise_no_doubt_on_any_victim(batch, name, training):
    victim = ggl.load_victim(name, in_channels=1, num_classes=10, image_size=32).train(training)
    for steps, size, rate in ((1, 4, 1e-3), (8, 2, 0.05)):
        read, update = capture(victim, *batch, steps=steps, size=size, rate=rate, stated=rate)
        chaotic = name == "resnet18" and training and steps == 8
        check = checked(read, update, *batch, steps=steps, size=size, stated=rate)
        assert check.verdict == ("hidden" if chaotic else "reproduced")


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


def smoothed(logits, labels):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


NORMALIZED = "pixels normalized by mean 0.5 and deviation 0.5, which is [-1, 1]"
SUSPECTS = {
    NORMALIZED: {"pixels": lambda x: 2 * x - 1},
    "pixels from 0 to 255": {"pixels": lambda x: 255 * x, "rate": RATE / 1e4, "stated": RATE / 1e4},
    "pixels divided by 255 once more": {"pixels": lambda x: x / 255},
    "pixels normalized by Fashion-MNIST's mean and deviation": {"pixels": lambda x: (x - 0.286) / 0.353},
    "pixels that were not normalized, where the victim does so by MNIST's mean and deviation": {
        "pixels": lambda x: x * 0.3081 + 0.1307
    },
    "inverted pixels, 1 - x": {"pixels": lambda x: 1 - x},
    "the victim in train mode": {"training": True},
    "a loss that is summed over the minibatch, not averaged": {"loss": summed},
    "cross-entropy with label smoothing 0.1": {"loss": smoothed},
    "8 local steps": {"steps": 8},
    "local steps of 1 image": {"size": 1},
    "its images in the order 0, 2, 1, 3": {"order": [0, 2, 1, 3]},
    "a learning rate 0.25 times the stated one, 0.05": {"stated": 0.2},
    f"{NORMALIZED}, and a learning rate 0.25 times the stated one, 0.05": {
        "pixels": lambda x: 2 * x - 1,
        "stated": 0.2,
    },
}


@pytest.mark.parametrize(("likely", "did"), SUSPECTS.items(), ids=list(SUSPECTS))
def test_the_usual_suspects_are_found(batch, likely, did):
    (images, labels), did, victim = batch, dict(did), small_victim()
    pixels, training = did.pop("pixels", lambda x: x), did.pop("training", False)
    order, stated = did.pop("order", [0, 1, 2, 3]), did.get("stated", RATE)
    trained_on = pixels(images)[order], labels[order]
    settings = {"steps": 4, "size": 2, **did}
    read, update = capture(victim.train(training), *trained_on, **settings)
    check = checked(read.eval(), update, images, labels, steps=4, size=2, stated=stated)
    assert check.verdict == "doubtful"
    assert check.distance > 2 * check.allowed
    assert check.likely[0] == likely
    assert check.lines()[1].startswith(f"likely: {likely}, which reproduces it")


def test_a_wrong_rate_of_one_step_is_a_scale_and_seen(batch):
    read, update = capture(small_victim(), *batch, steps=1, size=4, stated=RATE * 1.03)
    check = checked(read, update, *batch, steps=1, size=4, stated=RATE * 1.03)
    assert (check.verdict, check.cosine) == ("doubtful", pytest.approx(1))
    assert check.distance == pytest.approx(0.03, rel=0.01)
    assert check.likely[0] == "a learning rate 0.9709 times the stated one, 0.05"
    free = checked(read, update, *batch, steps=1, size=4, stated=RATE * 1.03, rate_known=False)
    assert free.verdict == "reproduced"


def test_a_client_that_trained_by_adamw(batch):
    read, update = capture(small_victim(), *batch, steps=4, size=2, make=torch.optim.AdamW)
    for text, verdict in (("adamw", "reproduced"), ("sgd", "doubtful")):
        local = LocalTraining(4, RATE, batch_size=2, optimizer=text)
        check = check_truth(read, *batch, update, local=local)
        assert check.verdict == verdict
    assert "the optimizer adamw" in check.likely


def test_an_order_that_nobody_knows_is_drawn_anew(batch):
    images, labels = batch
    order = [2, 0, 1, 3, 3, 1, 0, 2]
    twice = images[order], labels[order]
    read, update = capture(small_victim(), *twice, steps=4, size=2)
    for slower, verdict in ((1, "reproduced"), (10, "doubtful")):
        local = LocalTraining(4, RATE / slower, batch_size=2, order="copies")
        stated = {name: slower * g for name, g in update.items()}
        check = check_truth(read, images, labels, stated, local=local)
        assert (check.draws > 1, check.verdict) == (True, verdict)


def test_images_that_are_not_the_clients_are_named_as_such(data, batch):
    read, update = capture(small_victim(), *batch, steps=4, size=2)
    check = checked(read, update, data.images[10:14], data.labels[10:14], steps=4, size=2)
    assert check.verdict == "doubtful"
    assert check.likely == []
    assert "usual suspects reproduces it" in check.lines()[1]
    assert "likely these are not the client's images" in check.lines()[1]


def test_what_rounding_hides_is_not_called_reproduced(batch):
    victim = small_victim()
    read, update = capture(victim, *batch, steps=1, size=4, rate=1e-4, stated=1e-4, dtype=torch.bfloat16)
    check = checked(read, update, *batch, steps=1, size=4, stated=1e-4, rounding=HALF[torch.bfloat16])
    assert check.verdict == "hidden"
    assert "cannot be told" in check.lines()[0]


@pytest.mark.parametrize(
    "name", ["clip:1", "prune:0.9", "sign", "noise:0.01", "clip:1+noise:0.001", "qsgd:16"]
)
def test_under_a_defense_what_is_comparable_is_compared(batch, name):
    images, labels = batch
    victim, defense = small_victim(), load_defense(name)
    oracle = GradientOracle(victim)
    said = []
    for pixels in (images, 2 * images - 1):
        shared = defense.share(Client(oracle, pixels, labels), torch.Generator().manual_seed(7))
        check = check_truth(victim, images, labels, shared, defense=name)
        said.append((check.verdict, check.likely[:1]))
        assert (check.draws > 1) == ("noise" in name or "qsgd" in name)
    assert said == [("reproduced", []), ("doubtful", [NORMALIZED])]


def test_noise_that_drowns_the_update_is_said_to_hide_it(batch):
    victim, defense = small_victim(), load_defense("noise:10")
    shared = defense.share(Client(GradientOracle(victim), *batch), torch.Generator().manual_seed(7))
    assert check_truth(victim, *batch, shared, defense="noise:10").verdict == "hidden"


def test_dropout_is_drawn_anew(batch):
    victim = small_victim()
    victim.insert(4, nn.Dropout(0.5))
    victim.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        read, update = capture(victim, *batch, steps=1, size=4)
    check = checked(read, update, *batch, steps=1, size=4)
    assert check.draws > 1
    assert check.verdict != "doubtful"


@pytest.fixture(scope="module")
def audited(data, prior, batch):
    """Audit a captured update with settings that are right, or not."""

    def run(stated, **options):
        read, update = capture(small_victim(), *batch, steps=1, size=4, stated=stated)
        return ggl.audit(
            read,
            *batch,
            prior=prior,
            strategies=["random"],
            budget=20,
            ceiling_budget=10,
            batch_size=4,
            captured=[update],
            decoys=(data.images, data.labels),
            **options,
        )

    return run


def test_an_audit_withholds_scores_unless_it_is_forced(audited, tmp_path):
    right, wrong, forced = audited(RATE), audited(0.2), audited(0.2, force=True)
    for report, verdict in ((right, "reproduced"), (wrong, "doubtful"), (forced, "doubtful")):
        result = report.to_dict()
        withheld = report is wrong
        assert result["truth"]["verdict"] == verdict
        assert result["truth"]["scores_withheld"] is withheld
        (cell,) = result["results"]
        assert (cell["verdict"] == "withheld") is withheld
        assert (cell["leaks"] is None) is withheld
        assert (cell["people"] is None) is withheld
        assert (result["worst_case"][0]["people"] is None) is withheld
        for corrected in (cell["corrected"], cell["corrected"]["table"]):
            assert (corrected["verdict"] == "withheld") is withheld
            assert (corrected["p_value"] is None) is withheld
        assert cell["images"][0]["match_of_private"] == pytest.approx(0, abs=1e-5)
    saved = wrong.save(tmp_path)
    assert saved["results"][0]["leak_score"] | {"n": 1} == {
        **dict.fromkeys(("mean", "low", "high", "p_value")),
        "n": 1,
        "control": saved["results"][0]["leak_score"]["control"],
    }
    page = html.unescape((tmp_path / "report.html").read_text("utf-8"))
    assert "The settings may not be the client's." in page
    assert "Leak scores are withheld" in page
    assert "a learning rate 0.25 times the stated one" in page
    assert json.loads((tmp_path / "result.json").read_text()) == saved


def test_updates_that_are_simulated_are_not_checked(data, prior):
    report = ggl.audit(
        small_victim(), data.images[:1], data.labels[:1], prior=prior, strategies=["random"], budget=20,
        ceiling_budget=10,
    )  # fmt: skip
    assert report.to_dict()["truth"] is None


def test_an_update_of_another_network_is_refused(batch):
    with pytest.raises(InputError, match=r"lacks parameter '0\.weight'"):
        check_truth(small_victim(), *batch, {"weight": torch.zeros(3)})
