#!/bin/sh
# Prepares a checkout: .venv with edgec and its development tools, and the compilers and emulators.
# Safe to run again; does nothing when everything is there. PYTHON chooses the interpreter.
set -eu
cd "$(dirname "$0")/.."

programs="gcc:gcc ar:binutils make:make arm-none-eabi-gcc:gcc-arm-none-eabi
aarch64-linux-gnu-gcc:gcc-aarch64-linux-gnu qemu-aarch64:qemu-user qemu-system-arm:qemu-system-arm
clang:clang cmake:cmake chromium:chromium pdftoppm:poppler-utils"

missing=""
for pair in $programs; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
# Only recommended by the compilers' packages: a minimal installation lacks them.
has_library() { case "$("$1" -print-file-name="$2" 2>/dev/null)" in /*) ;; *) return 1 ;; esac; }
has_library gcc crt1.o || missing="$missing libc6-dev"
has_library arm-none-eabi-gcc libc_nano.a || missing="$missing libnewlib-arm-none-eabi"
has_library aarch64-linux-gnu-gcc libc.a || missing="$missing libc6-dev-arm64-cross"

python="${PYTHON:-python3}"
# Debian keeps this part of Python in a package of its own.
[ -x .venv/bin/python ] || "$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing$missing"
        # A failure is reported and not fatal: what needs the tools names them again.
        # shellcheck disable=SC2086  # one word per package
        { apt-get update -qq &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } \
            >/dev/null || echo "setup: apt-get could not install$missing" >&2
    else
        echo "setup: some targets cannot be built or checked, and some tests are skipped, until" >&2
        echo "you run:  sudo apt-get install$missing" >&2
    fi
fi

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "setup: '$python' is missing or older than 3.10; set PYTHON to a newer one." >&2
    exit 3
fi
if [ ! -e .venv ]; then
    trap 'rm -rf .venv; exit 3' EXIT INT TERM
    "$python" -m venv .venv || {
        echo "setup: '$python' cannot make a virtual environment: sudo apt-get install python3-venv" >&2
        exit 3
    }
    trap - EXIT INT TERM
fi
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "setup: .venv has no pip; it was not made here: remove or rename it and run this again." >&2
    exit 3
fi

# The stamp is written last, so that an interrupted installation is repeated.
stamp=.venv/edgec-setup.sha256
wanted="$(sha256sum pyproject.toml | cut -d ' ' -f 1)"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$wanted" ]; then
    echo "setup: installing Python packages into .venv (about 1 GB)"
    .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
    echo "$wanted" >"$stamp"
fi
echo "setup: ready (.venv/bin/edgec)"
