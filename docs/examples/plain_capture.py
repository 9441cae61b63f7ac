"""Capture one client's update in a plain PyTorch loop: its weights before and after local SGD steps.

Run `python plain_capture.py FOLDER`; it writes FOLDER/before.safetensors and FOLDER/after.safetensors.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import ggl

LEARNING_RATE = 0.1
BATCH_SIZE = 1


def main(folder: Path, steps: int = 4) -> None:
    """Train for `steps` mini-batches of `BATCH_SIZE` images and write both files to `folder`."""
    # Put your own network and your own client's data here.
    model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    data = ggl.load_dataset("fashion-mnist-heldout")
    count = steps * BATCH_SIZE  # one image of each class in turn
    images, labels = data.images[:count], data.labels[:count]

    # A defense that the client uses belongs into this loop, as it stands in production.
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "before.safetensors")
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for x, y in zip(images.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "after.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
