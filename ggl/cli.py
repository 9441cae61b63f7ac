"""The command line: audits, utility, accounting, priors and their weights."""

import os
import sys
import traceback
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from ggl.base.errors import DEBUG, GGLError, cause
from ggl.base.registry import BROUGHT
from ggl.benchmarks.cli import bench_app, report, reproduce
from ggl.commands.gate import FAILED, read_gate
from ggl.commands.names import check_names, completion, describe
from ggl.commands.options import (
    Device,
    Evidence,
    EvidenceWithImages,
    FailOn,
    FitToSize,
    ImageSize,
    LossName,
    NumClasses,
    Out,
    PairedUpdates,
    PriorName,
    Resume,
    Seed,
    Victim,
    VictimOutput,
    VictimWeights,
    Workers,
)
from ggl.commands.welcome import Welcoming

__all__ = ["main"]

app = typer.Typer(
    suggest_commands=False,
    help="Measure how much of a private image a degraded gradient gives away.",
    cls=Welcoming,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
weights_app = typer.Typer(
    suggest_commands=False,
    help="Weights that are brought on request.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(weights_app, name="weights")
app.add_typer(bench_app, name="bench")


class Kind(StrEnum):
    """What `ggl list` lists."""

    priors = "priors"
    strategies = "strategies"
    defenses = "defenses"
    victims = "victims"
    losses = "losses"


class VictimMode(StrEnum):
    """How a victim's batch normalization and dropout work."""

    eval = "eval"
    train = "train"


class PixelAttack(StrEnum):
    """How `ggl i2f` measures errors."""

    private = "private"
    noise = "noise"
    ig = "ig"


class Accountant(StrEnum):
    """How `ggl epsilon` composes steps."""

    rdp = "rdp"
    prv = "prv"


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    images: Annotated[int, typer.Option(help="private images", min=1)] = 10,
    budget: Annotated[int, typer.Option(help="objective evaluations of each search")] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    fail_on: FailOn = None,
    evidence: Evidence = None,
    evidence_with_images: EvidenceWithImages = False,
    resume: Resume = False,
) -> None:
    """Attack held-out Fashion-MNIST images, defended and not, and report what leaks. Needs no network."""
    gate = read_gate(fail_on or ())
    from ggl.commands.audit import DEMO, run
    from ggl.commands.audit_plan import AuditPlan
    from ggl.commands.evidence import evidence_file

    passed = run(
        AuditPlan(**DEMO, out=out, images=images, budget=budget, seed=seed, device=device),
        resume,
        overwrite=True,
        gate=gate,
        evidence=evidence_file(evidence, evidence_with_images),
        workers=workers,
    )
    raise typer.Exit(0 if passed else FAILED)


@app.command(cls=PairedUpdates)
def audit(
    out: Out,
    victim: Victim = "lenet",
    victim_weights: VictimWeights = None,
    victim_output: VictimOutput = None,
    loss: LossName = "cross-entropy",
    num_classes: NumClasses = None,
    data: Annotated[
        str,
        typer.Option(
            help="fashion-mnist-heldout, a folder with a folder a class, .npz, .csv, torchvision:NAME:ROOT"
        ),
    ] = "fashion-mnist-heldout",
    split: Annotated[str, typer.Option(help="split of the data, where it has several")] = "test",
    fit: Annotated[
        str | None, typer.Option(help="bring images to the prior's shape: pad, resize, center-crop")
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="a name of `ggl list priors`, or package.module:Class", autocompletion=completion("priors")
        ),
    ] = "fashion-dcgan32",
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help='repeatable; "clip:4+noise:0.01" composes; default none',
            autocompletion=completion("defenses"),
        ),
    ] = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="repeatable; default auto: gauss-newton where it can be, else cma-es",
            autocompletion=completion("strategies"),
        ),
    ] = None,
    attacker: Annotated[
        list[str] | None,
        typer.Option(help="repeatable; naive, adaptive, informed, all, ...; default adaptive"),
    ] = None,
    budget: Annotated[int, typer.Option(help="objective evaluations of each search")] = 2000,
    ceiling_budget: Annotated[
        int | None,
        typer.Option(help="of each private image's own inversion, 2000 by default; fewer for slow priors"),
    ] = None,
    images: Annotated[int, typer.Option(help="private images, drawn evenly from the classes", min=1)] = 10,
    seed: Seed = 0,
    device: Device = "auto",
    workers: Workers = None,
    distance: Annotated[str, typer.Option(help="cosine or l2")] = "cosine",
    latents: Annotated[
        str | None,
        typer.Option(
            help='free, shell:W, ridge:W, kld:W, tv:W, tanh, box:B, joined by "+"; default the prior\'s own'
        ),
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, layerwise, vmap or sequential")] = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16, for scoring")] = "float32",
    round: Annotated[  # noqa: A002
        int, typer.Option(help="rounds of training so far, for defenses that change over it", min=0)
    ] = 0,
    rounds: Annotated[int, typer.Option(help="rounds of training in all", min=1)] = 10_000,
    utility: Annotated[
        Path | None, typer.Option(help="utility.json of `ggl utility`, to set leaks beside costs")
    ] = None,
    victim_mode: Annotated[
        VictimMode, typer.Option(help="of batch normalization and dropout, as the clients have it")
    ] = VictimMode.eval,
    batch_size: Annotated[int, typer.Option(help="images of each client", min=1)] = 1,
    label_rule: Annotated[
        str | None, typer.Option(help="known, inferred from the gradient, or searched with the latents")
    ] = None,
    local_steps: Annotated[int, typer.Option(help="that a client takes; needs --lr", min=1)] = 1,
    local_batch_size: Annotated[
        int | None, typer.Option(help="images of each local step, in turn; default all", min=1)
    ] = None,
    momentum: Annotated[float, typer.Option(help="of the clients' SGD")] = 0.0,
    client_optimizer: Annotated[
        str, typer.Option(help="sgd, adam or adamw, with options: adamw,lr=0.001,weight_decay=0.1")
    ] = "sgd",
    local_order: Annotated[
        str,
        typer.Option(
            help="given; of shuffled epochs known, guessed, whole or copies: what attackers make of it"
        ),
    ] = "given",
    lr: Annotated[
        str | None, typer.Option(help="the clients' learning rate; or, with --update, estimate")
    ] = None,
    update: Annotated[
        list[str] | None,
        typer.Option(
            help="audit a captured update instead: the client's weights before and after, each as for "
            "--victim-weights, or a list of arrays; repeatable, for rounds of the same images"
        ),
    ] = None,
    update_difference: Annotated[
        str | None,
        typer.Option(
            help="instead of --update: weights after minus weights before, which --victim-weights are; "
            "FILE,sign=-1 for before minus after"
        ),
    ] = None,
    batch_statistics: Annotated[
        bool,
        typer.Option(
            "--batch-statistics", help="match the batch's statistics too, as running statistics tell them"
        ),
    ] = False,
    truth: Annotated[
        str | None,
        typer.Option(help="the images behind --update, like --data; without them nothing is scored"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="give leak scores even where --truth does not make --update")
    ] = False,
    groups: Annotated[
        str | None,
        typer.Option(help="array of the images' .npz with another attribute, whose groups are compared"),
    ] = None,
    private_labels: Annotated[
        str | None, typer.Option(help="their labels where only these are known, such as 3,7,7")
    ] = None,
    ladder: Annotated[
        bool,
        typer.Option(
            "--ladder",
            help="climb from the plainest attacker to the strongest, and say at which rung a leak shows",
        ),
    ] = False,
    fail_on: FailOn = None,
    evidence: Evidence = None,
    evidence_with_images: EvidenceWithImages = False,
    resume: Resume = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="check everything, say the cells, evaluations, minutes and memory that it would take, and "
            "write nothing",
        ),
    ] = False,
) -> None:
    """Measure what clients' gradients give away of their images, per defense and strategy."""
    check_names(victim=victim, prior=prior, strategies=strategy or (), defenses=defense or (), loss=loss)
    gate = read_gate(fail_on or ())
    from ggl.base.options import read_integers
    from ggl.commands.audit import run
    from ggl.commands.audit_plan import AuditPlan
    from ggl.commands.evidence import evidence_file

    files = update or []
    pairs = list(zip(files[::2], files[1::2], strict=True))
    plan = AuditPlan(
        victim=victim,
        victim_weights=victim_weights,
        num_classes=num_classes,
        data=data,
        split=split,
        fit=fit,
        prior=prior,
        defenses=tuple(defense or ["none"]),
        strategies=tuple(strategy or ([] if ladder else ["auto"])),
        attackers=tuple(attacker or ([] if ladder else ["adaptive"])),
        out=out,
        images=images,
        budget=budget,
        ceiling_budget=ceiling_budget,
        seed=seed,
        device=device,
        distance=distance,
        latents=latents,
        backend=backend,
        precision=precision,
        round=round,
        rounds=rounds,
        utility=utility,
        victim_mode=victim_mode.value,
        batch_size=batch_size,
        label_rule=label_rule,
        private_labels=read_integers("--private-labels", private_labels) if private_labels else (),
        local_steps=local_steps,
        local_batch_size=local_batch_size,
        momentum=momentum,
        client_optimizer=client_optimizer,
        local_order=local_order,
        learning_rate=lr,
        update=pairs[0] if pairs else None,
        further_updates=tuple(pairs[1:]),
        update_difference=update_difference,
        truth=truth,
        groups=groups,
        loss=loss,
        victim_output=victim_output,
        force=force,
        batch_statistics=batch_statistics,
        ladder=ladder,
    )
    written = evidence_file(evidence, evidence_with_images)
    passed = run(plan, resume, gate=gate, evidence=written, workers=workers, dry_run=dry_run)
    raise typer.Exit(0 if passed else FAILED)


@app.command()
def utility(
    out: Annotated[Path, typer.Option(help="folder for utility.json; an audit's results may be in it")],
    data: Annotated[str, typer.Option(help=".npz with train_ and test_ arrays, or as for audit")],
    test_data: Annotated[str | None, typer.Option(help="source of the test images, if not --data")] = None,
    victim: Victim = "mlp",
    num_classes: NumClasses = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="repeatable; none always comes first", autocompletion=completion("defenses")),
    ] = None,
    seeds: Annotated[int, typer.Option(help="trainings of each defense", min=1)] = 3,
    clients: Annotated[int, typer.Option(help="clients", min=1)] = 10,
    partition: Annotated[str, typer.Option(help="iid, or dirichlet:ALPHA")] = "iid",
    rounds: Annotated[int, typer.Option(help="server steps", min=1)] = 300,
    batch_size: Annotated[int, typer.Option(help="a client's examples in a round", min=1)] = 32,
    participation: Annotated[float, typer.Option(help="share of the clients in a round")] = 1.0,
    learning_rate: Annotated[float | None, typer.Option(help="default the victim's own")] = None,
    momentum: Annotated[float, typer.Option(help="of the server's step")] = 0.9,
    fit: FitToSize = None,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train under each defense by federated averaging: accuracy kept, the client's time, bytes sent."""
    check_names(victim=victim, defenses=defense or ())
    from ggl.commands.utility import UtilityPlan, run_utility

    run_utility(
        UtilityPlan(
            victim=victim,
            data=data,
            defenses=tuple(defense or ["none"]),
            out=out,
            test_data=test_data,
            seeds=seeds,
            seed=seed,
            device=device,
            clients=clients,
            partition=partition,
            rounds=rounds,
            batch_size=batch_size,
            participation=participation,
            learning_rate=learning_rate,
            momentum=momentum,
            num_classes=num_classes,
            fit=fit,
            image_size=image_size,
        )
    )


@app.command()
def i2f(
    out: Annotated[Path, typer.Option(help="folder for i2f.json, i2f.csv and i2f.html")],
    victim: Victim = "lenet",
    victim_weights: VictimWeights = None,
    num_classes: NumClasses = None,
    data: Annotated[str, typer.Option(help="images, as for audit")] = "fashion-mnist-heldout",
    split: Annotated[str, typer.Option(help="split of the data, where it has several")] = "test",
    fit: FitToSize = None,
    image_size: ImageSize = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="repeatable; default noise:0.01", autocompletion=completion("defenses")),
    ] = None,
    images: Annotated[int, typer.Option(help="private images, drawn evenly from the classes", min=1)] = 20,
    draws: Annotated[int, typer.Option(help="of a defense's own randomness, for each image", min=1)] = 1,
    damping: Annotated[
        float | None,
        typer.Option(
            help="epsilon over the largest eigenvalue of J J^T; 1e-8, or 1e-3 where images are large or many"
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact/--bound-only", help="solve for the influence, or compute its bound")
    ] = True,
    measured: Annotated[
        Path | None, typer.Option(help="CSV of an attack's errors: defense, image, draw, rmse")
    ] = None,
    attack: Annotated[
        PixelAttack | None,
        typer.Option(help="measure errors too: L-BFGS from the private image or from noise, or IG"),
    ] = None,
    attack_evaluations: Annotated[int, typer.Option(help="of that attack, for each gradient", min=1)] = 200,
    prior: Annotated[
        str | None,
        typer.Option(
            help="forecast what an attacker who owns it recovers too; a name of `ggl list priors`",
            autocompletion=completion("priors"),
        ),
    ] = None,
    ceiling_budget: Annotated[
        int, typer.Option(help="with --prior: evaluations of each private image's own inversion", min=1)
    ] = 1000,
    seed: Seed = 0,
    device: Device = "auto",
    round: Annotated[int, typer.Option(help="rounds of training so far", min=0)] = 0,  # noqa: A002
    rounds: Annotated[int, typer.Option(help="rounds of training in all", min=1)] = 10_000,
) -> None:
    """Predict a perfect attacker's error under each defense, without an attack: I2F, by Jacobian products."""
    check_names(victim=victim, prior=prior or "", defenses=defense or ())
    from ggl.commands.i2f import I2FPlan, run_i2f

    run_i2f(
        I2FPlan(
            victim=victim,
            data=data,
            defenses=tuple(defense or ["noise:0.01"]),
            out=out,
            victim_weights=victim_weights,
            num_classes=num_classes,
            split=split,
            fit=fit,
            image_size=image_size,
            images=images,
            draws=draws,
            damping=damping,
            exact=exact,
            seed=seed,
            device=device,
            measured=measured,
            attack=None if attack is None else attack.value,
            attack_evaluations=attack_evaluations,
            round=round,
            rounds=rounds,
            prior=prior,
            ceiling_budget=ceiling_budget,
        )
    )


@app.command("train-victim")
def train_victim(
    out: Annotated[Path, typer.Option(help="folder for step-NNNNNN.safetensors and training.json")],
    data: Annotated[str, typer.Option(help=".npz with train_ and test_ arrays, or as for audit")],
    victim: Victim = "lenet",
    num_classes: NumClasses = None,
    split: Annotated[str, typer.Option(help="split that is trained on")] = "train",
    test_data: Annotated[str | None, typer.Option(help="source of the test images, if not --data")] = None,
    marks: Annotated[str, typer.Option(help="steps whose states are kept; the last ends the training")] = (
        "0,300,3000"
    ),
    batch_size: Annotated[int, typer.Option(help="images of a step", min=1)] = 64,
    learning_rate: Annotated[float | None, typer.Option(help="default the victim's own")] = None,
    momentum: Annotated[float, typer.Option(help="of SGD")] = 0.9,
    fit: FitToSize = None,
    image_size: ImageSize = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a victim and keep its states: untrained, in training, converged; for --victim-weights."""
    check_names(victim=victim)
    from ggl.base.options import read_integers
    from ggl.commands.train_victim import TrainVictimPlan, run_train_victim

    run_train_victim(
        TrainVictimPlan(
            victim=victim,
            data=data,
            out=out,
            split=split,
            test_data=test_data,
            marks=read_integers("--marks", marks),
            batch_size=batch_size,
            learning_rate=learning_rate,
            momentum=momentum,
            fit=fit,
            image_size=image_size,
            num_classes=num_classes,
            seed=seed,
            device=device,
        )
    )


Layers = Annotated[
    int | None,
    typer.Option(help="parameter tensors of the victim; needed where a defense clips each", min=1),
]


@app.command()
def epsilon(
    defense: Annotated[str, typer.Argument(help='such as "dp-sgd:1,1.1", fed-cdp:4,6, dynamic-dp:linear')],
    rounds: Annotated[int, typer.Option(help="steps of training in all", min=1)],
    sample_rate: Annotated[float, typer.Option(help="probability that an example takes part in a step")],
    delta: Annotated[float, typer.Option(help="of (epsilon, delta)")],
    layers: Layers = None,
    accountant: Annotated[Accountant, typer.Option(help="of Opacus")] = Accountant.rdp,
) -> None:
    """Compute the differential privacy that a whole training under a defense spends."""
    check_names(defenses=[defense])
    from ggl.commands.guarantee import known_layers
    from ggl.costs.accounting import spending
    from ggl.defenses import load_defense

    spent = spending(
        load_defense(defense),
        layers=known_layers(defense, layers),
        rounds=rounds,
        sample_rate=sample_rate,
        delta=delta,
        accountant=accountant.value,
    )
    print(
        f"epsilon {spent.epsilon:.4g} at delta {spent.delta:g} by {spent.accountant}, {spent.guarantee}; "
        f"an example's sensitivity is {spent.sensitivity_factor:.4g} clipping bounds"
    )


@app.command()
def guarantee(
    defense: Annotated[str, typer.Argument(help='such as "dp-sgd:1,1.1", fed-cdp:4,6, "clip:1+noise:0.5"')],
    candidates: Annotated[int, typer.Option(help="equally likely images, the private one among them")] = 100,
    layers: Layers = None,
    coordinates: Annotated[
        int | None, typer.Option(help="parameters of the victim in all; for Laplacian noise")
    ] = None,
    releases: Annotated[int, typer.Option(help="rounds of the same image that the attacker has")] = 1,
    round: Annotated[int, typer.Option(help="rounds of training before the first")] = 0,  # noqa: A002
    rounds: Annotated[int, typer.Option(help="rounds of training in all")] = 10_000,
    sample_rate: Annotated[
        float, typer.Option(help="probability that the image takes part in a round; 1: it does")
    ] = 1.0,
    accountant: Annotated[Accountant, typer.Option(help="of Opacus, below a rate of 1")] = Accountant.prv,
) -> None:
    """Compute the most that any attacker can do against a defense with a proof."""
    check_names(defenses=[defense])
    from ggl.commands.guarantee import described, known_layers
    from ggl.costs.guarantees import guarantee as find_guarantee

    found = find_guarantee(
        defense,
        layers=known_layers(defense, layers),
        coordinates=coordinates,
        releases=releases,
        round=round,
        rounds=rounds,
        sample_rate=sample_rate,
        accountant=accountant.value,
    )
    print(described(found, candidates))


@app.command("list")
def list_names(kind: Kind) -> None:
    """List what is registered under a name, a line each."""
    for name, summary in describe(kind.value).items():
        print(f"{name:20} {summary}")


@app.command("check-prior")
def check_prior(
    prior: PriorName,
) -> None:
    """Run the contract of a prior on it and say in plain words what is wrong."""
    from ggl.commands.check_prior import check

    check_names(prior=prior)
    check(prior)


@app.command("prior-report")
def prior_report(
    priors: Annotated[
        list[str],
        typer.Argument(
            help="as for check-prior; several are compared on the same images",
            autocompletion=completion("priors"),
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder for prior.json, prior.html and the pictures")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="images to invert, as for audit; NAME=SOURCE names them; may be repeated"),
    ] = None,
    split: Annotated[str, typer.Option(help="of the data")] = "test",
    fit: Annotated[str | None, typer.Option(help="pad, resize or center-crop other shapes")] = None,
    images: Annotated[int, typer.Option(help="of each set", min=1)] = 10,
    budget: Annotated[int, typer.Option(help="objective evaluations of each inversion")] = 2000,
    strategy: Annotated[
        str,
        typer.Option(
            help="that inverts; the audit's ceiling uses adam", autocompletion=completion("strategies")
        ),
    ] = "adam",
    labels: Annotated[
        str, typer.Option(help="of a class-conditional prior: own, nearest, or auto: own where all are valid")
    ] = "auto",
    seed: Seed = 0,
    device: Device = "auto",
    resume: Resume = False,
) -> None:
    """Show how good priors are: samples, interpolations, and how well they invert given images."""
    for prior in priors:
        check_names(prior=prior)
    check_names(strategies=[strategy])
    from ggl.commands.prior_report import PriorPlan, run_prior_report

    run_prior_report(
        PriorPlan(
            priors=tuple(priors),
            data=tuple(data or ()),
            out=out,
            split=split,
            fit=fit,
            images=images,
            budget=budget,
            strategy=strategy,
            labels=labels,
            seed=seed,
            device=device,
        ),
        resume,
    )


EntryName = Annotated[str, typer.Argument(help="of `ggl weights list`")]


@weights_app.command("list")
def list_weights() -> None:
    """List the catalog: what each entry is, its licence, its size, and whether it is here."""
    from ggl.commands import weights

    weights.show()


@weights_app.command()
def fetch(name: EntryName) -> None:
    """Show the licence, download weights by name, check their hash, keep them in the cache folder."""
    from ggl.commands import weights

    weights.fetch(name)


@weights_app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="of `ggl weights list`; all that are here without one")
    ] = None,
) -> None:
    """Check the hashes of weights that are here."""
    from ggl.commands import weights

    weights.verify(name)


@weights_app.command()
def where(name: EntryName) -> None:
    """Print the folder in which weights lie, or would after fetching them."""
    from ggl.commands import weights

    weights.where(name)


@app.command()
def doctor() -> None:
    """Say what is here and what is missing, each with the line that brings it."""
    from ggl.commands.doctor import diagnose

    diagnose()


@app.command("verify")
def verify_evidence(
    file: Annotated[Path, typer.Argument(help="of `ggl audit --evidence`")],
    sha256: Annotated[str | None, typer.Option(help="that was published of it")] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="run the audit again in a temporary folder, and compare")
    ] = False,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", help="NAME=PATH of what it reads, where not here by its name; repeatable"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="to run it on; default the evidence's")] = None,
) -> None:
    """Check an audit's evidence: exit code 0 where it holds, 3 where it differs, and in what."""
    from ggl.commands.verify import verify as check

    holds = check(file, published=sha256, again=rerun, inputs=inputs or (), device=device)
    raise typer.Exit(0 if holds else FAILED)


app.command()(report)
app.command()(reproduce)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of ours in one line; others as Python does."""
    own = category.__module__.startswith("ggl.")
    text = f"ggl: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


def main() -> None:
    """Run the command line; an error of ours, or of code that was brought, is one line and exit code 2."""
    warnings.showwarning = _show_warning
    BROUGHT.clear()
    sys.path.append("")  # so that package.module:name finds the user's code in the current folder
    try:
        app()
    except Exception as error:
        if not isinstance(error, GGLError) and not BROUGHT:
            raise
        if os.environ.get(DEBUG):
            traceback.print_exc()
        text = str(error)
        if not isinstance(error, GGLError):
            brought = ", ".join(dict.fromkeys(BROUGHT))
            text = f"{cause(error)}, with {brought}; {DEBUG}=1 shows the traceback"
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"ggl: {text}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
