"""Capture one client's update as NVFlare keeps it: the server's checkpoint, and a difference of weights.

Run `python nvflare_capture.py FOLDER`; it writes FOLDER/FL_global_model.pt, as `PTFileModelPersistor` saves
it, and FOLDER/difference.npz, the arrays of a client's `DXO` of kind WEIGHT_DIFF. It needs no NVFlare: there
the first file is in the server's workspace, and a filter on the server writes the second by
np.savez(file, **dxo.data).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import ggl

LEARNING_RATE = 0.1
BATCH_SIZE = 2


def weight_difference(model: torch.nn.Module, received: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights after training minus those that were received, as NVFlare's learners do."""
    return {name: tensor.cpu().numpy() - received[name] for name, tensor in model.state_dict().items()}


def main(folder: Path) -> None:
    """Take one SGD step on a client's images and write both files to `folder`."""
    # Put your own network and your own client's data here.
    model = ggl.load_victim("lenet", in_channels=1, num_classes=10, image_size=32)
    data = ggl.load_dataset("fashion-mnist-heldout")
    images, labels = data.images[:BATCH_SIZE], data.labels[:BATCH_SIZE]

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {"model": model.state_dict(), "train_conf": {"train": {"model": "LeNet"}}, "meta_props": {}}
    torch.save(checkpoint, folder / "FL_global_model.pt")
    received = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    np.savez(folder / "difference.npz", **weight_difference(model, received))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "capture"))
