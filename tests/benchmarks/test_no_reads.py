"""Decoding and comparing never make the host wait for a GPU: no number and no shape is read off a tensor."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ggl.benchmarks.speed.gpu_parts.host_reads import HostReads
from ggl.benchmarks.tools.random_weights import write_biggan, write_stylegan2
from ggl.generators import load_prior
from ggl.gradients.distance import Moments, distance_from_moments, find_distance
from ggl.gradients.view import Clip, View

GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write a small StyleGAN2 and BigGAN-deep-128."""
    folder = tmp_path_factory.mktemp("weights")
    write_stylegan2(folder / "faces.safetensors", 16, 512, 2)
    write_stylegan2(folder / "classes.safetensors", 16, 512, 2, 10)
    return folder


def pretend(prior):
    """Return the prior as it would lie on a GPU: tensors without values, on a device that is not here."""
    for module in prior.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[name] = nn.Parameter(like(tensor), requires_grad=False)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = like(tensor)
    return prior


def like(tensor):
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)


@pytest.mark.parametrize(
    "name",
    [
        *("fashion-dcgan32", "fashion-flow32", "cifar10-gan32"),
        *("stylegan2:{}/faces.safetensors", "stylegan2:{}/classes.safetensors"),
        "stylegan2:{}/faces.safetensors,space=w+,layers=3",
        pytest.param(
            "biggan-deep:128,weights={}/biggan", marks=pytest.mark.slow("makes weights of 50 million numbers")
        ),
    ],
)
def test_images_are_decoded_without_a_read(name, files):
    if "biggan" in name:
        write_biggan(files / "biggan", 128)
    prior = load_prior(name.format(files))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        prior = pretend(prior)
        z, labels = (
            torch.zeros(3, prior.latent_dim, device=GPU),
            torch.zeros(3, dtype=torch.int64, device=GPU),
        )
        with HostReads(GPU) as reads:
            images = prior.decode(z, labels)
        assert images.device.type == "cuda"
        assert images.shape == (3, *prior.image_shape)
        assert not reads.lines


@pytest.mark.parametrize("ignored", [frozenset(), frozenset({"b"})])
@pytest.mark.parametrize("steps", [(), (Clip(1.0),), (Clip({"a": 1.0, "b": 2.0}),)])
def test_distances_are_taken_without_a_read(steps, ignored):
    with FakeTensorMode():
        names, moments = ["a", "b"], Moments(*(torch.zeros(3, 2, device=GPU) for _ in range(3)))
        view = View({name: torch.zeros(4, device=GPU) for name in names}, steps, ignored)
        with HostReads(GPU) as reads:
            found = distance_from_moments(moments, view, names, find_distance("cosine"))
        assert found.shape == (3,)
        assert not reads.lines


def test_a_read_would_be_found():
    with FakeTensorMode(), HostReads(GPU) as reads:
        x = torch.zeros(3, device=GPU)
        torch.zeros(3).to(GPU, non_blocking=True)
        x[torch.zeros(2, dtype=torch.int64, device=GPU)]
        assert not reads.lines
        x.to("cpu")
        torch.zeros(3).to(GPU)
        torch.tensor([0, 1], device=GPU)
        x[torch.tensor([0, 1])]
        with pytest.raises(DataDependentOutputException):
            float(x.sum())
    assert reads.lines.total() == 4
