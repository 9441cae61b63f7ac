"""What searches over the Nevergrad library share: random states, errors, and the state to be saved."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ggl.base.distribution import install_command
from ggl.base.errors import CheckpointError, GGLError, InputError
from ggl.base.random import stream_seed
from ggl.optimizers.base import State, Strategy

__all__ = ["NevergradSearch", "load_library"]

LIBRARY_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What optimizers of the registry were seen to raise, beside Nevergrad's own errors."""


class NevergradSearch(Strategy):
    """A Nevergrad optimizer with random states of its own, saved as the losses that it was told."""

    anytime = False

    def __init__(self, latent_dim: int, batch_size: int, *, budget: int, seed: int) -> None:
        super().__init__(latent_dim, batch_size)
        self.budget, self.seed = budget, seed

    @abstractmethod
    def _build(self, library: Any) -> Any:
        """Return the optimizer and set `batch_size` to its generation."""

    @abstractmethod
    def _name(self) -> str: ...

    def _place(self, x: Tensor) -> Tensor:
        """Return the latents of the library's points."""
        return x

    def _before_tell(self) -> None: ...

    def _after_tell(self) -> None: ...

    def _start(self) -> None:
        self.stopped = False
        self._told: list[Tensor] = []
        self._last = torch.empty(0, self.latent_dim, dtype=torch.float64)
        self._candidates: list[Any] = []
        self._numpy_state = np.random.RandomState(self._seed_of("global")).get_state()
        library = load_library()
        with self._guarded():
            self._optimizer = self._build(library)

    def _seed_of(self, name: str) -> int:
        return stream_seed(self.seed, self._name(), name) % 2**32

    def _parametrization(self, library: Any, start: np.ndarray) -> Any:
        parametrization = library.p.Array(init=start)
        parametrization.random_state = np.random.RandomState(self._seed_of("optimizer"))
        return parametrization

    def _ask(self) -> Tensor:
        if not self._candidates:
            with self._guarded():
                self._propose()
        return self._place(torch.from_numpy(np.stack([candidate.value for candidate in self._candidates])))

    def _propose(self) -> None:
        self._candidates = _in_daemon(lambda: [self._optimizer.ask() for _ in range(self.batch_size)])

    def _tell(self, z: Tensor, loss: Tensor, gradient: Tensor | None) -> None:  # noqa: ARG002
        with self._guarded():
            self._before_tell()
            for candidate, value in zip(self._candidates, loss.tolist(), strict=True):
                self._optimizer.tell(candidate, value)
            self._after_tell()
            self._told.append(loss)
            self._last = z
            self._candidates = []
            # Some optimizers work in a thread from tell to ask: it must not outlive the guard.
            if (len(self._told) + 1) * self.batch_size <= self.budget:
                self._propose()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Give the library a global NumPy state of its own, and make one error of what it complains of."""
        outside = np.random.get_state()
        np.random.set_state(self._numpy_state)
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                yield
        except GGLError:
            raise
        except (*LIBRARY_ERRORS, load_library().errors.NevergradError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise self._unusable(reason) from error
        finally:
            self._numpy_state = np.random.get_state()
            np.random.set_state(outside)
        self._heed([warning.message for warning in caught])

    def _heed(self, messages: list[Warning | str]) -> None:
        """Take Nevergrad's own warnings; those of the libraries below it are theirs."""
        errors = load_library().errors
        # The latter: a loss above 5e20 counts as 5e20, among the worst in any case.
        harmless = (errors.InefficientSettingsWarning, errors.LossTooLargeWarning)
        for message in messages:
            if isinstance(message, errors.FinishedUnderlyingOptimizerWarning):
                self.stopped = True
            elif isinstance(message, errors.NevergradWarning) and not isinstance(message, harmless):
                raise self._unusable(f"it warns: {message}")

    def _unusable(self, reason: str) -> InputError:
        return InputError(
            f"Nevergrad's {self._name()}: expected a search over {self.latent_dim} real numbers "
            f"in generations of {self.batch_size}, found {reason[:300]}; choose another optimizer"
        )

    def _state(self) -> State:
        """Return the losses told so far, which with the seed are the whole state, and the last latents."""
        losses = torch.stack(self._told) if self._told else torch.empty(0, self.batch_size)
        return {"losses": losses, "last": self._last.clone()}

    def _load(self, state: State) -> None:
        """Replay: the seed gives the same generations, the saved losses the same updates.

        Raises:
            CheckpointError: the replay led elsewhere: some of the registry do not repeat themselves.
        """
        self._start()
        for loss in state["losses"].double():
            self._tell(self._ask(), loss, None)
        if not torch.equal(self._last, state["last"]):
            raise CheckpointError(
                f"Nevergrad's {self._name()}: expected the saved generations again, found others; it does "
                "not repeat itself or was saved with other settings: start it anew"
            )


def load_library() -> Any:
    """Import Nevergrad, some of whose registry is drawn from the global state on import."""
    outside = np.random.get_state()
    np.random.seed(0)
    try:
        import nevergrad
    except ImportError as error:
        raise InputError(
            f"nevergrad: expected the package, found none ({error}); {install_command('nevergrad')}"
        ) from error
    finally:
        np.random.set_state(outside)
    return nevergrad


def _in_daemon(ask: Callable[[], list[Any]]) -> list[Any]:
    """Call in a daemon thread: threads that optimizers begin there do not keep Python from ending."""
    asked: Future[list[Any]] = Future()

    def run() -> None:
        try:
            asked.set_result(ask())
        except BaseException as error:  # noqa: BLE001 (it is raised in the caller)
            asked.set_exception(error)

    Thread(target=run, daemon=True).start()
    return asked.result()
