"""Where a face embedding ranks private faces, beside where pixels do, in finished runs of `ggl audit`.

    python benchmarks/studies/face_ranks.py RUN [RUN ...] --model FILE.dat --out FILE.md

Needs dlib (`pip install dlib-bin`) and its face network (D. King, public domain), which the package
face_recognition_models brings as dlib_face_recognition_resnet_model_v1.dat: 128 numbers of a face, whose
distance tells people apart. It is not part of `ggl`: dlib alone reads its format. Of every private face 40
of the audit's own decoys are taken; faces, decoys and reconstructions have the run's size and are enlarged
to the network's 150 px, without being aligned again. The rank is that of the private face by the distance
between embeddings; by chance one of 41 ranks first. Written down before it was run.
"""

import argparse
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_image

from ggl.audits.controls import choose_decoys
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.tables import SPACED, figure_text, markdown_table
from ggl.datasets.loading import load_dataset
from ggl.measures.leakage import rank
from ggl.measures.statistics import share

DECOYS = 40
SIDE = 150
"""Height and width in pixels of what dlib's network reads."""
HEADINGS = ("defense", "what", "first by embedding", "mean rank", "first by pixels", "mean rank")


class Embedding:
    """dlib's face network on images in [0, 1]; each image is embedded once."""

    def __init__(self, path: Path) -> None:
        dlib = importlib.import_module("dlib")  # not a dependency of the project
        self.network: Any = dlib.face_recognition_model_v1(str(path))
        self.known: dict[bytes, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the embeddings (n, 128, 1, 1) of images (n, 3, h, w), shaped as `rank` takes images."""
        return torch.stack([self._one(image) for image in images])[:, :, None, None]

    def _one(self, image: Tensor) -> Tensor:
        large = F.interpolate(image[None], (SIDE, SIDE), mode="bicubic", antialias=True)[0].clamp(0, 1)
        pixels = np.ascontiguousarray((large * 255).round().byte().permute(1, 2, 0).numpy())
        key = pixels.tobytes()
        if key not in self.known:
            self.known[key] = torch.tensor(list(self.network.compute_face_descriptor(pixels)))
        return self.known[key]


def pictures(run: Path, name: str) -> Tensor:
    """Return a run's images of a name (n, 3, h, w), in [0, 1]."""
    files = sorted((run / "images").glob(f"{name}-[0-9][0-9][0-9].png"))
    return torch.stack([decode_image(str(file), ImageReadMode.RGB) for file in files]).float() / 255


def rows(run: Path, embedding: Embedding) -> Iterator[Sequence[str]]:
    """Yield a line for every cell and control of a run, and for its ceiling."""
    result = json.loads((run / "result.json").read_text())
    private = pictures(run, "private")
    settings = result["settings"]
    data = load_dataset(settings["data"], image_shape=(3, *private.shape[2:]), fit=settings["fit"])
    near = torch.stack([(data.images - image).abs().flatten(1).amax(1).argmin() for image in private])
    private = data.images[near]
    chosen = choose_decoys(private, data.labels[near], data.images, data.labels, settings["seed"])
    decoys = [images[:DECOYS] for images in chosen.images]
    sets = {("", "ceiling"): "ceiling"}
    for k, cell in enumerate(result["results"]):
        names = ("attack", *(c for c in cell["controls"] if c in ("sibling", "noise")))
        sets |= {(cell["defense"], name): f"cell{k:02d}-{name}" for name in names}
    for (defense, what), name in sets.items():
        found = pictures(run, name)
        by_face = [
            rank(embedding(a[None]), embedding(b[None])[0], embedding(d))
            for a, b, d in zip(found, private, decoys, strict=True)
        ]
        by_pixel = [rank(a[None], b, d) for a, b, d in zip(found, private, decoys, strict=True)]
        yield (defense, what, *_figures(by_face), *_figures(by_pixel))


def _figures(ranks: Sequence[int]) -> tuple[str, str]:
    return figure_text(share(ranks.count(1), len(ranks))), f"{np.mean(ranks):.1f}"


def main() -> None:
    """Rank and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of `ggl audit`")
    parser.add_argument("--model", type=Path, required=True, help="dlib's face network")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    embedding = Embedding(options.model)
    text = "# Private faces ranked by a face embedding and by pixels\n"
    for run in options.runs:
        text += f"\n## {run.name}\n\n{markdown_table(HEADINGS, rows(run, embedding), SPACED)}\n"
    write_atomically(options.out, text.encode())
    print(text)


if __name__ == "__main__":
    main()
