"""Train a flow-matching prior: `python -m ggl.generators.flow.train --data X --out DIR`.

X is what `--data` of an audit is (an `.npz` with train_images and train_labels, a folder with one folder
of images a class, a `.csv`), fitted to 32 px. With `--code 0` the flow's noise has the shape of the image;
otherwise an autoencoder is trained first, and the flow makes its codes. Resumes from its own
checkpoints in DIR, bit for bit on a CPU. Writes `flow.safetensors` (the weights' running average,
float16), which `flow:DIR/flow.safetensors` loads, and `samples.png`.
"""

import argparse
import hashlib
import math
import pickle
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.utils import save_image

from ggl.base.devices import find_device
from ggl.base.errors import CheckpointError, GGLError, GradientError, InputError
from ggl.base.random import stream, stream_seed
from ggl.base.torch_files import DAMAGED
from ggl.base.weights import save_state, save_tensors
from ggl.datasets.loading import load_dataset
from ggl.generators.flow.network import SIZE
from ggl.generators.flow.phases import BATCH, Coding, Matching, Phase, whiten
from ggl.generators.flow.prior import LARGEST, FlowPrior, FlowSettings

CHECKPOINT_EVERY = 500
PER_CLASS = 8


def fit(stage: Phase, out: Path, settings: dict[str, object]) -> None:
    """Train a stage to its last step, from its checkpoint in `out` if there is one.

    Raises:
        CheckpointError: the checkpoint belongs to another training, or cannot be read.
        GradientError: the loss is no longer finite.
    """
    checkpoint = out / f"{stage.name}.pt"
    settings = settings | {"steps": stage.steps}
    if checkpoint.exists():
        state = _read_checkpoint(checkpoint, stage.device)
        for name, value in settings.items():
            if state["settings"].get(name) != value:
                raise CheckpointError(
                    f"{checkpoint}: expected {name} {value}, found {state['settings'].get(name)}; "
                    "name another folder with --out"
                )
        stage.load_state_dict(state)
    started = time.monotonic() - stage.seconds
    while stage.step < stage.steps:
        loss = stage.advance()
        if stage.step % CHECKPOINT_EVERY == 0 or stage.step == stage.steps:
            if not math.isfinite(float(loss)):
                raise GradientError(
                    f"step {stage.step}: expected a finite loss, found {float(loss)}; the checkpoint "
                    f"before stays in {out}: train with another --seed"
                )
            stage.seconds = time.monotonic() - started
            save_state(checkpoint, stage.state_dict() | {"settings": settings})
            print(
                f"{stage.name}: step {stage.step}/{stage.steps}, {stage.seconds:.0f} s, "
                f"loss {float(loss):.3f}",
                flush=True,
            )


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint, found a damaged file; remove it to start anew"
        ) from error
    return state


def train(
    settings: FlowSettings,
    images: Float[Tensor, "n c 32 32"],
    labels: Int[Tensor, " n"],
    *,
    steps: int,
    code_steps: int,
    seed: int,
    out: Path,
    device: torch.device,
) -> dict[str, Tensor]:
    """Train every stage and return the tensors of the prior's file; images in [-1, 1]."""
    shared: dict[str, object] = {
        "seed": seed,
        "images": hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest(),
        "batch": BATCH,
    } | asdict(settings)
    tensors: dict[str, Tensor] = {}
    ends = images.flatten(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "flow", "weights"))
        flow = settings.flow()
        coding = Coding(settings, images, code_steps, seed, device) if settings.code else None
    if coding is not None:
        fit(coding, out, shared)
        ends, matrix, mean = whiten(coding.codes())
        decoder: Any = coding.average.decoder
        weight, bias = decoder[0].weight.double(), decoder[0].bias.double()
        tensors |= {f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()}
        tensors["decoder.0.weight"] = weight @ matrix.T.to(weight)
        tensors["decoder.0.bias"] = bias + weight @ mean.to(weight)
    matching = Matching(flow, ends, labels, steps=steps, seed=seed, device=device)
    fit(matching, out, shared | {"code_steps": code_steps})
    return tensors | {f"flow.{name}": tensor for name, tensor in matching.average.state_dict().items()}


def _check_counts(options: argparse.Namespace) -> None:
    for name, least in (("code", 0), ("code_steps", 1), ("steps", 1)):
        count = getattr(options, name)
        if not least <= count:
            raise InputError(f"expected --{name.replace('_', '-')} of at least {least}, found {count}")
    if options.code == 1:
        raise InputError("expected --code of at least 2, or 0 for noise of the image's shape, found 1")
    if options.code > LARGEST:
        raise InputError(f"expected --code of at most {LARGEST}, found {options.code}")


def main(arguments: list[str] | None = None) -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="labeled images, their training split")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and results")
    parser.add_argument("--fit", help="pad, resize or center-crop images of another size to 32 px")
    parser.add_argument(
        "--code", type=int, default=128, help="length of the codes; 0: noise of the image's shape"
    )
    parser.add_argument(
        "--code-steps", type=int, default=4000, help=f"steps of batch {BATCH}, the autoencoder's"
    )
    parser.add_argument("--steps", type=int, default=10_000, help=f"steps of batch {BATCH}, the flow's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, or auto: a GPU where there is one"
    )
    options = parser.parse_args(arguments)
    try:
        _check_counts(options)
        data = load_dataset(options.data, image_shape=(None, SIZE, SIZE), fit=options.fit, split="train")
        settings = FlowSettings(data.images.shape[1], data.num_classes, options.code)
        device = find_device(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        tensors = train(
            settings,
            data.images * 2 - 1,
            data.labels,
            steps=options.steps,
            code_steps=options.code_steps,
            seed=options.seed,
            out=options.out,
            device=device,
        )
        path = options.out / "flow.safetensors"
        save_tensors(path, {name: tensor.half() for name, tensor in tensors.items()}, settings.to_metadata())
        prior = FlowPrior(str(path))
        labels = torch.arange(data.num_classes).repeat_interleave(PER_CLASS)
        z = prior.sample(len(labels), stream(options.seed, "flow", "samples"))
        with torch.no_grad():
            save_image(prior.decode(z, labels), options.out / "samples.png", nrow=PER_CLASS)
    except GGLError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
