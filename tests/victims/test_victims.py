"""Every victim: shapes, seeds, weight files, the layers that the layerwise gradients need."""

import inspect
import sys
import types
from collections import Counter

import pytest
import torch
import torchvision
from torch import nn

from ggl.base.errors import InputError, UnknownNameError, WeightsError
from ggl.base.weights import load_tensors, save_tensors
from ggl.victims import load_victim, register_victim, victims
from ggl.victims.vit import Attention

NAMES = ["convnet", "lenet", "mlp", "resnet18", "resnet18-groupnorm", "resnet18-imagenet", "vit"]
HOOKABLE = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


def load(name, in_channels=1, num_classes=10, image_size=32, **options):
    return load_victim(
        name, in_channels=in_channels, num_classes=num_classes, image_size=image_size, **options
    )


def images(n=2, in_channels=1, image_size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, in_channels, image_size, image_size, generator=generator)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def own_code(monkeypatch, function):
    module = types.ModuleType("some_package.networks")
    module.build = function
    monkeypatch.setitem(sys.modules, "some_package", types.ModuleType("some_package"))
    monkeypatch.setitem(sys.modules, "some_package.networks", module)
    return "some_package.networks:build"


def test_all_names_are_registered():
    assert set(NAMES) <= set(victims.names())


@pytest.mark.parametrize("name", NAMES)
def test_summary_is_one_short_line(name):
    summary = inspect.getdoc(victims[name]).splitlines()
    assert len(summary) == 1
    assert 20 < len(summary[0]) < 90


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 32), (3, 36)])
def test_forward_is_the_head_on_the_features(name, in_channels, image_size):
    victim = load(name, in_channels=in_channels, num_classes=7, image_size=image_size)
    x = images(2, in_channels, image_size)
    features, logits = victim.features(x), victim(x)
    assert not victim.training
    assert features.shape == (2, victim.fc.in_features)
    assert logits.shape == (2, 7)
    assert torch.equal(logits, victim.fc(features))
    assert logits[0].sub(logits[1]).abs().max() > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name != "resnet18-imagenet"])
def test_smallest_image(name):
    assert load(name, image_size=8)(images(1, 1, 8)).shape == (1, 10)


@pytest.mark.parametrize("image_size", [9, 30, 31])
@pytest.mark.parametrize("name", ["lenet", "convnet", "resnet18"])
def test_odd_image_sizes(name, image_size):
    assert load(name, image_size=image_size)(images(1, 1, image_size)).shape == (1, 10)


@pytest.mark.parametrize("name", NAMES)
def test_seed_defines_the_weights_and_leaves_the_global_stream_alone(name):
    before = torch.get_rng_state()
    first = load(name, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = load(name, seed=3).state_dict(), load(name, seed=4).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_sits_in_a_hookable_module_used_once_with_the_batch_first(name):
    victim = load(name)
    owners = [module for module in victim.modules() if list(module.parameters(recurse=False))]
    assert all(isinstance(module, HOOKABLE) for module in owners)
    uses, batches = Counter(), set()

    def record(module, arguments, output):
        uses[module] += 1
        batches.update({len(arguments[0]), len(output)})

    for module in owners:
        module.register_forward_hook(record)
    victim(images(3))
    assert uses == Counter(owners)
    assert batches == {3}


@pytest.mark.parametrize("name", NAMES)
def test_no_activation_is_in_place(name):
    assert not any(getattr(module, "inplace", False) for module in load(name).modules())


@pytest.mark.parametrize("name", NAMES)
def test_one_image_does_not_change_another(name):
    victim, x = load(name), images(3)
    torch.testing.assert_close(victim(x)[1:2], victim(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_of_the_gradient(name):
    victim, x = load(name), images(1).requires_grad_()
    loss = nn.functional.cross_entropy(victim(x), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(victim.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(sum(g.square().sum() for g in gradients), x)
    assert second.isfinite().all()
    assert second.abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_weights_round_trip(name, tmp_path):
    saved = load(name, seed=1)
    save_tensors(tmp_path / "w.safetensors", saved.state_dict())
    loaded, x = load(name, seed=2, weights=tmp_path / "w.safetensors"), images()
    assert not torch.equal(load(name, seed=2)(x), saved(x))
    assert torch.equal(loaded(x), saved(x))


def test_weights_of_other_sizes_name_the_first_key_and_both_shapes(tmp_path):
    path = tmp_path / "w.safetensors"
    save_tensors(path, load("mlp", num_classes=5).state_dict())
    with pytest.raises(
        WeightsError, match=r"'fc\.weight': expected float \[10, 200\], found float \[5, 200\]"
    ) as error:
        load("mlp", weights=path)
    assert str(path) in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.bias"), r"'fc\.bias': expected float \[10\], found no such tensor"),
        (lambda t: t.update(extra=torch.ones(3)), r"'extra': expected no such tensor, found float \[3\]"),
        (lambda t: t.update({"fc.bias": torch.ones(10, dtype=torch.int32)}), r"found int32 \[10\]"),
    ],
)
def test_weights_with_other_tensors(tmp_path, change, message):
    tensors = dict(load("mlp").state_dict())
    change(tensors)
    save_tensors(tmp_path / "w.safetensors", tensors)
    with pytest.raises(WeightsError, match=message) as error:
        load("mlp", weights=tmp_path / "w.safetensors")
    one_line(error)


def test_half_precision_weights_are_taken(tmp_path):
    halves = {key: tensor.half() for key, tensor in load("mlp", seed=1).state_dict().items()}
    save_tensors(tmp_path / "w.safetensors", halves)
    loaded = load("mlp", weights=tmp_path / "w.safetensors")
    assert loaded.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.fc.weight, load_tensors(tmp_path / "w.safetensors")["fc.weight"].float())


def test_weights_missing(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read") as error:
        load("mlp", weights=tmp_path / "none.safetensors")
    one_line(error)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lenet", {"image_size": 7}, "victim lenet: expected images of at least 8 pixels, found 7"),
        ("convnet", {"image_size": 4}, "victim convnet: expected images of at least 8"),
        ("mlp", {"image_size": 4}, "victim mlp: expected images of at least 8"),
        ("resnet18", {"image_size": 7}, "victim resnet18: expected images of at least 8"),
        ("resnet18-groupnorm", {"image_size": 7}, "victim resnet18-groupnorm: expected images of at least 8"),
        ("resnet18-imagenet", {"image_size": 31}, "victim resnet18-imagenet: expected images of at least 32"),
        (
            "vit",
            {"image_size": 30},
            "victim vit: expected an image size that is a multiple of 4 pixels, found 30",
        ),
        ("vit", {"image_size": 4}, "victim vit: expected images of at least 8"),
        ("mlp", {"in_channels": 0}, "expected in_channels to be at least 1, found 0"),
        ("mlp", {"num_classes": 0}, "expected num_classes to be at least 1, found 0"),
        ("mlp", {"image_size": -1}, "expected image_size to be at least 1, found -1"),
        ("mlp:3", {}, "victims take no parameter, found '3'"),
    ],
)
def test_sizes_that_a_victim_cannot_take(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        load(name, **options)
    one_line(error)


def test_unknown_name_gives_the_nearest():
    with pytest.raises(UnknownNameError, match="no victim is named 'resnet-18'; did you mean 'resnet18'"):
        load("resnet-18")


def test_a_taken_name_is_refused():
    with pytest.raises(InputError, match="'lenet' is taken"):
        register_victim("lenet")(victims["mlp"])


def test_a_registered_builder_is_loaded_by_name(monkeypatch):
    monkeypatch.setattr(victims, "_entries", dict(victims._entries))

    @register_victim("linear")
    def linear(*, in_channels, num_classes, image_size):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

    assert load("linear", num_classes=4)(images()).shape == (2, 4)


def test_own_code_gets_the_sizes_and_the_seed(monkeypatch):
    calls = []

    def build(*, in_channels, num_classes, image_size):
        calls.append((in_channels, num_classes, image_size))
        return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(image_size**2, num_classes))

    name = own_code(monkeypatch, build)
    before = torch.get_rng_state()
    first, again, other = load(name, seed=1), load(name, seed=1), load(name, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert calls == [(1, 10, 32)] * 3
    assert not first[1].training
    assert torch.equal(first[2].weight, again[2].weight)
    assert not torch.equal(first[2].weight, other[2].weight)


def test_own_code_that_returns_no_module(monkeypatch):
    name = own_code(monkeypatch, lambda *, in_channels, num_classes, image_size: 3)
    with pytest.raises(InputError, match=r"expected an nn\.Module, found int") as error:
        load(name)
    one_line(error)


def test_own_code_of_other_arguments(monkeypatch):
    name = own_code(monkeypatch, lambda width: nn.Linear(width, 2))
    with pytest.raises(InputError, match="keyword arguments in_channels, num_classes, image_size") as error:
        load(name)
    one_line(error)


# Published sizes: McMahan et al., arXiv 1602.05629, section 3 ("199,210 total parameters" for the 2NN,
# "1,663,370 total parameters" for the CNN), on 28-pixel grey images of 10 classes.
@pytest.mark.parametrize(("name", "parameters"), [("mlp", 199_210), ("convnet", 1_663_370)])
def test_published_number_of_parameters(name, parameters):
    victim = load(name, image_size=28)
    assert sum(parameter.numel() for parameter in victim.parameters()) == parameters


def test_lenet_is_the_one_of_the_inversion_papers():
    victim = load("lenet", in_channels=3)
    convolutions = [module for module in victim.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size, c.stride, c.padding) for c in convolutions] == [
        (12, (5, 5), (2, 2), (2, 2)),
        (12, (5, 5), (2, 2), (2, 2)),
        (12, (5, 5), (1, 1), (2, 2)),
    ]
    assert victim.fc.in_features == 768
    for parameter in victim.parameters():
        assert 0.2 < parameter.abs().max() <= 0.5
    values = nn.utils.parameters_to_vector(victim.parameters())
    # 15,826 uniform values of width 1: standard deviation 12^-1/2, five standard errors are 1.8 %.
    assert len(values) == 15_826
    assert values.std().item() == pytest.approx(12**-0.5, rel=0.018)


def test_imagenet_resnet_is_torchvisions():
    theirs = torchvision.models.resnet18(num_classes=10).eval()
    ours = load("resnet18-imagenet", in_channels=3)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(images(2, 3)), theirs(images(2, 3)))


def test_groupnorm_resnet_has_no_batch_norm():
    victim = load("resnet18-groupnorm")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in victim.modules())
    assert sum(isinstance(module, nn.GroupNorm) for module in victim.modules()) == 20


def test_attention_agrees_with_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])
