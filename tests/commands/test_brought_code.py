"""Code that users bring: whatever it raises or returns, a command ends well or in one line with code 2."""

import json

import pytest
import torch

from ggl.base.random import GlobalStreams

# The samples of the prior that is brought are noise, which a run says in a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ggl.generators.plausibility.ImplausiblePriorWarning"),
    # Victims are classes that are made within functions, and no worker can have them.
    pytest.mark.filterwarnings("ignore::ggl.attacks.workplace.WorkersWarning"),
]

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, c, k, n):
        super().__init__()
        self.first, self.head = nn.Linear(c * n * n, 16), nn.Linear(16, k)
    def logits(self, x):
        return self.head(torch.tanh(self.first(x.flatten(1))))
    def forward(self, x):
        return self.logits(x)

def with_forward(forward, outputs=None):
    kind = type("Own", (Net,), {"forward": forward})
    return lambda in_channels, num_classes, image_size: kind(in_channels, outputs or num_classes, image_size)

def fail(self, x):
    raise ValueError("not today\\nsecond line")

def fail_in_training(self, x):
    if self.training:
        raise KeyError("train")
    return self.logits(x)

def fail_later(self, x):
    self.passes = getattr(self, "passes", 0) + 1
    if self.passes > 4:
        raise RuntimeError("late")
    return self.logits(x)

plain = with_forward(lambda self, x: self.logits(x))
failing = with_forward(fail)
training = with_forward(fail_in_training)
later = with_forward(fail_later)
pair = with_forward(lambda self, x: (self.logits(x), x))
answer = with_forward(lambda self, x: {"logits": self.logits(x), "images": x})
binary = with_forward(lambda self, x: self.logits(x)[:, 0], 1)
maps = with_forward(lambda self, x: self.logits(x)[..., None])
constant = with_forward(lambda self, x: torch.ones(len(x), 10))
dropout = with_forward(
    lambda self, x: self.head(F.dropout(self.first(x.flatten(1)).tanh(), 0.5, self.training))
)

def small(in_channels, num_classes, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(7, 10))

def factory(in_channels, num_classes, image_size):
    raise OSError("no file")

def own_names(in_channels, num_classes, image_size):
    network = plain(in_channels, num_classes, image_size)
    network.features = nn.Sequential(nn.Linear(3, 3))  # never run, as no part of the contract
    network.loss, network.penalty, network.noise = nn.Identity(), nn.Linear(2, 2), 1.5
    network.batch, network.seed, network.inplace, network.name = "x", None, nn.ReLU(), nn.ReLU()
    return network

def scripted(in_channels, num_classes, image_size):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)))

def raising_loss(logits, labels):
    return logits[:, labels.max() + 99]

def mean_loss(logits, labels):
    return F.cross_entropy(logits, labels)
"""

PARTS = """
import torch
import ggl

class Images:
    latent_dim, image_shape, licence = 16, (1, 32, 32), "CC0-1.0"
    def decode(self, z, labels=None):
        return torch.sigmoid(z).view(-1, 1, 4, 4).repeat(1, 1, 8, 8)

class Failing(Images):
    def decode(self, z, labels=None):
        raise LookupError("no image")

class Halves(Images):
    def decode(self, z, labels=None):
        return super().decode(z)[:, :, :16]

class Never(Images):
    def __init__(self):
        raise RuntimeError("no weights")

class Search(ggl.Strategy):
    def __init__(self, latent_dim: int, *, budget: int, seed: int) -> None:
        super().__init__(latent_dim, 4)
        self.random = torch.Generator().manual_seed(seed)
    def _ask(self):
        return torch.randn(4, self.latent_dim, generator=self.random, dtype=torch.float64)
    def _tell(self, z, loss, gradient=None): ...
    def _state(self): return {}
    def _load(self, state): ...

class NoAsk(Search):
    def _ask(self):
        raise ZeroDivisionError

class NoTell(Search):
    def _tell(self, z, loss, gradient=None):
        raise ValueError("deaf")

class Wide(Search):
    def _ask(self):
        return torch.zeros(4, 3, dtype=torch.float64)

class Share(ggl.Defense):
    name = "share"
    def protect(self, gradients, generator):
        return gradients

class Refuse(Share):
    def protect(self, gradients, generator):
        raise PermissionError("mine")

class Nothing(Share):
    def protect(self, gradients, generator):
        return None

class Blind(Share):
    def adapt(self, observed, attacker, model):
        raise ValueError("blind")
"""

TINY = [
    "--images",
    1,
    "--budget",
    16,
    "--ceiling-budget",
    4,
    "--strategy",
    "random",
    "--prior",
    "own_parts:Images",
]


@pytest.fixture
def audit(ggl, tmp_path, monkeypatch):
    """Run a tiny audit with code of the user's own, and return its exit code, output, errors and folder."""
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    (tmp_path / "own_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out"

    def run(*arguments):
        return *ggl("audit", "--out", out, *TINY, *arguments), out

    yield run
    import sys

    for name in ("own_networks", "own_parts"):
        sys.modules.pop(name, None)


FAILURES = {
    "--victim own_networks:failing": "in eval mode: ValueError: not today (own_networks.py, line 20)",
    "--victim own_networks:training --victim-mode train": "in train mode: KeyError: 'train' (own_net",
    "--victim own_networks:later": "the victim raised RuntimeError: late (own_networks.py, line 30);",
    "--victim own_networks:small": "can't take images of shape (1, 32, 32) in eval mode: RuntimeError: ",
    "--victim own_networks:factory": "victim 'own_networks:factory' raised OSError: no file (own_net",
    "--victim own_networks:pair": "found a tuple of 0 (2, 10), 1 (2, 1, 32, 32); say which are the",
    "--victim own_networks:maps": "expected the victim to return logits (n, classes), found (2, 10, 1)",
    "--victim own_networks:constant": "the victim raised RuntimeError: element 0 of tensors does not",
    "--victim own_networks:binary": "the victim has one output, of which the loss cross-entropy is the",
    "--victim own_networks:scripted": "expected modules of Python, found TorchScript, whose layers",
    "--victim model.pt": "victim 'model.pt': expected a name or package.module:function, found a file",
    "--victim own_networks:plain --loss own_networks:raising_loss": "raising_loss' raised IndexError: ",
    "--victim own_networks:plain --loss hinge": "no loss is named 'hinge'",
    "--prior own_parts:Failing": "LookupError: no image (own_parts.py, line 12), with own_parts:Failing",
    "--prior own_parts:Halves": "prior own_parts:Halves: expected decode to return images (",
    "--prior own_parts:Never": "prior 'own_parts:Never' raised RuntimeError: no weights (own_parts.py",
    "--strategy own_parts:NoAsk": "ZeroDivisionError (own_parts.py, line 34), with ",
    "--strategy own_parts:NoTell": "ValueError: deaf (own_parts.py, line 38), with ",
    "--strategy own_parts:Wide": ", with own_parts:Images, own_parts:Wide; GGL_DEBUG=1 shows the",
    "--defense own_parts:Refuse": "PermissionError: mine (own_parts.py, line 51), with ",
    "--defense own_parts:Nothing": ", with own_parts:Images, own_parts:Nothing; GGL_DEBUG=1 shows the",
    "--defense own_parts:Blind": "ValueError: blind (own_parts.py, line 59), with ",
}


@pytest.mark.parametrize("asked", FAILURES)
def test_it_fails_in_one_line(audit, asked):
    found = GlobalStreams()
    code, _, errors, out = audit(*asked.split())
    *others, line = errors.splitlines()
    assert code == 2
    assert line.startswith("ggl: ")
    assert FAILURES[asked] in line
    assert "Traceback" not in errors
    assert not [other for other in others if not other.startswith("ggl: ")]
    assert not (out / "result.json").exists()
    assert found.moved() <= {"python"}


def test_the_traceback_is_shown_on_request(audit, monkeypatch):
    monkeypatch.setenv("GGL_DEBUG", "1")
    code, _, errors, _ = audit("--victim", "own_networks:failing")
    assert code == 2
    assert errors.startswith("Traceback (most recent call last):")
    assert 'raise ValueError("not today' in errors
    assert errors.splitlines()[-1].startswith("ggl: the victim can't take images")


WORKING = {
    "--victim own_networks:answer": "cross-entropy",
    "--victim own_networks:pair --victim-output 0": "cross-entropy",
    "--victim own_networks:own_names": "cross-entropy",
    "--victim own_networks:plain --loss bce": "bce",
    "--victim own_networks:plain --loss own_networks:mean_loss": "own_networks:mean_loss",
    "--victim own_networks:plain --loss cross-entropy:smoothing=0.1": "cross-entropy:smoothing=0.1",
}


@pytest.mark.parametrize("asked", WORKING)
def test_it_works(audit, asked):
    code, _, errors, out = audit(*asked.split())
    assert code == 0, errors
    result = json.loads((out / "result.json").read_text())
    assert result["settings"]["loss"] == WORKING[asked]
    assert result["results"][0]["label_recovery"]["mean"] == 1.0
    # The attacker's gradient of the private image is the client's.
    (image,) = result["results"][0]["images"]
    assert image["match_of_private"] == pytest.approx(0, abs=1e-5)


def test_one_logit_is_audited(audit, tmp_path, data):
    import numpy as np

    file = tmp_path / "two.npz"
    rows = [int((data.labels == label).nonzero()[k]) for label in (0, 1) for k in range(8)]
    images = (data.images[rows, 0] * 255).round().to(torch.uint8).numpy()
    np.savez(file, images=images, labels=np.repeat([0, 1], 8))
    asked = f"--victim own_networks:binary --loss bce --images 4 --label-rule inferred --data {file}"
    code, _, errors, out = audit(*asked.split())
    assert code == 0, errors
    result = json.loads((out / "result.json").read_text())
    assert result["results"][0]["label_recovery"]["mean"] == 1.0


@pytest.mark.filterwarnings("ignore::ggl.gradients.backends.BackendWarning")
def test_one_command_is_one_result(audit):
    found = []
    for _ in range(2):
        code, _, errors, out = audit(
            "--victim", "own_networks:dropout", "--victim-mode", "train", "--seed", 3
        )
        assert code == 0, errors
        result = json.loads((out / "result.json").read_text())
        del result["timing"]
        found.append(result)
        for file in out.rglob("*"):
            if file.is_file():
                file.unlink()
        torch.rand(3)
    assert found[0] == found[1]
