"""TVM's RPC servers and trackers on this machine, each a process group that always ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgec.runtime.devices.rpc_link import Address, Tracker

_HOST = "127.0.0.1"
# What python -m tvm.exec.rpc_tracker and rpc_server run in a process below them.
_TRACKER = "from tvm.rpc.tracker import PopenTrackerServerState as S; S('{host}', {port}, {end})"
_SERVER = (
    "from tvm.rpc.server import PopenRPCServerState as S; "
    "S('{host}', {port}, {end}, tracker_addr={tracker}, key='{key}')"
)


@contextmanager
def tracker_with(folder: Path, *keys: str) -> Generator[Address]:
    """Yield the address of a tracker with one server per key, all of them ready."""
    with ExitStack() as stack:
        tracker = stack.enter_context(_process(folder / "tracker.log", _TRACKER))()
        for index, key in enumerate(keys):
            log, where = folder / f"server{index}.log", (tracker.host, tracker.port)
            stack.enter_context(_process(log, _SERVER, tracker=where, key=key))
        with Tracker(tracker, 60) as asked:
            while sum(asked.keys().values()) < len(keys):
                time.sleep(0.05)
        yield tracker


@contextmanager
def server(folder: Path, key: str = "") -> Generator[Address]:
    """Yield the address of a server that no tracker knows."""
    with _process(folder / "server.log", _SERVER, tracker=None, key=key) as listening:
        yield listening()


@contextmanager
def _process(log: Path, program: str, **values: object) -> Generator[Callable[[], Address]]:
    """Start a program of TVM; yield what waits until it listens and returns where."""
    with socket.create_server((_HOST, 0)) as free:
        port = free.getsockname()[1]
    # The program itself takes the next one that is free.
    filled = program.format(host=_HOST, port=port, end=port + 100, **values)
    command = [sys.executable, "-u", "-c", filled]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True) as process,
    ):
        try:
            yield lambda: _listening(process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _listening(process: subprocess.Popen[bytes], log: Path) -> Address:
    while process.poll() is None:
        if found := re.search(rf"bind to {_HOST}:(\d+)", log.read_text()):
            return Address(_HOST, int(found[1]))
        time.sleep(0.05)
    raise RuntimeError(log.read_text())
