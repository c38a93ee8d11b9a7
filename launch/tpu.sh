#!/usr/bin/env bash
# Train on a TPU pod slice; run on a machine with gcloud:
#   TPU=my-pod ZONE=us-east5-a launch/tpu.sh --config=configs/x.py --workdir=/shared/runs/x
# --workdir must be a folder that all workers see (Filestore, or a bucket mounted with gcsfuse).
# Every worker of the slice gets this checkout and runs the same command; JAX finds the others by itself.
set -euo pipefail
: "${TPU:?the name of the TPU}" "${ZONE:?its zone}"
cd "$(dirname "$0")/.."

on_all() { gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"; }

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz -o "$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU:jaxft.tar.gz" --zone="$ZONE" --worker=all
on_all "mkdir -p jaxft && tar xzf jaxft.tar.gz -C jaxft && cd jaxft && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
printf -v arguments ' %q' "$@"
on_all "cd jaxft && JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/jaxft/compiled JAXFT_DISTRIBUTED=1 .venv/bin/python -m jaxft.train$arguments"
