"""Clients' optimizers: every candidate's update equals a loop of torch.optim and its schedulers."""

import copy

import pytest
import torch
from gradients.models import MODELS, seeded
from torch import nn
from torch.nn import functional as F

import ggl
from ggl.base.errors import InputError, UnknownNameError
from ggl.gradients import GradientOracle, LocalTraining
from ggl.gradients.client_optimizers import CLIENT_OPTIMIZERS, load_client_optimizer

RATE = 0.03
optim, schedulers = torch.optim, torch.optim.lr_scheduler
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, RATE),
    "sgd:momentum=0.9": lambda p: optim.SGD(p, RATE, momentum=0.9),
    "sgd:momentum=0.8,nesterov=1": lambda p: optim.SGD(p, RATE, momentum=0.8, nesterov=True),
    "sgd:weight_decay=0.1": lambda p: optim.SGD(p, RATE, weight_decay=0.1),
    "sgd:weight_decay=0.1,momentum=0.9,nesterov=1": lambda p: optim.SGD(
        p, RATE, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "adam": lambda p: optim.Adam(p, RATE),
    "adam:beta1=0.5,beta2=0.9,eps=0.001,weight_decay=0.1": lambda p: optim.Adam(
        p, RATE, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1
    ),
    "adamw": lambda p: optim.AdamW(p, RATE),
    "adamw:weight_decay=0.3,beta1=0.7": lambda p: optim.AdamW(p, RATE, betas=(0.7, 0.999), weight_decay=0.3),
    "adamw:weight_decay=0": lambda p: optim.AdamW(p, RATE, weight_decay=0.0),
}
SCHEDULES = {
    "schedule=linear": lambda o, k: schedulers.PolynomialLR(o, k, power=1),
    "schedule=cosine": lambda o, k: schedulers.CosineAnnealingLR(o, k),
    "schedule=exponential,gamma=0.8": lambda o, k: schedulers.ExponentialLR(o, 0.8),
    "schedule=step,every=2,gamma=0.5": lambda o, k: schedulers.StepLR(o, 2, 0.5),
    "warmup=4": lambda o, k: schedulers.LinearLR(o, 0.25, 1.0, 3),
}
CLIPS = {
    "clip_norm=0.3": lambda p: nn.utils.clip_grad_norm_(p, 0.3),
    "clip_value=0.01": lambda p: nn.utils.clip_grad_value_(p, 0.01),
}


def made(batch=3):
    random = torch.Generator().manual_seed(7)
    images = torch.rand((3, batch, 3, 8, 8), generator=random, dtype=torch.float64)
    return images, torch.randint(5, (batch,), generator=random)


def trained(model, images, labels, steps, make, schedule=None, clip=None):
    """Train a copy by torch's own optimizer and scheduler, one image a step; return its update."""
    client = copy.deepcopy(model)
    optimizer = make(client.parameters())
    scheduler = None if schedule is None else schedule(optimizer, steps)
    for k in range(steps):
        row = [k % len(images)]
        optimizer.zero_grad()
        F.cross_entropy(client(images[row]), labels[row]).backward()
        if clip is not None:
            clip(client.parameters())
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    after = dict(client.named_parameters())
    return {name: ((p - after[name]) / RATE).detach() for name, p in model.named_parameters()}


def check_all(text, make, steps, schedule=None, clip=None):
    """Compare every candidate's update, by both backends, with the loop's: a distance of zero."""
    model = seeded(MODELS["convolution plain"]).double()
    images, labels = made()
    local = LocalTraining(steps, RATE, batch_size=1, optimizer=text)
    expected = [trained(model, x, labels, steps, make, schedule, clip) for x in images]
    found = GradientOracle(model, local=local).observe(images[0], labels)
    for name, update in found.items():
        torch.testing.assert_close(update, expected[0][name], rtol=1e-5, atol=1e-9)
    size = sum(part.square().sum() for part in expected[0].values())
    for backend in ("sequential", "vmap"):
        oracle = GradientOracle(model, local=local, backend=backend)
        for candidate, update in enumerate(expected):
            scores = oracle.score(images, labels, update)
            assert scores[candidate] / size < 1e-10


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
@pytest.mark.parametrize("text", OPTIMIZERS)
def test_an_optimizer_is_that_of_torch(text, steps):
    check_all(text, OPTIMIZERS[text], steps)


@pytest.mark.slow("every number of steps")
@pytest.mark.parametrize("steps", range(1, 9))
@pytest.mark.parametrize("text", ["sgd:momentum=0.8,nesterov=1", "adam", "adamw:weight_decay=0.3,beta1=0.7"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("clip", CLIPS)
def test_all_of_it_together(text, steps, schedule, clip):
    joined = text + (":" if ":" not in text else ",") + f"{schedule},{clip}"
    check_all(joined, OPTIMIZERS[text], steps, SCHEDULES[schedule], CLIPS[clip])


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_that_of_torch(schedule, steps):
    check_all(f"adamw:{schedule}", OPTIMIZERS["adamw"], steps, SCHEDULES[schedule])


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("text", ["sgd", "adam"])
def test_clipping_is_that_of_torch(text, clip, steps):
    check_all(f"{text}:{clip}", OPTIMIZERS[text], steps, None, CLIPS[clip])


@pytest.mark.parametrize(
    "text", ["adam", "sgd:momentum=0.9,nesterov=1,weight_decay=0.1", "adamw:clip_norm=1"]
)
def test_scores_have_the_derivative_that_differences_show(text):
    model = seeded(MODELS["convolution plain"]).double()
    images, labels = made()
    local = LocalTraining(2, RATE, optimizer=text + ("," if ":" in text else ":") + "schedule=linear")
    target = GradientOracle(model, local=local).observe(images[0], labels)
    x = images[1:2].clone().requires_grad_()
    step = torch.zeros_like(x)
    step[0, 1, 2, 3, 4] = 1e-6
    for backend in ("sequential", "vmap"):
        oracle = GradientOracle(model, local=local, backend=backend)
        (slope,) = torch.autograd.grad(oracle.score(x, labels, target).sum(), x)
        there, back = (oracle.score((x + sign * step).detach(), labels, target) for sign in (1, -1))
        torch.testing.assert_close(slope[0, 1, 2, 3, 4], (there - back)[0] / 2e-6, rtol=1e-3, atol=1e-9)


def test_dead_units_leave_a_finite_slope_under_adam():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    with torch.no_grad():
        model[1].bias[:4] = -100.0
    images, labels = made()
    oracle = GradientOracle(model, local=LocalTraining(2, RATE, optimizer="adam"), backend="vmap")
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(oracle.score(x, labels, oracle.observe(images[0], labels)).sum(), x)
    assert slope.isfinite().all()


def test_one_step_of_adam_is_the_gradients_signs_and_says_so():
    model = seeded(MODELS["convolution plain"]).double()
    images, labels = made()
    local = LocalTraining(1, RATE, optimizer="adam")
    gradient = GradientOracle(model).observe(images[0], labels)
    update = GradientOracle(model, local=local).observe(images[0], labels)
    for name, g in gradient.items():
        large = g.abs() > 1e-4
        torch.testing.assert_close(update[name][large], g[large].sign(), rtol=1e-3, atol=0)
    assert not local.is_gradient
    assert local.cannot_tell == [
        "sizes of the gradient's entries: Adam's first step is their signs, where they are far above 1e-08"
    ]


@pytest.mark.parametrize(
    ("text", "steps", "said"),
    [
        ("sgd", 3, []),
        ("sgd:clip_norm=1", 1, ["the norm of a step's gradient beyond 1"]),
        ("sgd:clip_value=0.1", 4, ["entries of a step's gradient beyond 0.1"]),
        ("sgd:momentum=0.9", 1, ["momentum, which does nothing in the first step"]),
        (
            "sgd:momentum=0.9,nesterov=1",
            1,
            ["Nesterov's momentum from a learning rate 1.9 times as large"],
        ),
        ("adamw", 2, ["a factor of all gradients alike, such as a loss that is summed, not averaged"]),
    ],
)
def test_what_cannot_be_told_is_said(text, steps, said):
    local = LocalTraining(steps, RATE, optimizer=text)
    assert local.cannot_tell == said
    assert local.to_dict()["cannot_tell"] == said
    assert local.to_dict()["optimizer_state"] == "fresh every round"


def test_a_factor_of_the_loss_is_indeed_not_told_by_adam():
    model, (images, labels) = seeded(MODELS["convolution plain"]).double(), made()
    local = LocalTraining(3, RATE, optimizer="adam:eps=1e-12")
    one, ten = (
        GradientOracle(model, local=local, loss=lambda y, t, f=f: f * F.cross_entropy(y, t, reduction="none"))
        for f in (1, 10)
    )
    other = ten.observe(images[0], labels)
    for name, update in one.observe(images[0], labels).items():
        torch.testing.assert_close(update, other[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "text", [*OPTIMIZERS, "adamw:schedule=step,gamma=0.5,every=2,warmup=3,clip_value=0.1"]
)
def test_a_name_loads_what_it_names(text):
    rule, rate = load_client_optimizer(text)
    assert rate is None
    assert load_client_optimizer(rule.name) == (rule, None)
    assert load_client_optimizer(text.replace(":", ",", 1)) == (rule, None)
    assert load_client_optimizer(text + ",lr=0.5") == (rule, 0.5)
    assert rule.kind in CLIENT_OPTIMIZERS


BAD = [
    ("rmsprop", "no client optimizer is named 'rmsprop'; known: sgd, adam, adamw"),
    ("adm", "did you mean 'adam'?"),
    ("adam:momentum=0.9", "no option of client optimizer adam is named 'momentum'"),
    ("adam:beta1=1", "expected beta1 from 0 to below 1, found 1"),
    ("adam:eps=0", "expected eps above 0, found 0"),
    ("sgd:nesterov=1", "expected a momentum above 0 for nesterov"),
    ("sgd:momentum=1", "expected a local momentum from 0 to below 1, found 1"),
    ("sgd:weight_decay=-1", "expected weight_decay at least 0, found -1"),
    ("sgd:clip_norm=0", "expected clip_norm above 0, found 0"),
    ("sgd:clip_norm=1,clip_value=1", "expected clip_norm or clip_value"),
    ("sgd:schedule=cosin", "did you mean 'cosine'?"),
    ("adamw:lr=fast", "expected a number for lr, found 'fast'"),
    ("adamw:lr=0.1", "expected the learning rate as `learning_rate`, found lr=0.1"),
    ("adam:weight_decay=nan", "expected weight_decay at least 0, found nan"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_options_end_in_one_line(text, message):
    with pytest.raises((InputError, UnknownNameError)) as error:
        LocalTraining(2, RATE, optimizer=text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_momentum_is_said_once():
    assert LocalTraining(2, RATE, 0.9).rule == load_client_optimizer("sgd:momentum=0.9")[0]
    for text in ("adam", "sgd:momentum=0.5"):
        with pytest.raises(InputError, match="expected no momentum beside"):
            LocalTraining(2, RATE, 0.9, optimizer=text)


def test_layerwise_refuses_a_step_that_is_no_gradient():
    with pytest.raises(InputError, match="can't take a step of adam, which is not the gradient"):
        GradientOracle(
            seeded(MODELS["group norm"]), backend="layerwise", local=LocalTraining(1, RATE, optimizer="adam")
        )


@pytest.mark.slow("an attack")
def test_an_attack_meets_a_client_that_trains_by_adamw(prior):
    victim = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    local = LocalTraining(4, 1e-3, optimizer="adamw:weight_decay=0.1")
    oracle = GradientOracle(victim, local=local)
    z = prior.sample(1, torch.Generator().manual_seed(0))
    label = torch.tensor([1])
    shared = oracle.observe(prior.decode(z, label), label)
    found = ggl.attack(oracle, shared, label, prior=prior, strategy="adam:starts=2", budget=200)
    assert found.loss < found.history[0][1] / 2
