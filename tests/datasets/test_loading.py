"""Data sets: every source, every fit, and one clear line for everything that is wrong."""

import gzip
import pickle
import struct
import zipfile
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ggl.base.errors import InputError, UnknownNameError
from ggl.benchmarks.tools.make_heldout import choose_rows, write_heldout
from ggl.datasets.fit import fit_images
from ggl.datasets.loading import Dataset, DatasetWarning, load_dataset

HELDOUT = "fashion-mnist-heldout"


def refused(message, spec, error=InputError, **options):
    with pytest.raises(error, match=message) as caught:
        load_dataset(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def save_images(folder, *arrays):
    folder.mkdir(parents=True, exist_ok=True)
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{index}.png")


# The embedded set


def test_heldout_is_a_hundred_of_each_class_padded_to_32():
    dataset = load_dataset(HELDOUT)
    assert (dataset.name, dataset.num_classes) == (HELDOUT, 10)
    assert dataset.images.shape == (1000, 1, 32, 32)
    assert dataset.images.dtype == torch.float32
    assert dataset.labels.dtype == torch.int64
    assert dataset.labels.bincount().tolist() == [100] * 10
    assert dataset.labels[:10].tolist() == list(range(10))
    assert F.pad(dataset.images[..., 2:30, 2:30], (2, 2, 2, 2)).equal(dataset.images)
    assert len(dataset.images.flatten(1).unique(dim=0)) == 1000
    assert float(dataset.images.max()) == 1.0


def test_heldout_fits_other_priors():
    assert load_dataset(HELDOUT, image_shape=(1, 32, 32)).images.shape == (1000, 1, 32, 32)
    assert load_dataset(HELDOUT, image_shape=(3, 36, 36), fit="pad").images.shape == (1000, 3, 36, 36)


def test_heldout_has_one_split():
    refused("expected the split 'test', the only one it has, found 'train'", HELDOUT, split="train")


def test_choice_of_the_heldout_rows():
    labels = np.repeat([1, 0, 2], [5, 4, 6])
    rows = choose_rows(labels, 4, seed=0)
    assert labels[rows].tolist() == [0, 1, 2] * 4
    assert len(set(rows.tolist())) == 12
    assert rows.tolist() == choose_rows(labels, 4, seed=0).tolist()
    assert rows.tolist() != choose_rows(labels, 4, seed=1).tolist()


def test_heldout_file_has_the_same_bytes_each_time(tmp_path):
    images, labels = pixels(1200, 28, 28), np.arange(1200, dtype=np.uint8) % 10
    source = save_npz(tmp_path / "source.npz", test_images=images, test_labels=labels)
    write_heldout(source, tmp_path / "a.npz")
    write_heldout(source, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    rows = choose_rows(labels, 100, seed=0)
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], images[rows])
        np.testing.assert_array_equal(arrays["labels"], labels[rows])


def test_heldout_asset_is_small_and_licensed():
    assets = files("ggl.datasets") / "assets"
    assert len((assets / f"{HELDOUT}.npz").read_bytes()) <= 1_000_000
    assert "Copyright (c) 2017 Zalando SE" in (assets / "fashion-mnist-LICENSE.txt").read_text()


# npz files


def test_npz_of_grey_bytes(tmp_path):
    images = pixels(3, 8, 6)
    dataset = load_dataset(save_npz(tmp_path / "a.npz", images=images, labels=[0, 4, 1]))
    assert dataset.num_classes == 5
    assert dataset.labels.tolist() == [0, 4, 1]
    np.testing.assert_array_equal(dataset.images.numpy(), images[:, None].astype(np.float32) / 255)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f8"])
def test_npz_of_color_floats(tmp_path, dtype):
    images = np.random.default_rng(0).random((3, 8, 6, 3)).astype(dtype)
    dataset = load_dataset(str(save_npz(tmp_path / "a.npz", images=images, labels=np.zeros(3, np.uint8))))
    assert dataset.images.dtype == torch.float32
    np.testing.assert_array_equal(dataset.images.numpy(), images.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("split", ["train", "test"])
def test_npz_as_medmnist_has_it(tmp_path, split):
    arrays = {"train_images": pixels(4, 8, 8), "test_images": pixels(2, 8, 8, seed=1)}
    labels = {"train_labels": np.array([[0], [1], [2], [1]]), "test_labels": np.array([[1], [0]])}
    dataset = load_dataset(save_npz(tmp_path / "a.npz", **arrays, **labels), split=split)
    np.testing.assert_array_equal(dataset.images[:, 0].numpy() * 255, arrays[f"{split}_images"])
    assert dataset.labels.tolist() == labels[f"{split}_labels"][:, 0].tolist()


GOOD = {"images": pixels(3, 8, 8), "labels": np.array([0, 1, 2])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, -1, 2])}, "expected labels in 0 to 999999, found -1"),
        ({"labels": np.array([0, 10**6, 2])}, "expected labels in 0 to 999999, found 1000000"),
        ({"labels": np.array([0, 1])}, "one label for each of 3 images, found labels of the shape 2$"),
        (
            {"labels": np.zeros((3, 14), int)},
            "one label for each of 3 images, found labels of the shape 3x14",
        ),
        ({"labels": np.array([0.0, 1.0, 2.0])}, "expected integer labels, found float64"),
        ({"labels": np.array([True, False, True])}, "expected integer labels, found bool"),
        ({"labels": np.array(["a", "b", "c"])}, "expected integer labels, found <U1"),
        (
            {"images": pixels(3, 8, 8).astype(np.int32)},
            "expected images as uint8 or float in 0 to 1, found int32",
        ),
        (
            {"images": pixels(3, 8, 8).astype(np.float32)},
            "expected pixels in 0 to 1, found [0-9]+ to 2[0-9]+",
        ),
        ({"images": np.full((3, 8, 8), -0.5)}, "expected pixels in 0 to 1, found -0.5 to -0.5"),
        ({"images": np.full((3, 8, 8), np.nan)}, "expected pixels in 0 to 1, found nan"),
        ({"images": pixels(3, 8, 8, 4)}, "with 1 or 3 channels, found the shape 3x8x8x4"),
        (
            {"images": np.full((3, 8, 8), -1.0) * [[[1.0], [-1.0]] * 4]},
            "expected pixels in 0 to 1, found -1 to 1; multiply by 0.5 and add 0.5",
        ),
        ({"images": pixels(3, 8, 8) / 2.0}, "expected pixels in 0 to 1, found .*; divide by 255"),
        ({"images": pixels(3, 8, 8) // 128}, "found 0 and 1 as uint8: .* divided by 255 once too often"),
        ({"images": pixels(3, 8, 8) / 255.0**2}, "found at most 0.003[0-9]+: .* divided by 255 once too"),
        ({"images": pixels(3, 3, 8, 1)}, "channels are told from their height and width, .* 3x3x8x1"),
        (
            {"labels": np.eye(3, dtype=int)},
            "found labels of the shape 3x3; they are one-hot, give labels.arg",
        ),
        ({"images": pixels(3, 64)}, "expected images as n x h x w.* found the shape 3x64"),
        ({"images": pixels(0, 8, 8), "labels": np.zeros(0, int)}, "found the shape 0x8x8"),
        ({"images": np.array([None] * 3)}, "cannot be read .Object arrays cannot be loaded"),
        ({"labels": np.array([{}, {}, {}])}, "cannot be read .Object arrays cannot be loaded"),
    ],
)
def test_npz_with_bad_arrays(tmp_path, change, message):
    path = save_npz(tmp_path / "a.npz", **(GOOD | change))
    assert str(path) in refused(message, path)


def test_npz_without_the_arrays(tmp_path):
    path = save_npz(tmp_path / "a.npz", images=GOOD["images"], y=GOOD["labels"])
    refused("'images' and 'labels' or 'val_images' and 'val_labels', found images, y", path, split="val")


def test_npz_missing(tmp_path):
    refused("cannot be read .*No such file", tmp_path / "a.npz")


@pytest.mark.parametrize("kept", [0, 10, 300, -30])
def test_npz_truncated(tmp_path, kept):
    path = save_npz(tmp_path / "a.npz", **GOOD)
    path.write_bytes(path.read_bytes()[:kept])
    refused("expected an npz file of plain arrays, but it cannot be read", path)


def test_npz_altered(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[120:140] = bytes(20)
    path.write_bytes(content)
    refused("expected an npz file of plain arrays, but it cannot be read", path)


def test_npz_that_is_a_pickle_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Bomb()))
    refused("cannot be read", tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


# Folders


def test_folder_of_named_classes(tmp_path):
    images = pixels(3, 8, 6, 3)
    save_images(tmp_path / "dog", images[1], images[2])
    save_images(tmp_path / "cat", images[0])
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_text("x")
    with pytest.warns(DatasetWarning, match="passed over 2 that are no images: .hidden, .DS_Store$"):
        dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.num_classes == 2
    np.testing.assert_array_equal(dataset.images.permute(0, 2, 3, 1).numpy(), images.astype(np.float32) / 255)


def test_folder_of_integer_classes(tmp_path):
    for label in ("10", "9", "0"):
        save_images(tmp_path / label, pixels(8, 8, seed=int(label)))
    dataset = load_dataset(tmp_path)
    assert sorted(dataset.labels.tolist()) == [0, 9, 10]
    assert dataset.num_classes == 11
    ten = dataset.images[dataset.labels.tolist().index(10), 0].numpy() * 255
    np.testing.assert_array_equal(ten, pixels(8, 8, seed=10))


def test_folder_where_one_name_is_no_integer_counts_the_names(tmp_path):
    for label in ("10", "9", "a"):
        save_images(tmp_path / label, pixels(8, 8))
    assert load_dataset(tmp_path).labels.tolist() == [0, 1, 2]


def test_folder_of_negative_class(tmp_path):
    save_images(tmp_path / "-1", pixels(8, 8))
    save_images(tmp_path / "1", pixels(8, 8))
    refused("expected labels in 0 to 999999, found -1", tmp_path)


@pytest.mark.parametrize("name", ["9223372036854775808", "99999999999999999999"])
def test_folder_of_a_class_beyond_int64(tmp_path, name):
    save_images(tmp_path / name, pixels(8, 8))
    refused(
        "expected (integer labels, found object|labels in 0 to 999999, found 9223372036854775808)", tmp_path
    )


def test_folder_with_a_palette_and_a_transparent_image(tmp_path):
    image = Image.fromarray(pixels(8, 8, 3))
    save_images(tmp_path / "a")
    image.convert("RGBA").save(tmp_path / "a" / "0.png")
    image.convert("P").save(tmp_path / "a" / "1.png")
    dataset = load_dataset(tmp_path)
    assert dataset.images.shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(dataset.images[0].permute(1, 2, 0).numpy() * 255, np.asarray(image))


def test_folder_empty(tmp_path):
    refused("expected one sub-folder of images per class, found an empty folder", tmp_path)


def test_folder_with_an_empty_class(tmp_path):
    save_images(tmp_path / "a", pixels(8, 8))
    (tmp_path / "b").mkdir()
    refused(f"{tmp_path / 'b'}: expected images of one class, found an empty folder", tmp_path)


def test_folder_with_an_image_beside_class_folders(tmp_path):
    save_images(tmp_path, pixels(8, 8))
    save_images(tmp_path / "a", pixels(8, 8))
    refused("expected one sub-folder per class, found the file 0.png beside folders .a.", tmp_path)


def spoil_with_text(folder):
    (folder / "notes.png").write_text("no image")


def spoil_with_part_of_an_image(folder):
    content = (folder / "0.png").read_bytes()
    (folder / "notes.png").write_bytes(content[: len(content) // 2])


def spoil_with_nothing(folder):
    (folder / "notes.png").touch()


@pytest.mark.parametrize("spoil", [spoil_with_text, spoil_with_part_of_an_image, spoil_with_nothing])
def test_folder_with_a_file_that_is_no_image(tmp_path, spoil):
    save_images(tmp_path / "a", pixels(32, 32))
    spoil(tmp_path / "a")
    refused(f"{tmp_path / 'a' / 'notes.png'}: expected an image, but it cannot be read", tmp_path)


@pytest.mark.parametrize(("other", "found"), [((8, 9), "8x9 grey"), ((8, 8, 3), "8x8 RGB")])
def test_folder_of_differing_images(tmp_path, other, found):
    save_images(tmp_path / "a", pixels(8, 8))
    save_images(tmp_path / "b", pixels(*other))
    refused(f"{tmp_path / 'b' / '0.png'}: expected 8x8 grey as 0.png has, found {found}", tmp_path)


# torchvision


def save_mnist(root, images, labels):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (raw / f"{split}-{kind}-ubyte").write_bytes(header + array.tobytes())
            (raw / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_torchvision(tmp_path):
    images = pixels(3, 28, 28)
    save_mnist(tmp_path, images, np.array([3, 0, 9], np.uint8))
    dataset = load_dataset(f"torchvision:FashionMNIST:{tmp_path}")
    assert dataset.num_classes == 10
    assert dataset.labels.tolist() == [3, 0, 9]
    np.testing.assert_array_equal(dataset.images[:, 0].numpy() * 255, images)


def test_torchvision_label_out_of_range(tmp_path):
    save_mnist(tmp_path, pixels(3, 28, 28), np.array([3, 10, 9], np.uint8))
    refused("expected labels in 0 to 9, found 10 at image 1", f"torchvision:FashionMNIST:{tmp_path}")


def test_torchvision_damaged(tmp_path):
    save_mnist(tmp_path, pixels(3, 28, 28), np.array([3, 0, 9], np.uint8))
    (tmp_path / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    refused("expected its files under", f"torchvision:FashionMNIST:{tmp_path}")


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR10", "STL10", "SVHN"])
def test_torchvision_never_downloads(tmp_path, name):
    refused("put them there, ggl does not download them", f"torchvision:{name}:{tmp_path / 'none'}")
    assert not (tmp_path / "none").exists()


def test_torchvision_of_another_name_or_split(tmp_path):
    refused("did you mean 'FashionMNIST'", f"torchvision:FashonMNIST:{tmp_path}", error=UnknownNameError)
    refused("expected torchvision:NAME:ROOT", "torchvision:MNIST")
    refused("expected torchvision:NAME:ROOT", "torchvision:MNIST:")
    refused("split 'train' or 'test', found 'val'", f"torchvision:MNIST:{tmp_path}", split="val")


# Specifications


def test_unknown_name_gives_the_nearest():
    refused(f"did you mean '{HELDOUT}'", "fashion-mnist-heldot", error=UnknownNameError)


@pytest.mark.parametrize("spec", ["no/such/folder", "./none", "pictures.zip"])
def test_missing_path(spec):
    refused("expected a folder of images, an .npz or a .csv file, found no such path", spec)


def test_missing_path_object(tmp_path):
    refused("found no such path", tmp_path / "none")
    refused("no data set is named 'images'.*; and no file or folder of that name is here", "images")
    refused("but it cannot be read .No such file or directory", tmp_path / "none.npz")


def test_file_of_another_kind(tmp_path):
    (tmp_path / "a.zip").write_text("0,1")
    refused("a folder of images, an .npz or a .csv file, found another kind of file", tmp_path / "a.zip")


def test_labels_outside_the_classes():
    with pytest.raises(InputError, match="mine: expected labels in 0 to 1, found 2 at image 1"):
        Dataset("mine", torch.zeros(2, 1, 8, 8), torch.tensor([0, 2]), 2)


def test_dataset_without_images():
    with pytest.raises(InputError, match="mine: expected at least one image, found none"):
        Dataset("mine", torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64), 2)


# Fits


def test_another_shape_is_refused_without_a_fit(tmp_path):
    path = save_npz(tmp_path / "a.npz", **GOOD)
    refused(
        "the images are 1x8x8 and the prior gives 1x32x32; use fit 'pad', 'resize' or 'center-crop'",
        path,
        image_shape=(1, 32, 32),
    )
    refused("the images are 1x8x8 and the prior gives 3x8x8", path, image_shape=(3, 8, 8))


def test_fit_through_load(tmp_path):
    path = save_npz(tmp_path / "a.npz", **GOOD)
    assert load_dataset(path, image_shape=(3, 4, 4), fit="resize").images.shape == (3, 3, 4, 4)
    refused("no fit is named 'crop'; did you mean 'center-crop'", path, image_shape=(1, 4, 4), fit="crop")
    refused("fit 'pad' needs an image_shape to fit to, found none", path, fit="pad")
    refused("expected images of at most 4x4 to pad, found 8x8", path, image_shape=(1, 4, 4), fit="pad")


def test_a_fit_does_not_hide_pixels_out_of_range(tmp_path):
    path = save_npz(tmp_path / "a.npz", **(GOOD | {"images": np.full((3, 8, 8), 2.0)}))
    refused("expected pixels in 0 to 1, found 2 to 2", path, image_shape=(1, 4, 4), fit="resize")


def test_pad_centers_on_zeros():
    images = (torch.rand(2, 1, 4, 5) + 0.1).clamp(max=1)
    padded = fit_images(images, (1, 7, 7), "pad")
    assert padded[..., 1:5, 1:6].equal(images)
    assert int((padded == 0).sum()) == 2 * (49 - 20)


def test_resize_takes_the_mean_of_areas():
    images = torch.rand(2, 3, 8, 4)
    expected = images.unflatten(2, (4, 2)).unflatten(4, (2, 2)).mean((3, 5))
    torch.testing.assert_close(fit_images(images, (3, 4, 2), "resize"), expected)


def test_center_crop_keeps_the_middle():
    images = torch.rand(2, 1, 9, 8)
    assert fit_images(images, (1, 5, 8), "center-crop").equal(images[..., 2:7, :])


@pytest.mark.parametrize("fit", ["pad", "resize", "center-crop"])
def test_a_fit_to_the_same_shape_changes_nothing(fit):
    images = torch.rand(2, 3, 6, 5)
    assert fit_images(images, (3, 6, 5), fit).equal(images)


def test_grey_and_color_convert_both_ways():
    grey = torch.rand(2, 1, 4, 4)
    color = fit_images(grey, (3, 4, 4), "pad")
    assert color.equal(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close(fit_images(color, (1, 4, 4), "pad"), grey)
    green = torch.zeros(1, 3, 1, 1).index_fill(1, torch.tensor(1), 1.0)
    assert fit_images(green, (1, 1, 1), "pad").item() == pytest.approx(0.587)


def test_white_stays_white():
    assert fit_images(torch.ones(1, 3, 7, 7), (1, 3, 3), "resize").equal(torch.ones(1, 1, 3, 3))


@pytest.mark.parametrize(
    ("shape", "fit", "message"),
    [
        ((1, 9, 4), "pad", "at most 9x4 to pad, found 8x8; use fit 'resize' or 'center-crop'"),
        ((1, 9, 4), "center-crop", "at least 9x4 to crop, found 8x8; use fit 'pad' or 'resize'"),
        ((4, 8, 8), "pad", "expected images of 4 channels, found 1; only 1 and 3 convert"),
    ],
)
def test_images_that_a_fit_cannot_take(shape, fit, message):
    with pytest.raises(InputError, match=message):
        fit_images(torch.zeros(1, 1, 8, 8), shape, fit)
