"""Devices behind TVM's RPC: servers and a tracker on loopback, and the aarch64 end under QEMU."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.compiler import api
from edgec.compiler.core.background import Background
from edgec.compiler.core.errors import DeviceError, OptionError
from edgec.runtime.devices import RpcBoard, device_for, open_device
from edgec.runtime.devices.rpc_link import Address, RpcLink
from edgec.targets import find_target
from tests.rpc_servers import server, tracker_with
from tests.small import cnn_samples, edgec, good, good_json, write_cnn

pytestmark = pytest.mark.rpc

X = np.arange(60, dtype=np.int8).reshape(3, 4, 5)
HOST, _ = find_target("host")
Tiny = Callable[..., tuple[Path, Any]]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Generator[Address]:
    """A tracker with two servers of one key."""
    with tracker_with(tmp_path_factory.mktemp("rpc"), "pair", "pair") as address:
        yield address


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network for the host, its constants in a file."""
    folder = tmp_path_factory.mktemp("artifact")
    model, data = write_cnn(folder)
    flags = ("--target", "host", "--calibration", data, "--weights-file")
    good("compile", model, *flags, "-o", folder / "host")
    return folder / "host"


@pytest.fixture
def board(tracker: Address) -> Generator[RpcBoard]:
    """A server that the tracker lends."""
    with open_device(HOST, 30, f"rpc-tracker:{tracker}:pair") as device:
        assert isinstance(device, RpcBoard)
        yield device


def test_check_through_the_tracker(artifact: Path, tracker: Address) -> None:
    verdict = good_json("check", artifact, "--device", f"rpc-tracker:{tracker}:pair", "--layers")
    here = good_json("check", artifact, "--device", "local")
    assert verdict["passed"] and verdict["quantised"] == here["quantised"]
    assert [layer["same_bits"] for layer in verdict["layers"]["layers"]] == [True] * 5
    assert re.fullmatch(r"pair at 127\.0\.0\.1:\d+", verdict["device"])
    assert 0 < verdict["time_s"] < 1


def test_two_devices_are_checked_at_once(artifact: Path, tracker: Address) -> None:
    devices = ("--device", f"rpc-tracker:{tracker}:pair") * 2
    found = good_json("check", artifact, "--device", "local", *devices)
    names = {verdict["device"] for verdict in found["verdicts"]}
    assert found["passed"] and found["errors"] == [] and len(names) == 3
    page = (artifact / "report.html").read_text()
    assert all(name in page for name in names)


def test_what_fails_on_one_device_does_not_hide_the_others(
    artifact: Path, tracker: Address
) -> None:
    devices = ("--device", f"rpc-tracker:{tracker}:absent", "--device", "local")
    mixed = edgec("check", artifact, *devices, "--json")
    found = json.loads(mixed.stdout)
    assert mixed.exit_code == 2 and not found["passed"]
    assert [verdict["device"] for verdict in found["verdicts"]] == ["this machine"]
    assert "absent: the RPC tracker at" in found["errors"][0]
    text = edgec("check", artifact, *devices)
    assert "PASSED  " in text.stdout and "its keys are: pair (2)." in text.stderr
    kept = edgec("check", artifact, *devices, "--layers", "--keep", artifact.parent / "keep")
    assert kept.exit_code == 2 and "one device only" in kept.stderr


def test_remote_checks_run_at_the_same_time(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2, timeout=10)

    def meet(path: Path, device: str) -> None:
        both.wait()
        raise OptionError(f"met on {device}")

    monkeypatch.setattr(api, "check_artifact", meet)
    found = api.check_each(artifact, ["rpc:a:1", "rpc:b:2"])
    assert [str(c.error) for c in found] == ["met on rpc:a:1", "met on rpc:b:2"]


def test_run_and_bench(artifact: Path, tracker: Address, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", image=cnn_samples(3, seed=5))
    answers: list[Any] = []
    for device in ("auto", f"rpc-tracker:{tracker}:pair"):
        saved = tmp_path / "out.npz"
        good("run", artifact, "--input", tmp_path / "new.npz", "-o", saved, "--device", device)
        with np.load(saved) as stored:
            answers.append(stored["scores"])
    assert np.array_equal(*answers)
    devices = ("--device", "local", "--device", f"rpc-tracker:{tracker}:pair")
    local, far = good_json("bench", artifact, *devices, "--repeat", 3)["artifacts"]
    assert far["time"]["runs"] == local["time"]["runs"] == 3 * far["samples"]
    assert 0 < far["time"]["fastest_s"] <= far["time"]["median_s"] <= far["time"]["slowest_s"]
    assert sum(layer["time_s"] for layer in far["layers"]) > 0


def test_many_samples_go_in_parts(
    build_tiny: Tiny, board: RpcBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgec.runtime.devices.rpc._CALL_BYTES", 100)
    folder, manifest = build_tiny("host", "good")
    x = np.arange(-128, 112, dtype=np.int8).reshape(12, 4, 5)
    result = board.run(folder, manifest, {"x:0": x}, repeat=2)
    assert np.array_equal(result.outputs["y"], x + 1)
    expected = (x.astype(np.int32).reshape(12, 20) * (np.arange(20) - 10)).sum(axis=1)
    assert np.array_equal(result.outputs["sum"].reshape(-1), expected)
    assert result.times_s is not None and len(result.times_s) == 24


def test_a_session_sends_nothing_twice(
    build_tiny: Tiny, board: RpcBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = build_tiny("host", "good")
    board.run(folder, manifest, {"x:0": X})
    sent: list[str] = []

    def note(session: object, content: bytearray, name: str) -> None:
        sent.append(name)

    monkeypatch.setattr("tvm.rpc.client.RPCSession.upload", note)
    assert np.array_equal(board.run(folder, manifest, {"x:0": -X}).outputs["y"], 1 - X)
    assert sent == []
    other = build_tiny("host", "fails")
    with pytest.raises(DeviceError, match=r"cannot load 'tiny' \(host\): .*No such file"):
        board.run(*other, {"x:0": X})
    # Only the library differs, and here it did not arrive.
    assert [name.partition("-")[2] for name in sent] == ["libtiny.so"]


def test_misbehaviour_is_reported_and_the_server_lives_on(
    build_tiny: Tiny, board: RpcBoard
) -> None:
    said = {
        "overruns": "past the end of 'y'", "fails": "status 7", "undefined": "signal 4 ended it",
        "good": None,
    }  # fmt: skip
    for behaviour, text in said.items():
        folder, manifest = build_tiny("host", behaviour)
        if text is None:
            assert np.array_equal(board.run(folder, manifest, {"x:0": X}).outputs["y"], X + 1)
            continue
        with pytest.raises(DeviceError, match=text):
            board.run(folder, manifest, {"x:0": X})


def test_a_hang_ends_at_the_time_limit(build_tiny: Tiny, board: RpcBoard) -> None:
    folder, manifest = build_tiny("host", "hangs")
    with pytest.raises(DeviceError, match=r"pair at \S+ gave no answer within 0\.3 s"):
        RpcBoard(board.link, timeout_s=0.3).run(folder, manifest, {"x:0": X})


def test_a_device_is_lent_to_one_at_a_time(board: RpcBoard, tracker: Address) -> None:
    where = f"rpc-tracker:{tracker}:pair"
    with open_device(HOST, 30, where) as other:
        assert other.description != board.description
        with pytest.raises(DeviceError, match=r"key 'pair' .* became free in time \(it has 2\)"):
            device_for(HOST, 0.3, where)
        board.close()
        with open_device(HOST, 30, where) as again:
            assert again.description == board.description


@pytest.mark.qemu_aarch64
def test_code_for_another_processor_is_named(build_tiny: Tiny, board: RpcBoard) -> None:
    folder, manifest = build_tiny("aarch64")
    said = r"cannot load code for target 'aarch64', which is for another processor"
    with pytest.raises(DeviceError, match=said):
        board.run(folder, manifest, {"x:0": X})


# Calls edgec_check of argv[1] on one sample with the library argv[2], as a TVM RPC server does.
_CALLER = """
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef struct { int32_t type; uint32_t pad; union { int64_t n; void *p; } v; } any;
typedef struct { void *data; int32_t device[2], ndim; uint8_t code, bits; uint16_t lanes;
                 int64_t *shape, *strides; uint64_t offset; } tensor;
int main(int argc, char **argv)
{
    int8_t x[20], y[24];
    double times[2] = {0, 0};
    char log[64] = "", none[1] = "";
    any arguments[9], result;
    struct { void *at; int64_t bytes; } parts[6] = {
        {x, 20}, {y, 24}, {times, 16}, {log, 64}, {argv[2], strlen(argv[2]) + 1}, {none, 1}};
    tensor tensors[6];
    for (int i = 0; i < 20; i++) x[i] = i;
    for (int i = 0; i < 6; i++) {
        tensors[i] = (tensor){parts[i].at, {1, 0}, 1, 1, 8, 1, &parts[i].bytes, NULL, 0};
        arguments[i] = (any){7, 0, {.p = &tensors[i]}};
    }
    arguments[6] = (any){1, 0, {0}};
    arguments[7] = (any){1, 0, {2}};
    arguments[8] = (any){1, 0, {10000}};
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
    int (*call)(void *, const any *, int32_t, any *);
    *(void **)&call = library ? dlsym(library, "__tvm_ffi_edgec_check") : NULL;
    if (!call || call(NULL, arguments, 9, &result) != 0) return 1;
    printf("%d %d %d\\n%s", (int)result.v.n, times[0] > 0, times[1] > 0, log);
    for (int i = 0; i < 20; i++) printf(" %d", y[i]);
    return 0;
}
"""


@pytest.mark.qemu_aarch64
@pytest.mark.parametrize(
    ("behaviour", "said"),
    [("good", "0 1 1"), ("overruns", "4 0 0\noverrun y"), ("undefined", "-5 0 0")],
)
def test_the_end_for_aarch64(build_tiny: Tiny, tmp_path: Path, behaviour: str, said: str) -> None:
    folder, _ = build_tiny("aarch64", behaviour)
    (tmp_path / "caller.c").write_text(_CALLER)
    program = str(tmp_path / "caller")
    subprocess.run(["aarch64-linux-gnu-gcc", f"{program}.c", "-ldl", "-o", program], check=True)
    ends = [str(folder / "firmware" / "rpc.so"), str(folder / "lib" / "libtiny.so")]
    emulator = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]
    done = subprocess.run(
        [*emulator, program, *ends], capture_output=True, text=True, check=True, timeout=60
    )
    numbers = done.stdout.splitlines()[-1].split() if behaviour == "good" else []
    assert done.stdout.startswith(said)
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    assert (len(numbers) == 20) == (behaviour == "good")


def test_a_connection_that_breaks_is_said(build_tiny: Tiny, tmp_path: Path) -> None:
    folder, manifest = build_tiny("host", "hangs")
    with server(tmp_path, key="doomed") as address:
        with pytest.raises(OptionError, match="has another key than none; write the key"):
            device_for(HOST, 30, f"rpc:{address}")
        device = device_for(HOST, 30, f"rpc:{address}:doomed")
        running = Background(lambda: device.run(folder, manifest, {"x:0": X}))
        while "load_module" not in (tmp_path / "server.log").read_text():
            time.sleep(0.01)
    with pytest.raises(DeviceError, match=r"the connection to doomed at .* was lost: "):
        running.result(20)
    with pytest.raises(OptionError, match=f"nobody listens at RPC server {address}; start"):
        device_for(HOST, 30, f"rpc:{address}")


def test_silence_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgec.runtime.devices.rpc_link._GRACE_S", 0.0)
    with pytest.raises(DeviceError, match=r"said nothing for 0\.05 s; the connection or"):
        RpcLink(None, "board").within(0.05, lambda: time.sleep(1))


def test_what_is_no_server_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = Address(*other.getsockname())
        answering = Background(lambda: _answer_as_another(other))
        with pytest.raises(OptionError, match="is no TVM RPC server; is the port right"):
            device_for(HOST, 30, f"rpc:{address}")
        with pytest.raises(OptionError, match="is no RPC tracker; is the port right"):
            device_for(HOST, 30, f"rpc-tracker:{address}:key")
        answering.result(10)
        with pytest.raises(DeviceError, match=r"did not serve it within 0\.1 s; it is busy"):
            device_for(HOST, 0.1, f"rpc:{address}")
    with pytest.raises(OptionError, match="no RPC tracker listens at"):
        device_for(HOST, 30, f"rpc-tracker:{address}:key")


def _answer_as_another(listening: socket.socket) -> None:
    for _ in range(2):
        line, _ = listening.accept()
        with line:
            line.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
            line.recv(100)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("rpc:", "no address; write"),
        ("rpc:host", "no address; write"),
        ("rpc:host:70000", "no address; write"),
        ("rpc-tracker:host:x:key", "no address; write"),
        ("rpc-tracker:host:1", "names no key; write"),
    ],
)
def test_wrong_addresses_are_said(device: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        device_for(HOST, 30, device)


def test_boards_without_linux_are_refused() -> None:
    with pytest.raises(OptionError, match="'cortex-m4' is not checked by RPC"):
        device_for(find_target("cortex-m4")[0], 30, "rpc:host:1")
