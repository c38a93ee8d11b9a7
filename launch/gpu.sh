#!/usr/bin/env bash
# Train on all GPUs of this machine:  launch/gpu.sh --config=configs/x.py --workdir=runs/x
# Only some of them:                  CUDA_VISIBLE_DEVICES=0,1 launch/gpu.sh ...
set -euo pipefail
# JAX takes this share of the memory at once instead of in pieces, which would scatter it.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
# Compiled programs are kept, so that the next start is quick.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jaxft/compiled}"
exec python -m jaxft.train "$@"
