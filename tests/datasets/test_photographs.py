"""Folders and tables of photographs as people have them: right pixels, or one line that names the file."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from ggl.base.errors import InputError
from ggl.datasets.fit import fit_images
from ggl.datasets.image_files import read_image
from ggl.datasets.loading import DatasetWarning, load_dataset

SHAPE = (3, 8, 8)


def random_pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def tensor(pixels):
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).float() / 255


def refused(message, spec, **options):
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(spec, **options)
    assert "\n" not in str(caught.value)


def remarked(spec, **options):
    """Return a data set and the lines that a user reads about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data = load_dataset(spec, **options)
    assert all(w.category is DatasetWarning for w in caught)
    return data, [str(w.message) for w in caught]


# Sizes and color modes


@pytest.mark.parametrize("fit", ["resize", "center-crop"])
def test_every_image_of_a_mixed_folder_is_fitted_by_itself(tmp_path, fit):
    arrays = [random_pixels(8, 11, 3), random_pixels(20, 9), random_pixels(16, 16, 3)]
    for index, array in enumerate(arrays):
        save(tmp_path / "a" / f"{index}.png", array)
    images = load_dataset(tmp_path, image_shape=SHAPE, fit=fit).images
    for image, array in zip(images, arrays, strict=True):
        torch.testing.assert_close(image, fit_images(tensor(array)[None], SHAPE, fit)[0])


def test_mixed_sizes_without_a_fit_name_the_option(tmp_path):
    save(tmp_path / "a" / "0.png", random_pixels(8, 8, 3))
    save(tmp_path / "a" / "1.png", random_pixels(8, 9, 3))
    refused("1.png: expected 8x8 RGB as 0.png has, found 8x9 RGB; images of several sizes .* --fit", tmp_path)
    refused("1.png: expected 8x8 RGB .* --fit", tmp_path, image_shape=SHAPE)


def test_a_fit_that_fails_names_the_file(tmp_path):
    save(tmp_path / "a" / "0.png", random_pixels(8, 8))
    save(tmp_path / "a" / "1.png", random_pixels(9, 8))
    refused(
        "a/1.png: expected images of at most 8x8 to pad, found 9x8", tmp_path, image_shape=SHAPE, fit="pad"
    )


def test_without_channels_asked_for_grey_among_color_becomes_color(tmp_path):
    grey, color = random_pixels(8, 8), random_pixels(9, 9, 3)
    save(tmp_path / "a" / "0.png", grey)
    assert load_dataset(tmp_path, image_shape=(None, 8, 8), fit="resize").images.shape == (1, 1, 8, 8)
    save(tmp_path / "a" / "1.png", color)
    images = load_dataset(tmp_path, image_shape=(None, 8, 8), fit="resize").images
    assert images.shape == (2, 3, 8, 8)
    torch.testing.assert_close(images[0], tensor(grey).expand(3, -1, -1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_color_modes_show_the_same_grey(tmp_path, mode):
    grey = np.kron(np.eye(4, dtype=np.uint8) * 255, np.ones((4, 4), np.uint8))
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    image = Image.fromarray(grey) if mode in ("1", "L", "LA") else Image.fromarray(np.stack([grey] * 3, 2))
    picture = read_image(save(tmp_path / f"a.{suffix}", image.convert(mode)))
    assert len(picture.pixels) == (1 if mode in ("1", "L", "LA") else 3)
    torch.testing.assert_close(picture.pixels, tensor(grey).expand_as(picture.pixels))
    assert not picture.transparent


def test_exif_rotation_is_applied(tmp_path):
    shown = random_pixels(6, 10, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise, to be shown
    path = save(tmp_path / "a.png", np.ascontiguousarray(np.rot90(shown)), exif=exif)
    torch.testing.assert_close(read_image(path).pixels, tensor(shown))


def test_sixteen_bits_are_divided_by_65535_and_the_largest_value_is_said(tmp_path):
    deep = np.array([[0, 1000], [4095, 257]], np.uint16)
    for name in ("a.png", "b.tif"):
        save(tmp_path / "0" / name, deep)
    data, lines = remarked(tmp_path)
    np.testing.assert_allclose(data.images.numpy(), np.stack([deep[None] / 65535] * 2), rtol=1e-6)
    assert lines == [f"{tmp_path}: 2 images of 16 bits: 65535 is white, the largest value found is 4095"]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_deeper_images_are_refused(tmp_path, dtype):
    save(tmp_path / "0" / "a.tif", np.ones((4, 4), dtype))
    refused("a.tif: expected an image of 8 or 16 bits a channel, found mode [IF]; convert", tmp_path)


def test_transparent_pixels_are_put_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 3] = [[0, 255], [51, 255]]
    pixels[1, 1, 0] = 200
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    save(tmp_path / "0" / "a.png", pixels)
    save(tmp_path / "0" / "b.png", palette.resize((2, 2), Image.Resampling.NEAREST), transparency=0)
    data, lines = remarked(tmp_path)
    red = data.images[0, 0] * 255
    assert red.tolist() == [[255, 0], [204, 200]]
    assert (data.images[1, :, 0] * 255).round().int().tolist() == [[255, 40], [255, 50], [255, 60]]
    assert lines == [f"{tmp_path}: 2 images with transparent pixels, put on white: a.png, b.png"]


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.new("L", (4, 4), shade) for shade in (10, 200)]
    (tmp_path / "0").mkdir()
    frames[0].save(tmp_path / "0" / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "0" / "b.tif", save_all=True, append_images=frames[1:])
    data, lines = remarked(tmp_path, image_shape=(1, 4, 4), fit="resize")
    assert (data.images * 255).round().unique().tolist() == [10]
    assert lines == [f"{tmp_path}: 2 files of several frames, the first taken: a.gif, b.tif"]


# What is no image


def test_what_systems_drop_is_passed_over_and_named(tmp_path):
    save(tmp_path / "cat" / "0.png", random_pixels(8, 8))
    save(tmp_path / "__MACOSX" / "cat" / "0.png", random_pixels(8, 8))
    save(tmp_path / ".ipynb_checkpoints" / "0.png", random_pixels(8, 8))
    save(tmp_path / "cat" / ".ipynb_checkpoints" / "0-checkpoint.png", random_pixels(8, 8))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", ".hidden"):
        (tmp_path / "cat" / name).write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "labels.csv").write_text("path,label\n")
    data, lines = remarked(tmp_path)
    assert data.class_names == ("cat",)
    named = ".ipynb_checkpoints (2), __MACOSX, labels.csv, .DS_Store, .hidden"
    assert lines == [f"{tmp_path}: passed over 9 that are no images: {named} and 3 more"]


def test_an_image_without_a_suffix_is_one(tmp_path):
    array = random_pixels(8, 8)
    save(tmp_path / "0" / "picture", array, format="PNG")
    torch.testing.assert_close(load_dataset(tmp_path).images[0], tensor(array))


@pytest.mark.parametrize("name", ["a.heic", "a.svg", "a.DNG"])
def test_images_that_are_not_read_are_not_passed_over(tmp_path, name):
    save(tmp_path / "0" / "0.png", random_pixels(8, 8))
    (tmp_path / "0" / name).write_bytes(b"picture")
    refused(f"{name}: expected a format that is read .* convert the file to PNG", tmp_path)


def cut_short(content):
    return content[: len(content) // 2]


def with_a_broken_exif_entry(content):
    return content[:2] + b"\xff\xe1\x00\x10Exif\0\0MM\0*\xff\xff\xff\xff" + content[2:-200]


@pytest.mark.parametrize("damage", [cut_short, with_a_broken_exif_entry, lambda _: b"", lambda _: b"text"])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "webp"])
def test_a_damaged_image_is_named(tmp_path, damage, suffix):
    buffer = io.BytesIO()
    Image.fromarray(random_pixels(32, 32, 3)).save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / f"a.{suffix}").write_bytes(damage(buffer.getvalue()))
    refused(f"0/a.{suffix}: expected an image, but it cannot be read", tmp_path)


def test_a_decompression_bomb_is_refused_in_a_line(tmp_path, monkeypatch):
    save(tmp_path / "0" / "a.png", random_pixels(16, 16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert load_dataset(tmp_path).images.shape == (1, 1, 16, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    refused("a.png: expected an image of at most 200 pixels, found more", tmp_path)


def test_a_file_for_another_program_is_never_handed_to_it(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    refused("a.png: expected an image, but it cannot be read .no image that is known", tmp_path)


# Folders in folders


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "Test", "other"), ("test",)])
def test_a_folder_of_splits_says_what_to_give(tmp_path, names):
    for name in names:
        save(tmp_path / name / "cat" / "0.png", random_pixels(8, 8))
    splits = [name for name in names if name != "other"]
    given = tmp_path / ("Test" if "Test" in names else splits[-1])
    refused(f"found the splits {', '.join(sorted(splits))}; give one of them: {given}", tmp_path)


def test_a_folder_around_the_one_that_is_meant(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / "pets" / name / "0.png", random_pixels(8, 8))
    refused(f"found one folder around others .cat, dog.; give {tmp_path / 'pets'}$", tmp_path)
    assert load_dataset(tmp_path / "pets").num_classes == 2


def test_images_deeper_in_a_class_folder_are_of_the_class(tmp_path):
    for name in ("n01", "n02"):
        save(tmp_path / name / "images" / "0.png", random_pixels(8, 8))
        (tmp_path / name / "boxes.txt").write_text("0 0 8 8")
    (tmp_path / "n01" / "again").symlink_to(tmp_path / "n01")
    data, lines = remarked(tmp_path)
    assert data.labels.tolist() == [0, 1]
    assert lines == [
        f"{tmp_path}: passed over 2 that are no images: boxes.txt (2)",
        f"{tmp_path}: 2 images lie deeper than their class folder and are taken to be of its class, such as "
        "n01/images/0.png",
    ]


def test_a_class_of_junk_alone_is_empty(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    refused("cat: expected images of one class, found no image .Thumbs.db.", tmp_path)


def test_two_folders_of_one_number(tmp_path):
    for name in ("1", "01"):
        save(tmp_path / name / "0.png", random_pixels(8, 8))
    refused("expected one name for class 1, found '01' and '1'", tmp_path)


def test_one_folder_without_classes(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index}.png", random_pixels(8, 8, seed=index))
    data, lines = remarked(tmp_path)
    assert (data.labels.tolist(), data.num_classes, data.class_names) == ([0, 0, 0], 2, ())
    assert lines == [f"{tmp_path}: images without class folders: all are given the label 0"]


# CSV files


def listing(tmp_path, text):
    for index in range(4):
        save(tmp_path / "images" / f"{index}.png", random_pixels(8, 8, seed=index))
    (tmp_path / "data.csv").write_text(text, "utf-8")
    return tmp_path / "data.csv"


@pytest.mark.parametrize(
    ("text", "labels", "rows"),
    [
        ("path,label\nimages/2.png,3\nimages/0.png,1\n", [3, 1], [2, 0]),
        ("\ufeffFilename;Class\nimages/2.png;dog\nimages/0.png;cat\n", [1, 0], [2, 0]),
        ("x,image,target\n1,images/1.png,1.0\n2,images/3.png,0.0\n\n", [1, 0], [1, 3]),
        ("file_name\tlabel\nimages\\1.png\t5\n", [5], [1]),
        ('path,label\n"images/1.png","a, b"\n', [0], [1]),
        ("path,label,split\nimages/1.png,4,train\nimages/2.png,2,test\n", [2], [2]),
    ],
)
def test_csv(tmp_path, text, labels, rows):
    data = load_dataset(listing(tmp_path, text))
    assert data.labels.tolist() == labels
    assert data.num_classes == max(max(labels) + 1, 2)
    expected = torch.stack([tensor(random_pixels(8, 8, seed=row)) for row in rows])
    torch.testing.assert_close(data.images, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ("images/1.png,0\n", "expected a header with a column 'path' .*, found images/1.png, 0"),
        ("path,kind\nimages/1.png,0\n", "expected a header with a column 'label' .*, found path, kind"),
        ("path,label\n", "expected rows of images of the split 'test', found none"),
        ("path,label,split\nimages/1.png,0,train\n", "found only the splits train; give one as the split"),
        ("path,label\nimages/9.png,0\n", "line 2: expected an image, found no file 'images/9.png' in "),
        ("path,label\nimages/1.png,\n", "line 2: expected a label, found an empty cell"),
        ("path,label\nimages/1.png\n", "line 2: expected 2 cells, found 1"),
        ("path,label\nimages/1.png,0\nimages/1.png,1\n", "line 3: expected each image once, found 1.png"),
        ("path,label\nimages/1.png,-1\n", "expected labels in 0 to 999999, found -1"),
        ('path,label\n"images/1.png,0\n', "expected a CSV file in UTF-8, but it cannot be read"),
    ],
)
def test_csv_that_is_wrong(tmp_path, text, message):
    refused(message, listing(tmp_path, text))


def test_csv_of_another_encoding(tmp_path):
    (tmp_path / "data.csv").write_bytes("path,label\nä.png,0\n".encode("latin-1"))
    refused("expected a CSV file in UTF-8, but it cannot be read", tmp_path / "data.csv")


# npz files


def test_npz_with_channels_first(tmp_path):
    images = random_pixels(5, 3, 8, 6)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(5))
    np.testing.assert_array_equal(load_dataset(tmp_path / "a.npz").images.numpy(), images / np.float32(255))
