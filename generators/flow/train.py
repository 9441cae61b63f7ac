"""Train a flow-matching prior: `python -m ggl.generators.flow.train --data X --out DIR`.

X is what `--data` of an audit is (an `.npz` with train_images and train_labels, a folder with one folder
of images a class, a `.csv`), fitted to 32 px. With `--code 0` the flow's noise has the shape of the image;
otherwise an autoencoder is trained first, and the flow makes its codes. Resumes from its own
checkpoints in DIR, bit for bit on a CPU. Writes `flow.safetensors` (the weights' running average,
float16), which `flow:DIR/flow.safetensors` loads, and `samples.png`.
"""

import argparse
import copy
import hashlib
import math
import pickle
import time
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.base.devices import find_device
from ggl.base.errors import CheckpointError, GGLError, GradientError, InputError
from ggl.base.random import stream, stream_seed
from ggl.base.torch_files import DAMAGED
from ggl.base.weights import save_tensors
from ggl.datasets.loading import load_dataset
from ggl.generators.flow.network import SIZE, Decoder, Encoder
from ggl.generators.flow.prior import LARGEST, FlowPrior, FlowSettings

BATCH = 128
LEARNING_RATE = 1e-3
WARM_UP = 200
"""Steps over which the learning rate rises; it falls to 0 over the second half."""
EMA_DECAY = 0.999
CODE_NOISE = 0.1
"""Standard deviation of what is added to codes of unit variance, so that near codes mean near images."""
NEAREST = 0.1
"""The least 1 - t by which an error is divided to be one of velocity."""
CHECKPOINT_EVERY = 500
PER_CLASS = 8


class Stage(ABC):
    """A network that is trained by Adam, and the running average of its weights.

    Every draw of step i comes from a stream that the seed, the stage and i name, so that a resumed
    training needs no random state.
    """

    name: str

    def __init__(self, network: nn.Module, steps: int, seed: int, device: torch.device) -> None:
        self.network = network.to(device)
        self.steps, self.seed, self.device = steps, seed, device
        self.step, self.seconds = 0, 0.0
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, betas=(0.9, 0.99))

    @abstractmethod
    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of one batch."""

    def advance(self) -> Float[Tensor, ""]:
        """Do one step and return its loss."""
        rate = min(1.0, (self.step + 1) / WARM_UP, 2 * (1 - self.step / self.steps))
        self.optimizer.param_groups[0]["lr"] = LEARNING_RATE * rate
        loss = self.loss(stream(self.seed, "flow", self.name, self.step))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 10))
        for mean, now in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        parts: list[Any] = [self.network, self.average, self.optimizer]
        return {"parts": [part.state_dict() for part in parts], "progress": [self.step, self.seconds]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        parts: list[Any] = [self.network, self.average, self.optimizer]
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step, self.seconds = state["progress"]


class Autoencoder(nn.Module):
    """Images to codes of unit variance and back."""

    def __init__(self, settings: FlowSettings) -> None:
        super().__init__()
        self.encoder = Encoder(settings.channels, settings.code)
        self.norm = nn.BatchNorm1d(settings.code, affine=False)
        self.decoder = Decoder(settings.channels, settings.code)


class Coding(Stage):
    """The autoencoder, by the squared error of pixels."""

    name = "code"

    def __init__(
        self, settings: FlowSettings, images: Tensor, steps: int, seed: int, device: torch.device
    ) -> None:
        super().__init__(Autoencoder(settings), steps, seed, device)
        self.images = images

    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of a batch that passes through noisy codes."""
        images = self.images[torch.randint(len(self.images), (BATCH,), generator=draws)].to(self.device)
        network: Any = self.network
        codes = network.norm(network.encoder(images))
        noise = CODE_NOISE * torch.randn(codes.shape, generator=draws).to(self.device)
        return F.mse_loss(network.decoder(codes + noise), images)

    @torch.no_grad()
    def codes(self) -> Float[Tensor, "n d"]:
        """Return the codes of all images, by the averaged weights."""
        network: Any = self.average.eval()
        return torch.cat(
            [network.norm(network.encoder(part.to(self.device))).cpu() for part in self.images.split(500)]
        )


class Matching(Stage):
    """The flow, by conditional flow matching on straight paths (arXiv 2210.02747, eq. 23; σ_min = 0).

    Between noise x₀ and an end x₁ a point x = (1 - t)·x₀ + t·x₁ moves by x₁ - x₀. What a network
    predicts is x₁, so that the error of its velocity is that of the prediction over 1 - t.
    """

    name = "flow"

    def __init__(
        self,
        network: nn.Module,
        ends: Tensor,
        labels: Tensor,
        *,
        steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(network, steps, seed, device)
        self.ends, self.labels = ends, labels

    def loss(self, draws: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean squared error of a batch's velocities."""
        rows = torch.randint(len(self.ends), (BATCH,), generator=draws)
        ends, labels = self.ends[rows].to(self.device), self.labels[rows].to(self.device)
        noise = torch.randn(ends.shape, generator=draws).to(self.device)
        time = torch.rand(BATCH, generator=draws).to(self.device)
        points = torch.lerp(noise, ends, time[:, None])
        errors = self.network(points, time, labels) - ends
        loss: Tensor = (errors / (1 - time).clamp_min(NEAREST)[:, None]).square().mean()
        return loss


def fit(stage: Stage, out: Path, settings: dict[str, object]) -> None:
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
            partial = checkpoint.with_suffix(".part")
            torch.save(stage.state_dict() | {"settings": settings}, partial)
            partial.replace(checkpoint)
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


def whiten(codes: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes of mean 0 and covariance 1, and the matrix and the mean that lead back (x @ A + m)."""
    mean = codes.double().mean(0)
    values, vectors = torch.linalg.eigh((codes.double() - mean).T.cov())
    roots = values.clamp_min(1e-6).sqrt()
    white = (codes.double() - mean) @ vectors / roots
    return white.float(), (roots[:, None] * vectors.T), mean


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
