"""Work on a thread of its own that its caller need not wait for to the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs `work` at once on a daemon thread: who loses patience or is interrupted leaves it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def result(self, timeout_s: float | None = None) -> T:
        """Return what work returns or raise what it raises; TimeoutError when it takes longer.

        To be called once.
        """
        if not self._ended.wait(timeout_s):
            raise TimeoutError
        error, self._error = self._error, None
        if error is None:
            return self._results[0]
        try:
            raise error
        finally:
            # Its traceback holds this frame: what the work used is freed when the error is.
            del error

    def _run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:
            self._error = error
        finally:
            self._ended.set()
