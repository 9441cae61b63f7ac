"""Which images a folder holds and of which classes they are; what else lies in it is passed over by name."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ggl.base.errors import InputError
from ggl.datasets.image_files import is_image

__all__ = ["LabeledFiles", "classes_of", "find_images", "listed"]

SPLITS = ("test", "testing", "val", "valid", "validation", "dev", "eval", "train", "training")
SYSTEM_FOLDERS = {
    *("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found"),
}
MOST_NAMED = 5


class LabeledFiles(NamedTuple):
    """Image files with labels.

    Attributes:
        paths: of the images.
        labels: of each.
        num_classes: how many classes there are.
        class_names: by which the labels were counted; None where the source gives integers, () where it
            knows no classes.
        remarks: a sentence for everything that was passed over or taken for granted.
    """

    paths: list[Path]
    labels: list[int]
    num_classes: int
    class_names: tuple[str, ...] | None
    remarks: list[str]


class _Content(NamedTuple):
    folders: list[Path]
    images: list[Path]
    skipped: list[str]


def find_images(path: Path) -> LabeledFiles:
    """Find one sub-folder of images per class, or images without classes, all labeled 0.

    A class's images may lie in folders within its folder. Labels count the sorted names from 0, or are the
    names where every name is an integer. Hidden files, the system's folders and files that are no images are
    passed over, and remarked.

    Raises:
        InputError: a folder of splits, a folder around the one that is meant, images beside class folders, a
            class without images, or nothing at all.
    """
    content = _look(path)
    if content.folders:
        _check_classes(path, content)
        return _of_classes(path, content)
    if not content.images:
        raise InputError(
            f"{path}: expected one sub-folder of images per class, found "
            f"{f'no image ({listed(content.skipped)})' if content.skipped else 'an empty folder'}"
        )
    remark = f"{path}: images without class folders: all are given the label 0"
    return LabeledFiles(
        content.images,
        [0] * len(content.images),
        1,
        (),
        [remark, *_skipped(path, content.skipped)],
    )


def classes_of(source: str, names: list[str]) -> tuple[list[int], tuple[str, ...] | None]:
    """Return the label of each of the different `names`: their own number, or else their place.

    Raises:
        InputError: two names are one number.
    """
    if not all(re.fullmatch("-?[0-9]+", name) for name in names):
        return list(range(len(names))), tuple(names)
    numbers = [int(name) for name in names]
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            raise InputError(
                f"{source}: expected one name for class {number}, found "
                f"{names[numbers.index(number)]!r} and {names[place]!r}"
            )
    return numbers, None


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _look(folder: Path) -> _Content:
    content = _Content([], [], [])
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: expected a folder, but it cannot be read ({error.strerror})") from error
    for child in children:
        is_folder = child.is_dir()
        if child.name.startswith(".") or (is_folder and child.name.lower() in SYSTEM_FOLDERS):
            content.skipped.append(child.name)
        elif is_folder:
            content.folders.append(child)
        elif is_image(child):
            content.images.append(child)
        else:
            content.skipped.append(child.name)
    return content


def _check_classes(path: Path, content: _Content) -> None:
    folders, names = content.folders, [folder.name for folder in content.folders]
    splits = sorted((n for n in names if n.lower() in SPLITS), key=lambda n: SPLITS.index(n.lower()))
    if len(splits) > 1 or len(splits) == len(names):
        raise InputError(
            f"{path}: expected one sub-folder per class, found the splits {', '.join(sorted(splits))}; "
            f"give one of them: {path / splits[0]}"
        )
    if content.images:
        raise InputError(
            f"{path}: expected one sub-folder per class, found the file {content.images[0].name} beside "
            f"folders ({listed(names)}); move it into the folder of its class"
        )
    inner = _look(folders[0])
    if len(folders) == 1 and inner.folders and not inner.images:
        raise InputError(
            f"{path}: expected one sub-folder per class, found one folder around others "
            f"({listed([folder.name for folder in inner.folders])}); give {folders[0]}"
        )


def _of_classes(path: Path, content: _Content) -> LabeledFiles:
    numbers, class_names = classes_of(str(path), [folder.name for folder in content.folders])
    skipped = list(content.skipped)
    paths: list[Path] = []
    labels: list[int] = []
    deeper: list[str] = []
    for folder, number in zip(content.folders, numbers, strict=True):
        found = _of_one_class(folder, skipped, set())
        paths += found
        labels += [number] * len(found)
        deeper += [str(file.relative_to(path)) for file in found if file.parent != folder]
    remarks = _skipped(path, skipped)
    if deeper:
        remarks.append(
            f"{path}: {len(deeper)} images lie deeper than their class folder and are taken to be of its "
            f"class, such as {deeper[0]}"
        )
    return LabeledFiles(paths, labels, max(numbers) + 1, class_names, remarks)


def _of_one_class(folder: Path, skipped: list[str], above: set[Path]) -> list[Path]:
    """Return a class's images at all depths; a folder that links to one above it is not entered again."""
    content = _look(folder)
    skipped += content.skipped
    images, inside = list(content.images), {*above, folder.resolve()}
    for child in content.folders:
        if child.resolve() not in inside:
            images += _of_one_class(child, skipped, inside)
    if not images and not above:
        found = f"no image ({listed(content.skipped)})" if content.skipped else "an empty folder"
        raise InputError(f"{folder}: expected images of one class, found {found}")
    return images


def _skipped(path: Path, names: list[str]) -> list[str]:
    """Return the remark on what was passed over, if anything was: each name once, and how often."""
    counted = [f"{name} ({count})" if count > 1 else name for name, count in Counter(names).items()]
    return [f"{path}: passed over {len(names)} that are no images: {listed(counted)}"] if names else []
