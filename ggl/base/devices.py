"""Devices by name."""

import torch

from ggl.base.errors import DeviceError

__all__ = ["find_device"]


def find_device(name: str) -> torch.device:
    """Return the device of a name such as "cpu", "cuda", "cuda:1", or "auto": a GPU where there is one.

    Raises:
        DeviceError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"expected a device such as cpu, cuda, cuda:1 or auto; found {name!r}") from error
    there = torch.cuda.device_count() if device.type == "cuda" else int(device.type == "cpu")
    if (device.index or 0) >= there:
        have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
        raise DeviceError(f"device {name!r} is not there; this machine has {have}")
    return device
