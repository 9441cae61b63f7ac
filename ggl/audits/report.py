"""What an audit found: figures with intervals, as a dictionary and as a folder of files."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor
from torchvision.utils import save_image

from ggl.audits.findings import Cell, _figures, cell_rate, worst_case
from ggl.audits.page import render
from ggl.base.versions import versions
from ggl.base.weights import write_atomically
from ggl.costs.utility_file import costs_of, read_utility
from ggl.measures.leakage import Scores

__all__ = [
    "Report",
]


OWN_PICTURE = re.compile(r"(private|ceiling|cell\d\d-(attack|sibling|noise))-\d{3}\.png")


@dataclass(frozen=True)
class Report:
    """An audit's cells, with the private images (n, c, h, w), their labels (n,) and the ceiling.

    Attributes:
        siblings: (n, c, h, w), the other images of their classes that the sibling control attacks.
        utility: what utility.json of `ggl utility` holds; see `with_utility`.
    """

    settings: Mapping[str, object]
    images: Float[Tensor, "n c h w"]
    labels: Int[Tensor, " n"]
    siblings: Float[Tensor, "n c h w"]
    ceiling_images: Float[Tensor, "n c h w"]
    ceiling: Scores
    cells: Sequence[Cell]
    seconds: float
    utility: Mapping[str, object] | None = None

    def with_utility(self, source: str | Path | Mapping[str, object]) -> "Report":
        """Return the report beside what its defenses cost, from a utility.json or its content.

        Raises:
            InputError: it cannot be read, is not what `ggl utility` writes, or is of another victim.
        """
        return replace(self, utility=read_utility(source, str(self.settings["victim"])))

    def to_dict(self) -> dict[str, object]:
        """Return the content of `result.json`: the same for the same seed, `timing` apart."""
        labels = self.labels.tolist()
        results = [cell.to_dict(self.ceiling, labels) for cell in self.cells]
        worst = worst_case(results)
        audited = [str(entry["defense"]) for entry in worst]
        return {
            "settings": dict(self.settings),
            "versions": versions(),
            "ceiling": _figures(self.ceiling),
            "worst_case": worst,
            "utility": None if self.utility is None else costs_of(self.utility, audited),
            "results": results,
            "timing": {
                "seconds": round(self.seconds, 2),
                "cells": [round(cell.seconds, 2) for cell in self.cells],
                "evaluations_per_second": [round(cell_rate(cell), 1) for cell in self.cells],
            },
        }

    def save(self, folder: str | Path, *, html: bool = True) -> dict[str, object]:
        """Write the images, `report.html` and, last, `result.json` into a folder; return the last.

        Raises:
            InputError: `html` without the packages of the extra `report`; nothing is written.
        """
        folder, result = Path(folder), self.to_dict()
        page = render(self, result) if html else None
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for stale in (folder / "images").glob("*.png"):
            if OWN_PICTURE.fullmatch(stale.name):
                stale.unlink()
        for name, images in self.image_sets().items():
            for i, image in enumerate(images):
                save_image(image, folder / "images" / f"{name}-{i:03d}.png")
        if page is not None:
            write_atomically(folder / "report.html", page.encode())
        write_atomically(folder / "result.json", json.dumps(result, indent=1, allow_nan=False).encode())
        return result

    def image_sets(self) -> dict[str, Tensor]:
        """Return every picture by the name that its files begin with."""
        sets = {"private": self.images, "ceiling": self.ceiling_images}
        for k, cell in enumerate(self.cells):
            sets |= {
                f"cell{k:02d}-{'attack' if kind == 'private' else kind}": images
                for kind, images in cell.images.items()
            }
        return sets
