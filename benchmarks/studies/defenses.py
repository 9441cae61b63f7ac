"""Every defense against every attacker who knows it: what leaks, and what the defense costs.

    python benchmarks/studies/defenses.py --data PATH/fashion-mnist.npz [--workers 2]
    python benchmarks/studies/defenses_table.py

Settings were written down before anything was run; a review of the attackers then mended some, whose cells
were run anew. Leakage: ten held-out Fashion-MNIST images, one a class, one image a gradient, an untrained
LeNet, the embedded prior; each defense under the naive, the adaptive and, where `ATTACKERS` says so, further
attackers, by CMA-ES and by Adam at equal evaluations (one of "expectation" is four passes), with the
controls of every audit. Utility: the same LeNet trained federatedly on Fashion-MNIST's training split,
as `FEDERATION` says, three seeds, accuracy on its test split. Cells and trainings whose results are there
are not run again.
"""

import argparse
import json
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import ggl
from ggl.base.files import write_atomically
from ggl.benchmarks.studies.tables import read_csv, write_csv
from ggl.costs.federated import accuracy, train
from ggl.costs.federation import Federation
from ggl.datasets.loading import load_dataset
from ggl.datasets.picking import pick_private
from ggl.defenses import load_defense
from ggl.victims import load_victim

VICTIM, PRIOR, HELDOUT = "lenet", "fashion-dcgan32", "fashion-mnist-heldout"
IMAGES, BUDGET, SEED = 10, 500, 0
STRATEGIES = ("cma-es", "adam")
DEFENSES = (
    *("none", "noise:0.1", "noise:1", "laplace:0.1", "clip:1", "clip-layer:0.1"),
    *(
        "prune:0.9",
        "prune:0.99",
        "prune-global:0.99",
        "top-k:0.01,momentum=0",
        "sign",
        "qsgd:2",
        "qsgd:2,norm=max",
    ),
    *("soteria:0.8", "outpost", "orthogonal"),
    *("precode", "cvb", "ppp:noise=0.1", "ppp:prune=0.9"),
    *("dp-sgd:4,0.5", "fed-cdp:4,0.5", "dynamic-dp:linear", "clip:4+noise:0.1+prune:0.9"),
)
ATTACKERS = {
    "soteria:0.8": ("naive", "adaptive", "drop"),
    "precode": ("naive", "matched", "ignore", "adaptive"),
    "cvb": ("naive", "expectation", "ignore", "adaptive"),
    "ppp:noise=0.1": ("naive", "ignore", "adaptive"),
    "ppp:prune=0.9": ("naive", "ignore", "adaptive"),
}
"""Attackers of defenses that are met by others than the naive and the adaptive one."""

ON_MLP = {"precode": ("naive", "ignore", "adaptive", "analytic")}
"""Defenses that are attacked on the MLP too, where the first layer's gradient gives the image away."""

SEEDS = (0, 1, 2)
FEDERATION = Federation(clients=4, rounds=300, batch_size=8, learning_rate=0.02)
LEARNING_RATES = {"sign": 0.0005}
"""Of signs, steps of one size in every coordinate; all other defenses train at no defense's rate."""

LEAKS = Path(__file__).parents[1] / "results" / "defenses.json"
UTILITY = Path(__file__).parents[1] / "results" / "defenses-utility.csv"
KEPT = ("defense", "strategy", "attacker", "verdict", "leak_score", "identification", "psnr", "images")
"""Of an audit's cells: curves, controls and further metrics are left out."""


@dataclass(frozen=True)
class Trained:
    """One training under a defense."""

    defense: str
    seed: int
    accuracy: float
    diverged: bool
    client_bytes: float
    client_seconds: float
    gradient_seconds: float


def rows_of(name: str, victim: str = VICTIM) -> str:
    """Return the name that a defense's cells go by."""
    return name if victim == VICTIM else f"{name}, {victim}"


def audit_defense(name: str, victim: str = VICTIM) -> list[dict[str, Any]]:
    """Return the cells of one defense."""
    torch.set_num_threads(1)
    data = load_dataset(HELDOUT)
    rows = pick_private(data.labels, IMAGES, SEED)
    report = ggl.audit(
        load_victim(victim, in_channels=1, num_classes=10, image_size=32, seed=SEED),
        data.images[rows],
        data.labels[rows],
        prior=ggl.load_prior(PRIOR),
        defenses=[name],
        strategies=STRATEGIES,
        attackers=(ATTACKERS if victim == VICTIM else ON_MLP).get(name, ("naive", "adaptive")),
        budget=BUDGET,
        seed=SEED,
    )
    result: Any = report.to_dict()
    seconds = result["timing"]["cells"]
    return [
        {key: cell[key] for key in KEPT} | {"seconds": s}
        for cell, s in zip(result["results"], seconds, strict=True)
    ]


def train_defense(name: str, seed: int, path: str) -> Trained:
    """Train under one defense with one seed."""
    torch.set_num_threads(1)
    defense = load_defense(name)
    training, test = (
        load_dataset(path, split=split, image_shape=(1, 32, 32), fit="pad") for split in ("train", "test")
    )
    victim = load_victim(VICTIM, in_channels=1, num_classes=10, image_size=32, seed=seed)
    rate = LEARNING_RATES.get(name, FEDERATION.learning_rate)
    federation = replace(FEDERATION, learning_rate=rate)
    model, took = train(victim, training.images, training.labels, defense, federation, seed=seed)
    return Trained(
        name,
        seed,
        round(accuracy(model, test.images, test.labels, seed), 4),
        took.diverged,
        round(took.client_bytes),
        round(took.client_seconds, 5),
        round(took.gradient_seconds, 5),
    )


def read_leaks() -> dict[str, list[dict[str, Any]]]:
    """Return the cells that are there, by defense."""
    found: dict[str, list[dict[str, Any]]] = json.loads(LEAKS.read_text()) if LEAKS.exists() else {}
    return found


def read_utility() -> list[Trained]:
    """Return the trainings that are there."""
    return read_csv(UTILITY, Trained)


def planned() -> dict[str, tuple[str, str]]:
    """Return every defense with the victim it is attacked on, by the name that its cells go by."""
    pairs = [*((name, VICTIM) for name in DEFENSES), *((name, "mlp") for name in ON_MLP)]
    return {rows_of(*pair): pair for pair in pairs}


def write_leaks(leaks: Mapping[str, Any]) -> None:
    """Write the cells, in the order of the plan."""
    ordered = {name: leaks[name] for name in planned() if name in leaks}
    write_atomically(LEAKS, (json.dumps(ordered, indent=1) + "\n").encode())


def write_utility(rows: list[Trained]) -> None:
    """Write the trainings, in the order of `DEFENSES`."""
    write_csv(UTILITY, Trained, sorted(rows, key=lambda row: (DEFENSES.index(row.defense), row.seed)))


def run(workers: int, path: str) -> None:
    """Run what is missing: leakage first, then trainings, seed by seed."""
    leaks, utility = read_leaks(), read_utility()
    trained = {(row.defense, row.seed) for row in utility}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        audits: dict[Future[Any], str] = {
            pool.submit(audit_defense, *pair): name for name, pair in planned().items() if name not in leaks
        }
        trainings: list[Future[Any]] = [
            pool.submit(train_defense, name, seed, path)
            for seed in SEEDS
            for name in DEFENSES
            if (name, seed) not in trained
        ]
        for done in as_completed([*audits, *trainings]):
            if done in audits:
                leaks[audits[done]] = done.result()
                write_leaks(leaks)
                print(f"{audits[done]}: attacked", flush=True)
            else:
                utility.append(done.result())
                write_utility(utility)
                print(f"{utility[-1].defense}, seed {utility[-1].seed}: trained", flush=True)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", required=True, help="Fashion-MNIST as .npz, with train_ and test_ arrays")
    parser.add_argument("--workers", type=int, default=2, help="cells at once, one thread each")
    arguments = parser.parse_args()
    run(arguments.workers, arguments.data)


if __name__ == "__main__":
    main()
