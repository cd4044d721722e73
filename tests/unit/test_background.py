"""Work on a thread that its caller may leave."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref

import pytest

from edgec.compiler.core.background import Background


class Session:
    """What others wait for until nothing refers to it."""


def test_what_work_returns_or_raises_comes_back() -> None:
    assert Background(lambda: 6 * 7).result(10) == 42

    def fail() -> None:
        raise ValueError("seven")

    with pytest.raises(ValueError, match="seven"):
        Background(fail).result(10)


def test_the_caller_may_lose_patience_and_ask_again() -> None:
    go_on = threading.Event()
    running = Background(lambda: go_on.wait(10))
    with pytest.raises(TimeoutError):
        running.result(0.01)
    go_on.set()
    assert running.result(10)


def test_an_error_keeps_nothing_alive_once_it_was_handled() -> None:
    session = Session()
    watched = weakref.ref(session)

    def fail(held: Session) -> None:
        raise ValueError(held)

    gc.disable()
    try:
        with contextlib.suppress(ValueError):
            Background(lambda held=session: fail(held)).result(10)
        del session
        deadline = time.monotonic() + 5
        while watched() is not None and time.monotonic() < deadline:
            time.sleep(0.001)  # the thread itself may still be ending
        assert watched() is None
    finally:
        gc.enable()
