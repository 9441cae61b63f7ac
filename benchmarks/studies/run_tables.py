"""Folders of `ggl audit` and `ggl prior-report` as tables, without a picture of anyone.

    python benchmarks/studies/run_tables.py FOLDER [FOLDER ...] --title TITLE --out FILE.md

For results on images that may not be passed on: figures with 95 % intervals, controls, settings.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ggl.base.errors import InputError
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.tables import SPACED, figure_text, markdown_table
from ggl.measures.lpips import LPIPS_NOTE

Json: TypeAlias = Mapping[str, Any]

AUDIT, PRIOR = "result.json", "prior.json"
SHOWN = ("victim", "prior", "data", "fit", "images", "budget", "ceiling_budget", "seed", "device")
MEASURES = {"psnr": "PSNR, dB", "lpips": "LPIPS"}


def audit_table(result: Json) -> str:
    """Return every cell of an audit with its controls, and the ceiling."""
    headings = ("defense", "what", "leak score", "ranked first", *MEASURES.values(), "verdict")
    return markdown_table(headings, _audit_rows(result), SPACED)


def _audit_rows(result: Json) -> Iterator[Sequence[str]]:
    for cell in result["results"]:
        found = {"attack": cell, **cell["controls"]}
        for what, figures in found.items():
            yield (
                cell["defense"],
                f"**{what}**" if what == "attack" else what,
                figure_text(figures.get("leak_score")),
                figure_text(figures["identification"]),
                *_measures(figures),
                cell["verdict"] if what == "attack" else "",
            )
    yield (
        "",
        "ceiling",
        "",
        figure_text(result["ceiling"]["identification"]),
        *_measures(result["ceiling"]),
        "",
    )


def _measures(figures: Json) -> list[str]:
    return [figure_text(figures.get("psnr"), ".1f"), figure_text(figures.get("lpips"), ".3f")]


def prior_table(result: Json) -> str:
    """Return how well a prior inverts each set, beside its controls."""
    headings = ("images", "what", *MEASURES.values(), "gain over the best control, dB")
    return markdown_table(headings, _prior_rows(result), SPACED)


def _prior_rows(result: Json) -> Iterator[Sequence[str]]:
    for name, found in result["sets"].items():
        for what, figures in found["figures"].items():
            first = what == "inversion"
            yield (
                name,
                f"**{what}**" if first else what.replace("_", " "),
                *_measures(figures),
                f"{figure_text(found['gain'], '.1f')}, p = {found['gain']['p_value']:.3f}" if first else "",
            )


def _settings(settings: Json) -> str:
    shown = ((key, settings[key]) for key in SHOWN if settings.get(key) is not None)
    return ", ".join(f"{key} {Path(str(value)).name}" for key, value in shown)


def section(folder: Path) -> str:
    """Return the tables of a folder.

    Raises:
        InputError: no results lie in it.
    """
    parts = [f"## {folder.name}"]
    for name, make in ((AUDIT, audit_table), (PRIOR, prior_table)):
        if (folder / name).is_file():
            result = json.loads((folder / name).read_text())
            parts += [f"{_settings(result['settings'])}.", make(result)]
    if len(parts) == 1:
        raise InputError(f"{folder}: expected {AUDIT} or {PRIOR}, found neither; run ggl audit first")
    return "\n\n".join(parts)


def main() -> None:
    """Read the folders and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--title", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    text = "\n\n".join(section(folder) for folder in options.folders)
    write_atomically(options.out, f"# {options.title}\n\n{LPIPS_NOTE}.\n\n{text}\n".encode())


if __name__ == "__main__":
    main()
