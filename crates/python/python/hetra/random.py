"""Random arrays: numbers by place (Philox 4x32-10), the same on every device."""

from __future__ import annotations

import os
import threading
from typing import Any

from . import _core
from . import _dtypes as dt
from ._core import Array


class Generator:
    """A stream of random arrays. Each is a function of the seed and of how many came before."""

    def __init__(self, seed: int | None = None) -> None:
        self._seed = int.from_bytes(os.urandom(8), "little") if seed is None else int(seed)
        if not 0 <= self._seed < 2**64:
            raise ValueError(f"the seed is {seed}, wanted one from 0 to 2**64 - 1")
        self._drawn = 0
        self._lock = threading.Lock()

    def _draw(self, kind: str, size: Any, dtype: Any, device: Any, low: int = 0, high: int = 0) -> Array:
        with self._lock:
            index, self._drawn = self._drawn, self._drawn + 1
        shape = () if size is None else size
        return _core.random_draw(kind, self._seed, index, shape, dtype, device, low, high)

    def random(self, size: Any = None, dtype: Any = dt.float64, device: str | None = None) -> Array:
        """Numbers in [0, 1), all equally likely."""
        return self._draw("uniform", size, dtype, device)

    def uniform(
        self,
        low: float = 0.0,
        high: float = 1.0,
        size: Any = None,
        dtype: Any = dt.float64,
        device: str | None = None,
    ) -> Array:
        """Numbers in [low, high), all equally likely."""
        return self.random(size, dtype, device) * (high - low) + low

    def standard_normal(
        self, size: Any = None, dtype: Any = dt.float64, device: str | None = None
    ) -> Array:
        """Numbers of mean 0 and deviation 1."""
        return self._draw("normal", size, dtype, device)

    def normal(
        self,
        loc: float = 0.0,
        scale: float = 1.0,
        size: Any = None,
        dtype: Any = dt.float64,
        device: str | None = None,
    ) -> Array:
        """Numbers of the normal distribution."""
        return self.standard_normal(size, dtype, device) * scale + loc

    def integers(
        self, low: int, high: int | None = None, size: Any = None, device: str | None = None
    ) -> Array:
        """Whole numbers from `low` up to `high`, or from 0 up to `low`."""
        low, high = (0, low) if high is None else (low, high)
        return self._draw("integers", size, None, device, low, high)


def default_rng(seed: int | None = None) -> Generator:
    """A stream of random arrays; of a seed of the system's where none is given."""
    return Generator(seed)


_shared = Generator()


def seed(value: int) -> None:
    """Starts the stream of the functions below anew."""
    global _shared
    _shared = Generator(value)


def rand(*shape: int) -> Array:
    """Numbers in [0, 1), all equally likely."""
    return _shared.random(shape)


def randn(*shape: int) -> Array:
    """Numbers of mean 0 and deviation 1."""
    return _shared.standard_normal(shape)
