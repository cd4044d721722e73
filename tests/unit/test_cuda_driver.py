"""The host program of a GPU model: whatever call of the driver fails, it says so and holds nothing.

The driver is the emulator with a count: call number `fail_at` fails, in every run another one.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

RUNTIME = Path(__file__).resolve().parents[2] / "runtime" / "c" / "cuda"
WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing"]

# The driver: every call counted, what is held counted.
FAKE = r"""
#define edgec_cuda_find emulated_find
#include "edgec_cuda_emulator.c"
#undef edgec_cuda_find
#include <stdio.h>
static edgec_cuda_api real;
static int calls, fail_at, contexts, modules, blocks, streams, current;
static int fails(void) { return ++calls == fail_at; }
#define FAILING(name, parameters, arguments, held)                                                \
    static int fake_##name parameters                                                              \
    {                                                                                              \
        const int status = fails() ? 2 : real.name arguments;                                      \
        if (status == 0) { held; }                                                                 \
        return status;                                                                             \
    }
FAILING(Init, (unsigned f), (f), (void)0)
FAILING(DeviceGetCount, (int *n), (n), (void)0)
FAILING(DeviceGet, (int *d, int n), (d, n), (void)0)
FAILING(DevicePrimaryCtxRetain, (void **c, int d), (c, d), ++contexts)
FAILING(CtxPushCurrent, (void *c), (c), ++current)
FAILING(ModuleLoadData, (void **m, const void *i), (m, i), ++modules)
FAILING(ModuleGetFunction, (void **f, void *m, const char *n), (f, m, n), (void)0)
FAILING(MemAlloc, (uint64_t *m, size_t n), (m, n), ++blocks)
FAILING(StreamCreate, (void **s, unsigned f), (s, f), ++streams)
FAILING(MemcpyHtoDAsync, (uint64_t t, const void *f, size_t n, void *s), (t, f, n, s), (void)0)
FAILING(MemcpyDtoHAsync, (void *t, uint64_t f, size_t n, void *s), (t, f, n, s), (void)0)
FAILING(StreamSynchronize, (void *s), (s), (void)0)
FAILING(LaunchKernel, (void *f, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e,
        unsigned g, unsigned m, void *s, void **p, void **x), (f, a, b, c, d, e, g, m, s, p, x),
        (void)0)
static int fake_release(int d) { --contexts; return real.DevicePrimaryCtxRelease(d); }
static int fake_pop(void **c) { --current; return real.CtxPopCurrent(c); }
static int fake_unload(void *m) { --modules; return real.ModuleUnload(m); }
static int fake_free(uint64_t m) { --blocks; return real.MemFree(m); }
static int fake_destroy(void *s) { --streams; return real.StreamDestroy(s); }
int32_t edgec_cuda_find(edgec_cuda_api *api)
{
    if (emulated_find(&real) != 0 || fails()) { return -1; }
    const edgec_cuda_api fake = {
        fake_Init, fake_DeviceGetCount, fake_DeviceGet, fake_DevicePrimaryCtxRetain, fake_release,
        fake_CtxPushCurrent, fake_pop, fake_ModuleLoadData, fake_unload, fake_ModuleGetFunction,
        fake_MemAlloc, fake_free, fake_MemcpyHtoDAsync, fake_MemcpyDtoHAsync, fake_StreamCreate,
        fake_StreamSynchronize, fake_destroy, fake_LaunchKernel, real.GetErrorString};
    *api = fake;
    return 0;
}
"""
# A model: y[i] = x[i] + w[i] on 200 threads. Prints a line per run: fail_at, status, held, error.
MAIN = r"""
static void add(void **p)
{
    const int i = edgec_emulated_thread;
    if (i < 200) {
        (*(int8_t **)p[2])[i] = (int8_t)((*(int8_t **)p[0])[i] + (*(int8_t **)p[1])[i]);
    }
}
const edgec_emulated_function edgec_emulated_functions[] = {{"add", add}, {NULL, NULL}};
static int8_t w[200], x[200], y[200];
static const edgec_cuda_constant constants[] = {{w, 0, 200}};
static const edgec_cuda_port inputs[] = {{256, 200}}, outputs[] = {{512, 200}};
static const edgec_cuda_launch launches[] = {{"add", 200, 0, 3, 0}};
static const uint64_t arguments[] = {256, 0, 512};
static const edgec_cuda_model model = {
    "\177ELF", 768, constants, 1, inputs, 1, outputs, 1, launches, 1, arguments};
static void *functions[1];
static edgec_cuda_session session = EDGEC_CUDA_SESSION(functions);

static int run(int at)
{
    const void *const given[] = {x};
    void *const taken[] = {y};
    calls = 0;
    fail_at = at;
    memset(y, 0, sizeof y);
    const int status = edgec_cuda_run(&session, &model, given, taken);
    const int counted = calls;
    fail_at = 0;
    int right = 1;
    for (int i = 0; i < 200; ++i) { right &= y[i] == (int8_t)(x[i] + w[i]); }
    printf("%d %d %d %d %s\n", at, status, right, current, session.error);
    return counted;
}

static void leave(void)
{
    edgec_cuda_close(&session);
    printf("held %d\n", contexts + modules + blocks + streams + current);
}

int main(void)
{
    for (int i = 0; i < 200; ++i) { x[i] = (int8_t)i; w[i] = (int8_t)(3 * i + 1); }
    run(1); /* no driver: not asked for again */
    leave();
    return 0;
}
"""
EVERY = MAIN.replace(
    "run(1); /* no driver: not asked for again */",
    "const int all = run(0);\n    run(0);\n    leave();\n"
    "    for (int at = 1; at < all; ++at) { run(at); run(0); leave(); }",
)


def output(folder: Path, main: str) -> list[str]:
    (folder / "main.c").write_text(FAKE + main)
    sources = [str(folder / "main.c"), str(RUNTIME / "edgec_cuda_driver.c")]
    program = str(folder / "main")
    subprocess.run(["gcc", *WARNINGS, f"-I{RUNTIME}", *sources, "-o", program], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def test_without_a_driver_nothing_is_opened(tmp_path: Path) -> None:
    first, held = output(tmp_path, MAIN)
    assert first == "1 -1 0 0 there is no NVIDIA driver (libcuda.so.1) here"
    assert held == "held 0"


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return output(tmp_path_factory.mktemp("driver"), EVERY)


def test_runs_are_right_again_and_again(lines: list[str]) -> None:
    assert lines[:3] == ["0 0 1 0 ", "0 0 1 0 ", "held 0"]


def test_every_failure_is_reported_leaves_nothing_and_is_over_in_the_next_run(
    lines: list[str],
) -> None:
    failures = lines[3:-1]
    assert len(failures) // 3 >= 14  # as many calls of the driver
    for failed, again, held in zip(failures[::3], failures[1::3], failures[2::3], strict=True):
        _, status, _, current, *error = failed.split(" ")
        assert int(status) in (2, -2) and current == "0", failed
        assert len(" ".join(error)) > 10, failed
        assert again == "0 0 1 0 " and held == "held 0", failed
    assert any("no memory for the model" in line for line in failures)
    assert any("does not take the compiled kernels: invalid argument" in line for line in failures)
