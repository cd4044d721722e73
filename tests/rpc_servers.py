"""TVM's RPC servers and trackers on this machine, each a process group that always ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from edgec.runtime.devices.rpc_link import Address, Tracker

_HOST = "127.0.0.1"
# What python -m tvm.exec.rpc_tracker and rpc_server run in processes below them. TVM is slow to
# import, so the servers are forks of the tracker.
_TRACKER = """
import os
from tvm.rpc.server import PopenRPCServerState as Server
from tvm.rpc.tracker import PopenTrackerServerState as Tracker
tracker = Tracker("{host}", {port}, {end})
for key in {keys}:
    if os.fork() == 0:
        Server("{host}", {port}, {end}, tracker_addr=("{host}", tracker.port), key=key)
        break
"""
_SERVER = """
from tvm.rpc.server import PopenRPCServerState as Server
Server("{host}", {port}, {end}, key="{key}")
"""


@contextmanager
def tracker_with(folder: Path, *keys: str) -> Generator[Address]:
    """Yield the address of a tracker with one server per key, all of them ready."""
    with _process(folder / "tracker.log", _TRACKER, keys=keys) as address:
        with Tracker(address, 60) as asked:
            while sum(asked.keys().values()) < len(keys):
                time.sleep(0.05)
        yield address


@contextmanager
def server(folder: Path, key: str = "") -> Generator[Address]:
    """Yield the address of a server that no tracker knows."""
    with _process(folder / "server.log", _SERVER, key=key) as address:
        yield address


@contextmanager
def _process(log: Path, program: str, **values: object) -> Generator[Address]:
    """Run a program in a process group of its own; yield where it listens, once it does."""
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
            yield _listening(process, log)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def _listening(process: subprocess.Popen[bytes], log: Path) -> Address:
    while process.poll() is None:
        if found := re.search(rf"bind to {_HOST}:(\d+)", log.read_text()):
            return Address(_HOST, int(found[1]))
        time.sleep(0.05)
    raise RuntimeError(log.read_text())
