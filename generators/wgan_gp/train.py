"""Train the prior of GGL's CelebA experiments: `python -m ggl.generators.wgan_gp.train --data X --out DIR`.

X is a folder of images (searched with its subfolders) or an `.npz` whose `train_images` are (n, h, w, 3)
bytes. Each is cropped to its central square and resized to 32 px (bilinear, antialiased), as GGL does
to CelebA. Resumes from its own checkpoint in DIR, bit for bit on a CPU; a larger `--epochs` goes on
training. Writes `wgan-gp.safetensors` (float32), which `wgan-gp:DIR/wgan-gp.safetensors` loads, and
`samples.png`.
"""

import argparse
import hashlib
import math
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.base.devices import find_device
from ggl.base.errors import CheckpointError, GGLError, GradientError, InputError
from ggl.base.random import stream, stream_seed
from ggl.base.torch_files import DAMAGED
from ggl.base.weights import save_state, save_tensors
from ggl.generators.wgan_gp.prior import SIZE, Critic, Generator, gradient_penalty

LATENT_DIM = 128
WIDTH = 128
BATCH = 64
LEARNING_RATE = 1e-4
BETAS = (0.5, 0.999)
CRITIC_STEPS = 5
PENALTY_WEIGHT = 10.0
CHECKPOINT_EVERY = 500
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
SAMPLES = 64


def load_images(path: Path) -> UInt8[Tensor, "n 3 32 32"]:
    """Return the images of a folder or an `.npz`, cropped and resized to 32 px.

    Raises:
        InputError: there is nothing at `path`, or not what the module's text says.
    """
    images = _read_folder(path) if path.is_dir() else _read_npz(path)
    if len(images) < BATCH:
        raise InputError(f"{path}: expected at least {BATCH} images, one batch, found {len(images)}")
    return images


def _read_npz(path: Path) -> Tensor:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["train_images"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected a folder of images or an .npz with train_images, found neither ({error})"
        ) from error
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise InputError(
            f"{path}: expected train_images of shape (n, h, w, 3) and dtype uint8, "
            f"found {images.shape} and {images.dtype}"
        )
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(1024)
    return torch.cat([fit_square(part) for part in parts])


def _read_folder(path: Path) -> Tensor:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{path}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return torch.cat([fit_square(_read_image(file)) for file in files])


def _read_image(file: Path) -> Tensor:
    try:
        with Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{file}: expected an image, found what cannot be read ({error})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def fit_square(images: UInt8[Tensor, "n 3 height width"]) -> UInt8[Tensor, "n 3 32 32"]:
    """Return the central squares of images, resized to 32 px."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[..., top : top + side, left : left + side]
    if side == SIZE:
        return square.contiguous()
    resized: Tensor = F.interpolate(square.float(), (SIZE, SIZE), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).byte()


class Training:
    """WGAN-GP (arXiv 1704.00028, algorithm 1) with Adam, five critic steps for one of the generator.

    Every draw of step i comes from a stream that the seed and i name, so that a resumed training
    needs no random state. A step is one of the critic; batches that an epoch cannot fill are dropped.
    """

    def __init__(self, images: UInt8[Tensor, "n 3 32 32"], seed: int, device: torch.device) -> None:
        self.images, self.seed, self.device = images, seed, device
        self.step, self.seconds = 0, 0.0
        self.steps_per_epoch = len(images) // BATCH
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "wgan-gp", "weights"))
            self.generator = Generator(LATENT_DIM, WIDTH).to(device)
            self.critic = Critic(WIDTH).to(device)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), LEARNING_RATE, betas=BETAS)
            for network in (self.generator, self.critic)
        ]
        self._order = self._shuffled(0)

    def _shuffled(self, epoch: int) -> Int[Tensor, " n"]:
        return torch.randperm(len(self.images), generator=stream(self.seed, "wgan-gp", "order", epoch))

    def next_batch(self) -> Float[Tensor, "n 3 32 32"]:
        """Return this step's real images, in [-1, 1]."""
        epoch, place = divmod(self.step, self.steps_per_epoch)
        if place == 0:
            self._order = self._shuffled(epoch)
        rows = self._order[place * BATCH : (place + 1) * BATCH]
        return self.images[rows].to(self.device).float() / 127.5 - 1

    def advance(self) -> Float[Tensor, ""]:
        """Do one critic step, and at every fifth one of the generator; return the critic's loss."""
        draws = stream(self.seed, "wgan-gp", "step", self.step)
        loss = self._critic_step(self.next_batch(), draws)
        self.step += 1
        if self.step % CRITIC_STEPS == 0:
            self._generator_step(draws)
        return loss

    def _critic_step(self, real: Tensor, draws: torch.Generator) -> Tensor:
        with torch.no_grad():
            fake = self.generator(self._latents(len(real), draws))
        mix = torch.rand(len(real), 1, 1, 1, generator=draws).to(self.device)
        distance = self.critic(real).mean() - self.critic(fake).mean()
        loss: Tensor = PENALTY_WEIGHT * gradient_penalty(self.critic, real, fake, mix) - distance
        self.optimizers[1].zero_grad()
        loss.backward()
        self.optimizers[1].step()
        return loss.detach()

    def _generator_step(self, draws: torch.Generator) -> None:
        self.critic.requires_grad_(False)
        self.optimizers[0].zero_grad()
        (-self.critic(self.generator(self._latents(BATCH, draws))).mean()).backward()
        self.optimizers[0].step()
        self.critic.requires_grad_(True)

    def _latents(self, n: int, draws: torch.Generator) -> Tensor:
        return torch.randn(n, LATENT_DIM, generator=draws).to(self.device)

    def settings(self) -> dict[str, object]:
        """Return what a resumed training must share: the seed, the images, the sizes."""
        digest = hashlib.sha256(self.images.numpy().tobytes()).hexdigest()
        return {"seed": self.seed, "images": digest, "batch": BATCH, "width": WIDTH}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed training needs."""
        parts: list[Any] = [self.generator, self.critic, *self.optimizers]
        return {
            "parts": [part.state_dict() for part in parts],
            "progress": [self.step, self.seconds],
            "settings": self.settings(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            CheckpointError: it was written with another seed, other images or other sizes.
        """
        for name, value in self.settings().items():
            if state["settings"].get(name) != value:
                raise CheckpointError(
                    f"checkpoint: expected {name} {value}, found {state['settings'].get(name)}; "
                    "name another folder with --out"
                )
        parts: list[Any] = [self.generator, self.critic, *self.optimizers]
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)
        self.step, self.seconds = state["progress"]
        self._order = self._shuffled(self.step // self.steps_per_epoch)


def train(images: Tensor, epochs: int, seed: int, out: Path, device: torch.device) -> Training:
    """Train to `epochs`, from the checkpoint in `out` if there is one.

    Raises:
        CheckpointError: the checkpoint belongs to another training, or cannot be read.
        GradientError: the critic's loss is no longer finite.
    """
    checkpoint = out / "checkpoint.pt"
    training = Training(images, seed, device)
    if checkpoint.exists():
        training.load_state_dict(_read_checkpoint(checkpoint, device))
    steps = epochs * training.steps_per_epoch
    started = time.monotonic() - training.seconds
    while training.step < steps:
        loss = training.advance()
        if training.step % CHECKPOINT_EVERY == 0 or training.step == steps:
            if not math.isfinite(float(loss)):
                raise GradientError(
                    f"step {training.step}: expected a finite critic loss, found {float(loss)}; the "
                    f"checkpoint before stays in {out}: train with another --seed"
                )
            training.seconds = time.monotonic() - started
            _write_checkpoint(checkpoint, training)
            save_image(draw(training.generator, SAMPLES, seed), out / "samples.png", nrow=8)
            print(
                f"step {training.step}/{steps}, {training.seconds:.0f} s, critic {float(loss):.3f}",
                flush=True,
            )
    return training


def _read_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, *DAMAGED) as error:
        raise CheckpointError(
            f"{path}: expected a checkpoint, found a damaged file; remove it to start anew"
        ) from error
    return state


def _write_checkpoint(path: Path, training: Training) -> None:
    save_state(path, training.state_dict())


@torch.no_grad()
def draw(generator: Generator, n: int, seed: int) -> Float[Tensor, "n 3 32 32"]:
    """Return `n` samples in [0, 1] from the running statistics; the generator's mode is put back."""
    device = next(generator.parameters()).device
    latents = torch.randn(n, LATENT_DIM, generator=stream(seed, "wgan-gp", "samples")).to(device)
    training = generator.training
    samples: Tensor = (generator.eval()(latents) + 1) / 2
    generator.train(training)
    return samples


def main(arguments: list[str] | None = None) -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of images, or .npz with train_images"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the results")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, or auto: a GPU where there is one"
    )
    options = parser.parse_args(arguments)
    try:
        images = load_images(options.data)
        device = find_device(options.device)
        options.out.mkdir(parents=True, exist_ok=True)
        training = train(images, options.epochs, options.seed, options.out, device)
    except GGLError as error:
        parser.error(str(error))
    save_tensors(options.out / "wgan-gp.safetensors", training.generator.state_dict())


if __name__ == "__main__":
    main()
