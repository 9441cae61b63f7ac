"""Train a bundled prior.

    python -m ggl.generators.bundled.train fashion-dcgan32 --data fashion-mnist.npz --out DIR

Resumes from its own checkpoint in DIR, where it also keeps the classifiers it trained: the judge and,
where the recipe reads one's features, that one. Writes `NAME.safetensors` (EMA weights, float16),
`quality.json` (what the model card quotes) and `samples.png`. Never sees the test split, save to
measure.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import save_image

from ggl.base.devices import find_device
from ggl.base.errors import GGLError, InputError
from ggl.base.files import write_atomically
from ggl.base.weights import load_tensors, save_state, save_tensors
from ggl.generators.bundled.feature_network import FeatureNetwork
from ggl.generators.bundled.quality import (
    Classifier,
    ClassSpread,
    Network,
    accuracy,
    frechet_distance,
    pairwise_distance,
    train_classifier,
)
from ggl.generators.bundled.recipes import RECIPES, EncodedRecipe, Recipe
from ggl.generators.bundled.training import DCGANTraining, EncodedTraining, Training

SIZE = 32
BATCH = 64
CHECKPOINT_EVERY = 500
JUDGED_PER_CLASS = 1000


def load_images(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return a split's images (n, c, 32, 32) in [0, 1], zero-padded from 28 px, and its labels (n,).

    Raises:
        InputError: the file cannot be read, or has no such arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = torch.from_numpy(arrays[f"{split}_images"])
            labels = torch.from_numpy(arrays[f"{split}_labels"])
    except (OSError, KeyError, ValueError, BadZipFile) as error:
        raise InputError(
            f"{path}: expected an .npz with {split}_images and {split}_labels, found {error}"
        ) from error
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    margin = (SIZE - images.shape[-1]) // 2
    return F.pad(images.float() / 255, (margin,) * 4), labels.long()


def train(images: Tensor, labels: Tensor, recipe: Recipe, training: Training, out: Path) -> None:
    """Train to the last step, from the checkpoint in `out` if there is one."""
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        training.load_state_dict(torch.load(checkpoint, weights_only=True))
    started = time.monotonic() - training.seconds
    processor_started = time.process_time() - training.processor_seconds
    while training.step < training.steps:
        rows = torch.randint(len(images), (BATCH,))
        batch = images[rows] * 2 - 1
        if recipe.flips:
            batch = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, batch.flip(-1), batch)
        training.advance(batch, labels[rows])
        if training.step % CHECKPOINT_EVERY == 0 or training.step == training.steps:
            training.seconds = time.monotonic() - started
            training.processor_seconds = time.process_time() - processor_started
            save_state(checkpoint, training.state_dict())
            done = f"step {training.step}/{training.steps}, {training.seconds:.0f} s"
            print(f"{done}, {training.told()}", flush=True)
            grid = draw(training.ema.module, recipe, 12, seed=0)[0]
            save_image(grid, out / "samples.png", nrow=12)


@torch.no_grad()
def draw(generator: torch.nn.Module, recipe: Recipe, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return `per_class` samples of every class, (n, c, 32, 32) in [0, 1], with their labels (n,)."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(recipe.num_classes).repeat_interleave(per_class)
    latents = torch.randn(len(labels), recipe.latent_dim, generator=random)
    device = next(generator.parameters()).device
    generator.eval()
    parts = [
        generator(z.to(device), y.to(device)).cpu()
        for z, y in zip(latents.split(500), labels.split(500), strict=True)
    ]
    return (torch.cat(parts) + 1) / 2, labels


def measure(
    generator: torch.nn.Module, judge: Classifier, recipe: Recipe, data: Path, seed: int
) -> dict[str, object]:
    """Return the figures of the model card."""
    train_images, _ = load_images(data, "train")
    test_images, test_labels = load_images(data, "test")
    samples, labels = draw(generator, recipe, JUDGED_PER_CLASS, seed=seed)
    classes = range(recipe.num_classes)
    by_class = [samples[labels == c] for c in classes]
    real_by_class = [test_images[test_labels == c] for c in classes]
    spread = ClassSpread(
        torch.tensor([pairwise_distance(images) for images in real_by_class]),
        torch.tensor([pairwise_distance(images) for images in by_class]),
    )
    return {
        "classifier_test_accuracy": accuracy(judge, test_images, test_labels),
        "samples_recognized": accuracy(judge, samples, labels),
        "samples_recognized_per_class": [
            accuracy(judge, images, torch.full((len(images),), c)) for c, images in enumerate(by_class)
        ],
        "spread_ratio": spread.ratio,
        "spread_real_per_class": spread.real.tolist(),
        "spread_samples_per_class": spread.samples.tolist(),
        "frechet_samples_to_test": frechet_distance(judge, test_images, samples),
        "frechet_train_to_test": frechet_distance(
            judge, test_images, train_images[:: len(train_images) // len(samples)]
        ),
        "samples_judged": len(samples),
    }


def kept(path: Path, network: Callable[[], Network], trained: Callable[[], Network]) -> Network:
    """Return the network whose weights lie at `path`, where `trained` leaves them the first time."""
    if not path.exists():
        save_tensors(path, dict(trained().state_dict()))
    model = network()
    model.load_state_dict(load_tensors(path))
    return model.eval()


def main() -> None:
    """Train, measure, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prior", choices=list(RECIPES))
    parser.add_argument(
        "--data", type=Path, required=True, help=".npz with train_ and test_ images and labels"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint and the results")
    parser.add_argument("--steps", type=int, default=16_000, help="steps of batch 64")
    parser.add_argument("--judge-epochs", type=int, default=8, help="epochs of the judging classifier")
    parser.add_argument(
        "--feature-epochs", type=int, default=6, help="epochs of the classifier whose features are read"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one")
    options = parser.parse_args()
    try:
        run(options)
    except GGLError as error:
        parser.error(str(error))


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        InputError: a count below 1, or data that are not the recipe's.
    """
    for name in ("steps", "judge_epochs", "feature_epochs"):
        if getattr(options, name) < 1:
            raise InputError(
                f"expected --{name.replace('_', '-')} of at least 1, found {getattr(options, name)}"
            )
    recipe, device = RECIPES[options.prior], find_device(options.device)
    images, labels = load_images(options.data, "train")
    if tuple(images.shape[1:]) != (recipe.channels, SIZE, SIZE):
        raise InputError(
            f"{options.data}: expected images of {recipe.channels} channels and at most {SIZE} px for "
            f"{options.prior}, found {images.shape[1]} channels of {images.shape[2]} x {images.shape[3]} px"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, EncodedRecipe):
        features = kept(
            options.out / f"features-{options.feature_epochs}-epochs-seed-{options.seed + 1}.safetensors",
            lambda: FeatureNetwork(recipe.channels, recipe.num_classes),
            lambda: train_classifier(
                FeatureNetwork, images, labels, epochs=options.feature_epochs, seed=options.seed + 1
            ),
        )
        training: Training = EncodedTraining(recipe, features, options.steps, options.seed, device)
    else:
        training = DCGANTraining(recipe, options.steps, options.seed, device)
    train(images, labels, recipe, training, options.out)
    generator = training.ema.module.cpu().eval()
    half = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in generator.state_dict().items()
    }
    save_tensors(options.out / f"{options.prior}.safetensors", half)
    generator.load_state_dict(
        {name: tensor.to(generator.state_dict()[name].dtype) for name, tensor in half.items()}
    )
    judge = kept(
        options.out / f"judge-{options.judge_epochs}-epochs-seed-{options.seed}.safetensors",
        lambda: Classifier(recipe.channels, recipe.num_classes),
        lambda: train_classifier(Classifier, images, labels, epochs=options.judge_epochs, seed=options.seed),
    )
    quality = {
        "steps": training.step,
        "seconds": round(training.seconds),
        "processor_seconds": round(training.processor_seconds),
        "seed": options.seed,
    }
    quality |= measure(generator, judge, recipe, options.data, options.seed + 1)
    write_atomically(options.out / "quality.json", json.dumps(quality, indent=1).encode())
    print(json.dumps(quality, indent=1))


if __name__ == "__main__":
    main()
