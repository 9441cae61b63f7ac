"""Searches beyond the latent: what features and tuned weights gain in ceiling, and lose in search.

    python benchmarks/studies/spaces.py --data digits.npz

`digits.npz` is any data out of the prior's domain: grey images of at most 32 px, classes below ten. The
committed tables are of scikit-learn's digits (8 px, from the UCI repository), enlarged to 28 px:

    python -c "import numpy, torch; from sklearn.datasets import load_digits; d = load_digits();
    x = torch.nn.functional.interpolate(torch.tensor(d.images / 16)[:, None], 28, mode='bicubic',
    antialias=True).clamp(0, 1); numpy.savez('digits.npz', images=(255 * x).round().byte().numpy(),
    labels=d.target)"

Written down before it was run: the prior fashion-dcgan32; eight images of its held-out ones, and eight of
the other data, seed 0; an untrained LeNet, one image a gradient, labels known; no defense, and noise of 0.1.
A space is the latent z, features after each of the four stages (128 directions), after the second with 512
directions too, and around what latents make (0.25); or z, and then the generator's weights by Adam with
half of the evaluations (`tune=`). Each is audited: `gauss-newton`, told residuals, with 500 and 2,000
evaluations, and Adam, which needs gradients, with 500; under noise with 500 alone. Evaluations are counted
alike. While it ran, when figures of z, of stage 2 and the first of stage 1 in the domain were known, the
machine left it a fifth of a core, so that 2,000 evaluations and noise were kept for the spaces of `LONG`
and `NOISY`, tuning is not begun by Adam, and spaces were put in another order; it was stopped after tuning.
A space's ceiling is the inversion of the private images in that very space (Adam, 2,000 evaluations), and
its leak score is measured against it. That of tuning is measured against z's ceiling and may exceed 1,
since enough tuned weights make any image; what tuning makes of the private images themselves stands beside,
as its ceiling. Intervals are over images; differences are paired by image with z.

What was seen before, on images of seed 7, none of which is among the reported: attacks on four of the prior's
domain, by which the rate of tuning was chosen (1e-4, 3e-4, 1e-3, 1e-2: 36.9, 35.8, 32.0, 23.1 dB after 500
evaluations), and ceilings in and out of the domain. Of three candidates for other data, digits were taken:
on chest X-rays and on CIFAR-10 in grey the ceilings of all spaces with 128 directions are below the class
mean, so that nothing could be measured.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ggl
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import Dataset, load_dataset
from ggl.datasets.picking import pick_private
from ggl.measures.leakage import score
from ggl.measures.statistics import bootstrap_mean

PRIOR, HELDOUT, SHAPE, VICTIM = "fashion-dcgan32", "fashion-mnist-heldout", (1, 32, 32), "lenet"
IMAGES, SEED, CEILING_BUDGET = 8, 0, 2000
FEATURES = f"{PRIOR}:space=features"
TUNE = ":tune=0.0001"
SPACES = {
    "z": PRIOR,
    "features, stage 2": f"{FEATURES},stage=2",
    "features, stage 2, d = 512": f"{FEATURES},stage=2,dims=512",
    "features, stage 3": f"{FEATURES},stage=3",
    "tune": PRIOR,
    "features, stage 4": f"{FEATURES},stage=4",
    "features, stage 1": f"{FEATURES},stage=1",
    "features, stage 2, around z": f"{FEATURES},stage=2,around=0.25",
}
QUIET, LOUD = "none", "noise:0.1"
LONG, NOISY = ("z", "features, stage 2"), ("z", "features, stage 2", "tune")
CELLS = (
    (QUIET, "gauss-newton", 500),
    (QUIET, "adam", 500),
    (LOUD, "gauss-newton", 500),
    (QUIET, "gauss-newton", 2000),
)
"""Defense, strategy and evaluations."""

KEPT = ("psnr", "leak_score", "identification", "verdict")
"""Of a cell's figures."""

DOMAINS = ("in", "out")
RESULTS = Path(__file__).parents[1] / "results"
FIGURES, TABLE = RESULTS / "spaces.json", RESULTS / "spaces.md"


def data_of(domain: str, path: Path) -> Dataset:
    """Return the data of a domain."""
    return load_dataset(HELDOUT if domain == "in" else path, image_shape=SHAPE, fit="pad")


def run(domain: str, space: str, data: Dataset, done: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the figures of a space in a domain after its ceiling and after every cell that is not done."""
    rows = pick_private(data.labels, IMAGES, SEED)
    images, labels = data.images[rows], data.labels[rows]
    prior, tuning = ggl.load_prior(SPACES[space]), space == "tune"
    told: Any = {"prior": prior, "budget": CEILING_BUDGET, "seed": SEED}
    ceiling = torch.cat([found.images for found in ggl.invert(images, labels, **told)])
    figures: dict[str, Any] = {"d": prior.latent_dim, "assumed": list(prior.assumed)}
    figures["cells"] = dict(done.get("cells", {}))
    own = ceiling
    if tuning:
        own = torch.cat([r.images for r in ggl.invert(images, labels, strategy=f"adam{TUNE}", **told)])
    figures["ceiling"] = psnrs(own, images)
    yield figures
    for defense, strategy, budget in cells_of(space):
        name = f"{defense}, {strategy}, {budget}"
        if name not in figures["cells"]:
            report = ggl.audit(
                ggl.load_victim(VICTIM, in_channels=1, num_classes=10, image_size=SHAPE[-1], seed=SEED),
                images,
                labels,
                prior=prior,
                defenses=[defense],
                strategies=[f"{strategy}{TUNE}" if tuning else strategy],
                budget=budget,
                ceiling=ceiling,
                decoys=None if domain == "in" else (data.images, data.labels),
                seed=SEED,
            )
            result: Any = report.to_dict()
            (cell,) = result["results"]
            figures["cells"][name] = {kept: cell[kept] for kept in KEPT} | {
                "images": [image["psnr"] for image in cell["images"]]
            }
            print(domain, space, name, cell["psnr"]["mean"], flush=True)
            yield figures


def cells_of(space: str) -> Sequence[tuple[str, str, int]]:
    """Return the cells of a space."""
    return [
        cell
        for cell in CELLS
        if (cell[0] == QUIET or space in NOISY)
        and (cell[2] == 500 or space in LONG)
        and (cell[1] != "adam" or space != "tune")
    ]


def psnrs(found: Tensor, images: Tensor) -> list[float]:
    """Return the PSNR of each image in dB."""
    return [float(v) for v in score(found, images, [images[:0]] * len(images), {}).values["psnr"]]


def values(cell: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return every image's PSNR of an audited cell."""
    return np.array(cell["images"])


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the Markdown page."""
    parts = []
    for domain in DOMAINS:
        spaces = {space: found[domain][space] for space in SPACES if space in found.get(domain, {})}
        parts += [f"## {'In' if domain == 'in' else 'Out of'} the prior's domain", ceilings(spaces)]
        parts += [attacks(spaces, cell) for cell in CELLS]
    settings = "Made by `python benchmarks/studies/spaces.py`; the settings are in that file. "
    unit = "Means with 95 % intervals over images; d: coordinates searched."
    return "\n\n".join(["# Search spaces", settings + unit, *parts]) + "\n"


def ceilings(spaces: Mapping[str, Any]) -> str:
    """Return the table of what each space can say of the private images."""
    rows = []
    for name, figures in spaces.items():
        known = np.array(figures["ceiling"])
        gained = "" if name == "z" else figure_text(bootstrap_mean(known - spaces["z"]["ceiling"]), "+.1f")
        rows.append((name, str(figures["d"]), figure_text(bootstrap_mean(known), ".1f"), gained))
    return markdown_table(("space", "d", "ceiling, dB", "less z's"), rows)


def attacks(spaces: Mapping[str, Any], cell: tuple[str, str, int]) -> str:
    """Return the table of one attack in every space."""
    defense, strategy, budget = cell
    name, rows = f"{defense}, {strategy}, {budget}", []
    for space, figures in spaces.items():
        if name not in figures["cells"]:
            continue
        known, first = figures["cells"][name], spaces["z"]["cells"][name]
        rows.append(
            (
                space,
                figure_text(known["psnr"], ".1f"),
                "" if space == "z" else figure_text(bootstrap_mean(values(known) - values(first)), "+.1f"),
                figure_text(known["leak_score"], missing="none"),
                figure_text(known["identification"]),
                known["verdict"],
            )
        )
    headings = ("space", "PSNR, dB", "less z's", "leak score", "identified", "verdict")
    title = f"Defense {defense}, `{strategy}`, {budget:,} evaluations:"
    return f"{title}\n\n{markdown_table(headings, rows)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done, and write the figures and the page after every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    path = parser.parse_args(arguments).data
    found: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    data = {domain: data_of(domain, path) for domain in DOMAINS}
    for space in SPACES:
        for domain in DOMAINS:
            done = found.setdefault(domain, {}).get(space, {})
            if len(done.get("cells", {})) < len(cells_of(space)):
                for figures in run(domain, space, data[domain], done):
                    found[domain][space] = figures
                    write_atomically(FIGURES, json.dumps(found, indent=1).encode())
                    write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
