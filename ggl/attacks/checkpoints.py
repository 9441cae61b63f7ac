"""Checkpoints of searches: by what one knows its search again, and what is read of it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ggl.base.errors import CheckpointError, WeightsError
from ggl.base.weights import load_tensors_and_metadata

__all__ = ["fingerprint", "read_checkpoint", "whole_checkpoint"]


def fingerprint(settings: Mapping[str, object], tensors: Sequence[Tensor]) -> str:
    """Return a hash of settings and tensors, by which a checkpoint knows its search again."""
    digest = hashlib.sha256(repr(sorted(settings.items())).encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def whole_checkpoint(path: Path, identity: str) -> Iterator[dict[str, Tensor]]:
    """Give the tensors of a checkpoint that was made for a search of this identity, to be taken within.

    Raises:
        CheckpointError: it is damaged, another search's, or lacks a tensor that is taken.
    """
    try:
        yield read_checkpoint(path, identity)
    except KeyError as error:
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, but it lacks {error}; delete it to start anew"
        ) from error


def read_checkpoint(path: Path, identity: str) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that was made for a search of this identity.

    Raises:
        CheckpointError: it is damaged, or another search's.
    """
    try:
        state, metadata = load_tensors_and_metadata(path)
    except WeightsError as error:
        raise CheckpointError(f"{error}; delete it to start anew") from error
    if metadata.get("identity") != identity:
        raise CheckpointError(
            f"{path}: expected a checkpoint of this search, found one of other settings or images; "
            "delete it or choose another folder"
        )
    return state
