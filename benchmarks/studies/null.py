"""How often an audit of a gradient that gives nothing away says that it does, and how often a leak is found.

    python benchmarks/studies/null.py

Written down before it was run. Clients are those of `clients.py`: real held-out pictures with their ceilings
and decoys. What an attack "finds" is drawn without a look at the private image:

- samples: a random sample of the prior of the right class; so are the sibling's and the noise's, and the
  class mean is the strongest control;
- means: the mean of seven other images of the class, the class mean control being the mean of another seven:
  attack and control are exchangeable, and no attack that sees nothing is nearer to being called a leak;
- noise:30: Adam's real attack on a gradient under noise of a hundred times its norm or more, one cell.

Twelve cells of one audit are either independent given the image, or alike: latents that share 0.8 of their
variance, means that share five of their seven images. Of every kind and n of 6, 10, 20, 500 audits of
twelve cells (1,000 were planned, and cut for time after a first row), 250 for power; the single cell is the
first of them. Scores, tests, verdicts and corrections are the product's own. Power: the real attacks of
`clients.py`, alone and as one of twelve, the others being `means`, alike.
Rates have `ggl.measures.statistics.share`'s intervals.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ggl
from ggl.audits.controls import DECOYS, choose_decoys
from ggl.audits.scoring import PRIOR_DRAWS
from ggl.base.files import write_atomically
from ggl.base.random import numpy_stream, stream
from ggl.benchmarks.studies.clients import CLIENTS, HELDOUT, PRIOR, SEED, measured
from ggl.benchmarks.studies.tables import figure_text, markdown_table
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.measures.leakage import LeakScore, Scores, identifies, leak_score
from ggl.measures.many_looks import Look, correct
from ggl.measures.statistics import share

Values: TypeAlias = NDArray[np.float64]
Ranks: TypeAlias = NDArray[np.int64]

SIZES, AUDITS, POWER_AUDITS, CELLS = (6, 10, 20), 500, 250, 12
FAMILIES, SHARED = 12, 0.8
MEAN_OF, COMMON = 7, 5
ROWS = Path(__file__).parents[1] / "results" / "null.json"
TABLE = ROWS.with_suffix(".md")


@dataclass(frozen=True)
class Bank:
    """What attacks that see nothing find: errors and ranks (clients, families, cells), and a control's error.

    Attributes:
        apart: of draws that are independent given the image; `alike` of those that resemble each other.
        control: the class mean's error (clients, families).
    """

    apart: tuple[Values, Ranks]
    alike: tuple[Values, Ranks]
    control: Values


def scored(drawn: Tensor, private: Tensor, decoys: Tensor) -> tuple[Values, Ranks]:
    """Return errors and ranks (families, cells) of one client's drawn images."""
    flat = drawn.flatten(2).flatten(0, 1)
    others = torch.cdist(flat, decoys.flatten(1)).square() / flat.shape[1]
    own = (flat - private.flatten()).square().mean(1)
    ranks = 1 + (others < own[:, None]).sum(1)
    shape = drawn.shape[:2]
    return own.double().numpy().reshape(shape), ranks.numpy().reshape(shape)


def samples(label: Tensor, random: torch.Generator, prior: Any, alike: float) -> Tensor:
    """Return samples (families, cells, c, h, w) of a class that share so much of their latents' variance."""
    shape = (FAMILIES, CELLS, prior.latent_dim)
    common, own = torch.randn((FAMILIES, 1, shape[2]), generator=random), torch.randn(shape, generator=random)
    z = (alike**0.5 * common + (1 - alike) ** 0.5 * own).flatten(0, 1)
    images: Tensor = prior.decode(z, label.expand(len(z)))
    return images.reshape(FAMILIES, CELLS, *images.shape[1:])


def means(decoys: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return means of seven others (families, cells, c, h, w), apart and alike, and the control's."""
    apart, alike, control = [], [], []
    for _ in range(FAMILIES):
        groups = decoys[torch.randperm(len(decoys), generator=random)]
        groups = groups[: MEAN_OF * (CELLS + 1)].unflatten(0, (CELLS + 1, MEAN_OF))
        control.append(groups[0].mean(0))
        apart.append(groups[1:].mean(1))
        rest = groups[1:].flatten(0, 1)
        own = rest[COMMON : COMMON + CELLS * (MEAN_OF - COMMON)].unflatten(0, (CELLS, -1))
        alike.append((rest[:COMMON].sum(0) + own.sum(1)) / MEAN_OF)
    return torch.stack(apart), torch.stack(alike), torch.stack(control)


@torch.no_grad()
def banks() -> dict[str, Bank]:
    """Return what is drawn for every client, by kind."""
    data, prior = load_dataset(HELDOUT), ggl.load_prior(PRIOR)
    rows = pick_private(data.labels, CLIENTS, SEED)
    images, labels = data.images[rows], data.labels[rows]
    chosen = choose_decoys(images, labels, data.images, data.labels, SEED)
    found: dict[str, list[Any]] = {"samples": [], "means": []}
    for i, (image, label, decoys) in enumerate(zip(images, labels, chosen.images, strict=True)):
        random = stream(SEED, "null", i)
        drawn = [samples(label, random, prior, alike) for alike in (0.0, SHARED)]
        class_mean = (decoys.mean(0) - image).square().mean().double().expand(FAMILIES).numpy()
        found["samples"].append([*(scored(x, image, decoys) for x in drawn), class_mean])
        apart, alike, control = means(decoys, random)
        error = (control - image).square().flatten(1).mean(1).double().numpy()
        found["means"].append([*(scored(x, image, decoys) for x in (apart, alike)), error])
    return {
        kind: Bank(*(_stacked(column) for column in zip(*rows, strict=True))) for kind, rows in found.items()
    }


def _stacked(column: Sequence[Any]) -> Any:
    """Return clients' arrays as one, pairs as a pair."""
    if isinstance(column[0], tuple):
        return tuple(np.stack(part) for part in zip(*column, strict=True))
    return np.stack(column)


class Audits:
    """Simulated audits of n clients drawn from all."""

    def __init__(self, drawn: dict[str, Bank]) -> None:
        self.banks = drawn
        self.measured = measured()
        self.ceiling = self.measured["none"]["ceiling"]

    def drawn(self, kind: str, alike: bool, n: int, random: np.random.Generator) -> list[Look]:
        """Return the twelve cells of an audit of attacks that see nothing."""
        who = random.choice(CLIENTS, n, replace=False)
        return self.looks_at(who, kind, alike, random)

    def looks_at(self, who: Ranks, kind: str, alike: bool, random: np.random.Generator) -> list[Look]:
        """Return the twelve cells of those clients."""
        bank, plain = self.banks[kind], self.banks["samples"].apart[0]
        errors, ranks = bank.alike if alike else bank.apart
        family = random.integers(FAMILIES, size=len(who))
        others = plain[who[:, None], random.integers(FAMILIES, size=(len(who), 2 + PRIOR_DRAWS)), 0]
        controls = {
            "sibling": others[:, 0],
            "noise": others[:, 1],
            "prior": others[:, 2:].mean(1),
            "class mean": bank.control[who, family],
        }
        return [
            self.look(errors[who, family, k], self.ceiling[who], controls, ranks[who, family, k])
            for k in range(CELLS)
        ]

    def real(self, defense: str, who: Ranks) -> Look:
        """Return a real cell of those clients."""
        found = {name: values[who] for name, values in self.measured[defense].items()}
        controls = {name: found[name] for name in ("sibling", "noise", "prior", "class_mean")}
        return self.look(found["attack"], found["ceiling"], controls, found["rank"].astype(np.int64))

    def look(self, attack: Values, ceiling: Values, controls: dict[str, Values], ranks: Ranks) -> Look:
        """Return a cell."""
        scores = Scores({"mse": attack}, ranks, np.full(len(ranks), DECOYS))
        return Look(leak_score(attack, ceiling, controls), scores, range(len(ranks)))

    def score_of_all(self, defense: str) -> LeakScore:
        """Return a real cell's leak score over all clients: the truth that audits of a few estimate."""
        return self.real(defense, np.arange(CLIENTS)).leak


def said(looks: Sequence[Look], counts: Counter[str]) -> None:
    """Count what an audit says: of its first cell, of any cell alone, of any after correction."""
    corrected = correct(looks)
    counts["single leaks"] += looks[0].leak.leaks
    counts["single identifies"] += identifies(looks[0].scores)
    counts["alone leaks"] += any(look.leak.leaks for look in looks)
    counts["alone identifies"] += any(identifies(look.scores) for look in looks)
    counts["corrected leaks"] += any(found.leaks for found in corrected)
    counts["corrected identifies"] += any(found.identifies for found in corrected)
    worst = max(range(len(looks)), key=lambda k: np.nan_to_num(looks[k].leak.interval.mean, nan=-np.inf))
    for name, found in (("alone", looks[worst].leak), ("corrected", corrected[worst].leak)):
        interval = found.interval
        counts[f"{name} defined"] += bool(interval.low <= interval.high)
        counts[f"{name} above 0"] += bool(interval.low > 0)
    counts["audits"] += 1


def null_rates(audits: Audits) -> Iterator[dict[str, Any]]:
    """Yield how often audits of nothing say something."""
    for kind in audits.banks:
        for alike in (False, True):
            for n in SIZES:
                random, counts = numpy_stream(SEED, "null", kind, alike, n), Counter[str]()
                for _ in range(AUDITS):
                    said(audits.drawn(kind, alike, n, random), counts)
                yield {"kind": kind, "alike": alike, "n": n, **counts}
    for n in SIZES:
        random, counts = numpy_stream(SEED, "null", "noise:30", n), Counter[str]()
        for _ in range(AUDITS):
            said([audits.real("noise:30", random.choice(CLIENTS, n, replace=False))], counts)
        yield {"kind": "noise:30", "alike": False, "n": n, **counts}


def powers(audits: Audits) -> Iterator[dict[str, Any]]:
    """Yield how often real leaks are found, alone and as one of twelve cells."""
    for defense in audits.measured:
        truth = audits.score_of_all(defense).interval.mean
        for n in SIZES:
            random, counts = numpy_stream(SEED, "power", defense, n), Counter[str]()
            for _ in range(POWER_AUDITS):
                who = random.choice(CLIENTS, n, replace=False)
                looks = [audits.real(defense, who), *audits.looks_at(who, "means", True, random)[1:]]
                counts["single leaks"] += looks[0].leak.leaks
                counts["single identifies"] += identifies(looks[0].scores)
                corrected = correct(looks)[0]
                counts["corrected leaks"] += corrected.leaks
                counts["corrected identifies"] += corrected.identifies
                counts["audits"] += 1
            yield {"defense": defense, "score": truth, "n": n, **counts}


def percent(row: dict[str, Any], key: str) -> str:
    """Return a rate in percent with its interval."""
    found = share(row[key], row["audits"]).to_dict()
    return figure_text({k: v if k == "n" or v is None else 100 * v for k, v in found.items()}, ".1f")


def page(found: dict[str, Any]) -> str:
    """Return the Markdown page."""
    nulls = [
        (
            row["kind"] + (", alike" if row["alike"] else ""),
            str(row["n"]),
            *(percent(row, f"single {what}") for what in ("leaks", "identifies")),
            *(
                "" if row["kind"] == "noise:30" else percent(row, f"{how} {what}")
                for how in ("alone", "corrected")
                for what in ("leaks", "identifies")
            ),
        )
        for row in found["null"]
    ]
    power = [
        (
            row["defense"],
            f"{row['score']:.2f}",
            str(row["n"]),
            *(
                percent(row, f"{how} {what}")
                for how in ("single", "corrected")
                for what in ("leaks", "identifies")
            ),
        )
        for row in found["power"]
    ]
    heads = (
        *("attack that sees nothing", "clients", "one cell: leaks", "identifies"),
        *("worst of 12, uncorrected: leaks", "identifies", "corrected: leaks", "identifies"),
    )
    found_heads = (
        *("defense", "leak score", "clients", "one cell: leaks", "identifies"),
        *("one of 12, corrected: leaks", "identifies"),
    )
    return "\n\n".join(
        [
            "# What audits of nothing say, and what leaks they find",
            "Made by `python benchmarks/studies/null.py`; the settings are in that file. Percent of audits "
            f"in which it is said, with 95 % intervals; {AUDITS} audits a line, {POWER_AUDITS} below.",
            "## Nothing to find",
            markdown_table(heads, nulls),
            "## Real leaks",
            "Leak scores are of all 200 clients.",
            markdown_table(found_heads, power) + "\n",
        ]
    )


def main() -> None:
    """Run everything and write rows and table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    torch.set_num_threads(1)
    audits = Audits(banks())
    found: dict[str, list[dict[str, Any]]] = {"null": [], "power": []}
    for name, rows in (("null", null_rates(audits)), ("power", powers(audits))):
        for row in rows:
            found[name].append(row)
            write_atomically(ROWS, json.dumps(found, indent=1).encode())
            write_atomically(TABLE, page(found).encode())


if __name__ == "__main__":
    main()
