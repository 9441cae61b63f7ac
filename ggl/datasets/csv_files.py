"""A CSV file of image paths and labels."""

import csv
import io
import re
from pathlib import Path

from ggl.base.errors import InputError
from ggl.datasets.folders import LabeledFiles, classes_of, listed

__all__ = ["find_listed"]

PATHS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "image_file"),
    *("img", "img_path", "image_id"),
)
LABELS = ("label", "labels", "class", "class_id", "label_id", "target", "category", "y", "class_name")
SPLITS = ("split", "subset", "fold", "set")
DELIMITERS = (",", ";", "\t")


def find_listed(path: Path, split: str) -> LabeledFiles:
    """Read the paths and labels that a CSV file lists under a header.

    Paths are relative to the file's folder. Labels are integers, or names that are counted in sorted order.
    Columns are known by their usual names, the first of `PATHS` and of `LABELS` that is there. Where there
    is a column `split`, the rows of that split are taken.

    Raises:
        InputError: no such columns, an empty or unreadable cell, a path that is not there or comes twice.
    """
    header, rows = _rows(path)
    columns = [name.strip().lower() for name in header]
    of_path, of_label = (_column(path, header, columns, names) for names in (PATHS, LABELS))
    of_split = next((columns.index(name) for name in SPLITS if name in columns), None)
    files: dict[Path, str] = {}
    others: set[str] = set()
    for line, cells in rows:
        if len(cells) != len(columns):
            raise InputError(f"{path}, line {line}: expected {len(columns)} cells, found {len(cells)}")
        if of_split is not None and cells[of_split].strip().lower() != split.lower():
            others.add(cells[of_split].strip())
            continue
        file, label = _file(path, line, cells[of_path].strip()), cells[of_label].strip()
        if not label:
            raise InputError(f"{path}, line {line}: expected a label, found an empty cell")
        if file in files:
            raise InputError(f"{path}, line {line}: expected each image once, found {file.name} again")
        files[file] = label
    if not files:
        found = f"only the splits {listed(sorted(others))}; give one as the split" if others else "none"
        raise InputError(f"{path}: expected rows of images of the split {split!r}, found {found}")
    labels = _whole(list(files.values()))
    names = sorted(set(labels))
    numbers, class_names = classes_of(str(path), names)
    number = dict(zip(names, numbers, strict=True))
    return LabeledFiles(list(files), [number[label] for label in labels], max(numbers) + 1, class_names, [])


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_text("utf-8-sig")
        delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file in UTF-8, but it cannot be read ({error})") from error
    if not rows:
        raise InputError(f"{path}: expected a header and rows of paths and labels, found an empty file")
    return rows[0][1], rows[1:]


def _column(path: Path, header: list[str], columns: list[str], names: tuple[str, ...]) -> int:
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise InputError(
            f"{path}: expected a header with a column {names[0]!r} (or {', '.join(names[1:])}), "
            f"found {', '.join(header)}"
        )
    if columns.count(found) > 1:
        raise InputError(f"{path}: expected one column {found!r}, found {columns.count(found)}")
    return columns.index(found)


def _file(path: Path, line: int, text: str) -> Path:
    """Return the file that a cell names; backslashes separate folders where that is how it is found."""
    for name in (text, text.replace("\\", "/")):
        file = path.parent / name
        if text and file.is_file():
            return file
    raise InputError(
        f"{path}, line {line}: expected an image, found no file {text!r} in {path.parent}; "
        "paths are relative to the CSV file's folder"
    )


def _whole(labels: list[str]) -> list[str]:
    """Write integers that a table program made floats of, such as 3.0, as integers again."""
    return [re.sub(r"^(-?[0-9]+)\.0+$", r"\1", label) for label in labels]
