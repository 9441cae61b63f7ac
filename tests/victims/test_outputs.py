"""Victims that return more than logits, or are wrapped, or are no modules of Python."""

import collections
import dataclasses
import warnings

import pytest
import torch
from torch import nn

from ggl.base.errors import InputError
from ggl.victims.outputs import bare_module, with_output

X = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, returned, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head, self.returned = nn.Linear(16, 7), nn.Linear(7, classes), returned

    def forward(self, x):
        hidden = self.hidden(x.flatten(1))
        return self.returned(self.head(hidden), hidden)


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    attentions: torch.Tensor


class ModelOutput(collections.OrderedDict):
    """As that of transformers: a dict whose keys are attributes too."""


class Plain:
    def __init__(self, logits):
        self.logits, self.name = logits, "x"


Named = collections.namedtuple("Named", "logits aux_logits")
UNAMBIGUOUS = {
    "a tensor": lambda z, h: z,
    "a tuple of one": lambda z, h: (z, None),
    "a list of one": lambda z, h: [z],
    "a dict with logits": lambda z, h: {"loss": None, "hidden": h, "logits": z},
    "a dict of one": lambda z, h: {"out": z},
    "a ModelOutput": lambda z, h: ModelOutput(logits=z, hidden_states=(h, h)),
    "a named tuple": Named,
    "a data class": Output,
    "an object": lambda z, h: Plain(z),
}


@pytest.fixture(autouse=True)
def _own_stream():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.mark.parametrize("kind", UNAMBIGUOUS)
def test_logits_are_found(kind):
    expected = Net(lambda z, h: z)(X)
    torch.testing.assert_close(with_output(Net(UNAMBIGUOUS[kind]))(X), expected)


@pytest.mark.parametrize(
    ("returned", "output"),
    [
        (lambda z, h: (h, z), "1"),
        (lambda z, h: {"features": h, "out": z}, "out"),
        (lambda z, h: {"logits": h, "out": z}, "out"),
        (lambda z, h: Output(h, z), "attentions"),
    ],
)
def test_the_output_that_is_named_is_taken(returned, output):
    torch.testing.assert_close(with_output(Net(returned), output)(X), Net(lambda z, h: z)(X))


@pytest.mark.parametrize(
    ("returned", "output", "message"),
    [
        (lambda z, h: (z, h), None, "found a tuple of 0 (3, 5), 1 (3, 7); say which are the logits: output="),
        (lambda z, h: {"a": z, "b": h}, None, "found a dict of a (3, 5), b (3, 7); say which"),
        (lambda z, h: "logits", None, "found a str of no tensor"),
        (lambda z, h: (z, h), "2", "the victim returns no tensor '2', but a tuple of 0 (3, 5), 1 (3, 7)"),
        (lambda z, h: z, "logits", "the victim returns a tensor and no 'logits': leave the output out"),
    ],
)
def test_what_cannot_be_told_is_asked_for(returned, output, message):
    with pytest.raises(InputError) as error:
        with_output(Net(returned), output)(X)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize(
    ("squeeze", "classes"), [(lambda z: z.squeeze(1), 1), (torch.squeeze, 1), (torch.squeeze, 5)]
)
def test_a_missing_dimension_is_put_back(images, squeeze, classes):
    expected = Net(lambda z, h: z, classes)(X[:images])
    found = with_output(Net(lambda z, h: squeeze(z), classes))(X[:images])
    torch.testing.assert_close(found, expected)


def test_wrappers_are_taken_off():
    net = Net(lambda z, h: z)
    assert bare_module(nn.DataParallel(net), "it") is net
    assert bare_module(torch.compile(net), "it") is net


def test_torchscript_is_refused_in_a_line():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(2, 2))
        traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    for module in (scripted, traced, nn.Sequential(nn.Flatten(), scripted)):
        with pytest.raises(InputError, match=r"^it: expected modules of Python, found TorchScript"):
            bare_module(module, "it")
    with pytest.raises(InputError, match=r"^it: expected an nn.Module, found int$"):
        bare_module(3, "it")
