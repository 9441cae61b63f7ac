"""Losses by name: torch's own numbers, and the user's own functions in all the forms that they have."""

import sys
import types

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import ggl
from ggl.base.errors import InputError, UnknownNameError, UserCodeError
from ggl.victims.catalog import losses
from ggl.victims.losses import load_loss, loss_name, losses_of

N, K = 6, 4
RANDOM = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(N, K, generator=RANDOM, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 1, 1])
SOFT = torch.rand(N, K, generator=RANDOM, dtype=torch.float64)
SOFT = SOFT / SOFT.sum(1, keepdim=True)
MANY = (torch.rand(N, K, generator=RANDOM) < 0.5).double()
ONE_HOT = F.one_hot(LABELS, K).double()
BINARY = torch.tensor([0, 1, 1, 0, 1, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
WEIGHED = "weights=1/2/0.5/3"

REFERENCES = {
    "cross-entropy": F.cross_entropy(LOGITS, LABELS),
    "cross-entropy:smoothing=0.1": F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1),
    "cross-entropy:0.1": F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1),
    f"cross-entropy:{WEIGHED}": F.cross_entropy(LOGITS, LABELS, WEIGHTS),
    f"cross-entropy:smoothing=0.2,{WEIGHED}": F.cross_entropy(LOGITS, LABELS, WEIGHTS, label_smoothing=0.2),
    "bce": F.binary_cross_entropy_with_logits(LOGITS, ONE_HOT),
    "bce:positive=3": F.binary_cross_entropy_with_logits(
        LOGITS, ONE_HOT, pos_weight=torch.tensor(3.0, dtype=torch.float64)
    ),
    "nll": F.nll_loss(LOGITS, LABELS),
    f"nll:{WEIGHED}": F.nll_loss(LOGITS, LABELS, WEIGHTS),
    "mse": F.mse_loss(LOGITS, ONE_HOT),
    "focal:gamma=0": F.cross_entropy(LOGITS, LABELS),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_the_client_s_loss_is_torchs(name):
    found = losses_of(load_loss(name), LOGITS, LABELS).mean()
    torch.testing.assert_close(found, REFERENCES[name])


def test_losses_of_labels_that_are_numbers():
    bce = load_loss("bce")(LOGITS, MANY)
    torch.testing.assert_close(bce.mean(), F.binary_cross_entropy_with_logits(LOGITS, MANY))
    torch.testing.assert_close(load_loss("cross-entropy")(LOGITS, SOFT).mean(), F.cross_entropy(LOGITS, SOFT))
    torch.testing.assert_close(load_loss("nll")(LOGITS.log_softmax(1), SOFT), F.cross_entropy(
        LOGITS, SOFT, reduction="none"
    ))  # fmt: skip
    torch.testing.assert_close(load_loss("mse")(LOGITS, MANY).mean(), F.mse_loss(LOGITS, MANY))


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_of_one_logit_is_torchvisions(gamma):
    logits = LOGITS[:, :1]
    expected = torchvision.ops.sigmoid_focal_loss(logits[:, 0], BINARY.double(), alpha=-1, gamma=gamma)
    torch.testing.assert_close(load_loss(f"focal:gamma={gamma}")(logits, BINARY), expected)


def test_focal_by_hand():
    p = LOGITS.softmax(1)[torch.arange(N), LABELS]
    torch.testing.assert_close(load_loss("focal")(LOGITS, LABELS), -((1 - p) ** 2) * p.log())
    found = load_loss(f"focal:{WEIGHED}")(LOGITS, LABELS)
    torch.testing.assert_close(found, -WEIGHTS[LABELS] * (1 - p) ** 2 * p.log())


def test_one_logit_tells_class_1_from_class_0():
    logits = LOGITS[:, :1]
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], BINARY.double(), reduction="none")
    torch.testing.assert_close(load_loss("bce")(logits, BINARY), expected)
    both = torch.stack([1 - BINARY.double(), BINARY.double()], dim=1)
    torch.testing.assert_close(load_loss("bce")(logits, both), expected)
    torch.testing.assert_close(load_loss("bce")(logits, both[:, 1:]), expected)
    torch.testing.assert_close(load_loss("mse")(logits, BINARY), (logits[:, 0] - BINARY) ** 2)


@pytest.mark.parametrize("name", losses.names())
def test_a_name_loads_itself_again(name):
    assert loss_name(load_loss(name)) == loss_name(load_loss(loss_name(load_loss(name))))
    assert 20 < len(losses.summary(name)) < 90


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crossentropy", "no loss is named 'crossentropy'; did you mean 'cross-entropy'?"),
        ("cross-entropy:smoothing=1", "cross-entropy: expected smoothing from 0 to below 1, found 1"),
        ("cross-entropy:smooth=0.1", "no option of loss cross-entropy is named 'smooth'"),
        ("cross-entropy:weights=a/b", "cross-entropy: expected weights such as 1/2/0.5, found 'a/b'"),
        ("focal:weights=0/1", "focal: expected weights above 0, found '0/1'"),
        ("focal:gamma=-1", "focal: expected gamma to be at least 0, found -1"),
        ("bce:0", "bce: expected positive above 0, found 0"),
        ("mse:2", "loss 'mse:2': expected nothing after the name, found '2'"),
    ],
)
def test_what_does_not_fit_is_one_line(name, message):
    with pytest.raises(InputError) as error:
        load_loss(name)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_weights_are_one_a_class():
    with pytest.raises(
        InputError, match=r"^cross-entropy:weights=1/2: expected 4 weights, one a class, found 2"
    ):
        load_loss("cross-entropy:weights=1/2")(LOGITS, LABELS)


def mean(logits, labels):
    return F.cross_entropy(logits, labels)


def each(logits, labels, alpha: float = 1.0):
    return alpha * F.cross_entropy(logits, labels, reduction="none")


def made():
    return nn.CrossEntropyLoss(label_smoothing=0.1)


def boom(logits, labels):
    raise KeyError("boom")


def columns(logits, labels):
    return logits


@pytest.fixture
def own(monkeypatch):
    module = types.ModuleType("own.losses")
    vars(module).update(mean=mean, each=each, made=made, boom=boom, columns=columns, number=3)
    module.instance = nn.CrossEntropyLoss(WEIGHTS)
    monkeypatch.setitem(sys.modules, "own", types.ModuleType("own"))
    monkeypatch.setitem(sys.modules, "own.losses", module)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own.losses:mean", F.cross_entropy(LOGITS, LABELS)),
        ("own.losses:each", F.cross_entropy(LOGITS, LABELS, reduction="none")),
        ("own.losses:each:alpha=2", 2 * F.cross_entropy(LOGITS, LABELS, reduction="none")),
        ("own.losses:made", F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)),
        ("own.losses:instance", F.cross_entropy(LOGITS, LABELS, WEIGHTS)),
        ("torch.nn:CrossEntropyLoss", F.cross_entropy(LOGITS, LABELS)),
        ("torch.nn:CrossEntropyLoss:label_smoothing=0.1", REFERENCES["cross-entropy:0.1"]),
        ("torch.nn.functional:cross_entropy", F.cross_entropy(LOGITS, LABELS)),
    ],
)
def test_the_user_s_own_in_every_form(own, name, expected):
    loss = ggl.load_loss(name)
    torch.testing.assert_close(losses_of(loss, LOGITS, LABELS), expected)
    assert loss_name(loss) == name


def test_a_function_is_taken_as_it_is():
    assert load_loss(mean) is mean
    assert loss_name(mean).endswith("test_losses:mean")


def test_what_the_user_s_own_does_wrong_is_one_line(own):
    with pytest.raises(
        UserCodeError, match=r"^loss 'own.losses:boom' raised KeyError: 'boom' \(test_losses.py,"
    ):
        load_loss("own.losses:boom")(LOGITS, LABELS)
    with pytest.raises(
        InputError, match=r"expected losses \(6,\), one an image, or one number, found shape \(6, 4\)"
    ):
        losses_of(load_loss("own.losses:columns"), LOGITS, LABELS)
    with pytest.raises(
        InputError, match=r"^loss 'own.losses:number': expected a function of logits and labels"
    ):
        load_loss("own.losses:number")
    with pytest.raises(UnknownNameError, match=r"own.losses has no 'nothing'"):
        load_loss("own.losses:nothing")
