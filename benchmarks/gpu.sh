#!/usr/bin/env bash
# What a GPU makes of eIP, on a bare machine that has one, in under eight minutes:
#
#   bash benchmarks/gpu.sh [FOLDER]                 figures in FOLDER/gpu.json (default: gpu-figures)
#   bash benchmarks/gpu.sh [FOLDER] --dry-run       the whole script without a GPU, tiny sizes
#
# PYTHON: an interpreter; one that can import eip and, but for a dry run, sees a GPU is taken as it is,
# else a virtual environment is made in FOLDER with PyTorch for CUDA. PEERS=no: without MACE.
# A second call goes on where the first was stopped. How each part is limited: gpu.py.
set -u
here=$(cd "$(dirname "$0")" && pwd)
folder=gpu-figures
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then folder=$1; shift; fi
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$here/../src${PYTHONPATH:+:$PYTHONPATH}"
began=$(date +%s)

dry=no
for argument in "$@"; do [ "$argument" = --dry-run ] && dry=yes; done

serves() { # whether an interpreter can do it as it is
    local seen="torch.cuda.is_available()"
    [ $dry = yes ] && seen=True
    "$1" -c "import sys, torch, triton, eip.verbs.device; sys.exit(not $seen)" 2>"$folder/why-not.log"
}

if ! serves "$python"; then
    if [ $dry = yes ]; then
        echo "a dry run needs PyTorch, eIP's libraries and Triton (PYTHON=...):"; cat "$folder/why-not.log"
        exit 2
    fi
    own=$folder/environment
    [ -x "$own/bin/python" ] || "$python" -m venv "$own" || exit 2
    echo "installing PyTorch for CUDA and eIP's libraries, at most 240 s"
    timeout 240 "$own/bin/python" -m pip install --quiet "$here/..[gpu]" || {
        echo "not installed in time; call again to go on"
        exit 2
    }
    python=$own/bin/python
    serves "$python" || { cat "$folder/why-not.log"; echo "PyTorch sees no GPU"; exit 2; }
fi

# In the background, since it is of use for the last part alone.
if [ $dry = no ] && [ "${PEERS:-yes}" != no ] && [ ! -e "$here/.envs/mace" ]; then
    made=$folder/mace-environment
    (
        rm -rf "$made"
        "$python" -m venv "$made" &&
            timeout 300 "$made/bin/python" -m pip install --quiet mace-torch \
                cuequivariance-torch cuequivariance-ops-torch-cu12 &&
            mkdir -p "$here/.envs" && mv "$made" "$here/.envs/mace" # whole, or not at all
    ) >"$folder/peers.log" 2>&1 &
fi

left=$((480 - ($(date +%s) - began)))
[ $dry = yes ] && left=7200
exec "$python" "$here/gpu.py" --out "$folder" --seconds "$left" "$@"
