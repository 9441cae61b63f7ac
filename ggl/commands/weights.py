"""What `ggl weights` does and prints."""

import sys

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

import ggl.generators.published
import ggl.measures.published  # noqa: F401  # both put their entries into the catalog
from ggl.base.weight_files import WeightFiles, weight_catalog

__all__ = ["fetch", "show", "verify", "where"]


def show() -> None:
    """Print every entry of the catalog: whether it is here, its size, source and licence."""
    for name, entry in sorted(weight_catalog.entries.items()):
        here = "here" if entry.is_here else "not here"
        print(f"{name:22} {here:9} {_size(entry):>10}  {entry.source}")
        print(f"{'':22} {entry.about}; licence: {entry.licence}")


def fetch(name: str) -> None:
    """Print the licence, bring what is not here, print the folder."""
    entry = weight_catalog[name]
    if not entry.is_here:
        print(
            f"{name}: {entry.about}\nlicence: {entry.licence}\nfrom {entry.source}, {_size(entry)}",
            flush=True,
        )
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task(name, total=None)
        entry.fetch(lambda done, total: bars.update(task, completed=done, total=total))
    print(entry.folder)


def verify(name: str | None) -> None:
    """Check the hashes of one entry, or of all that are here."""
    here = [entry for _, entry in sorted(weight_catalog.entries.items()) if entry.is_here]
    for entry in here if name is None else [weight_catalog[name]]:
        entry.verify()
        print(f"{entry.name}: every hash as expected")


def where(name: str) -> None:
    """Print the folder of an entry's files."""
    print(weight_catalog[name].folder)


def _size(entry: WeightFiles) -> str:
    size = entry.download_size
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB"
