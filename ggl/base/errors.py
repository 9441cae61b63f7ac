"""The errors that ggl raises: each says what was expected, what came, and what to do."""


class GGLError(Exception):
    """Base of every error that ggl raises on purpose; the command line ends with code 2 on it."""


class InputError(GGLError, ValueError):
    """An argument, a file or a folder is not what was asked for."""


class UnknownNameError(InputError):
    """A name is not registered; the message holds the nearest known one."""


class WeightsError(GGLError, ValueError):
    """A weights file is missing, cut short, altered, or holds something that is not a tensor."""


class CheckpointError(GGLError, ValueError):
    """A saved run does not belong to the settings it is resumed with, or cannot be read."""


class GradientError(GGLError, RuntimeError):
    """A gradient is zero or not finite, so that there is nothing to match."""


class DeviceError(GGLError, RuntimeError):
    """A device was asked for that is not there."""
