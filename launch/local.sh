#!/usr/bin/env bash
# Train on this machine:  launch/local.sh [--dry-run] [--processes=N] [--restarts=N] -- --config=... --workdir=...
#
# One process drives all GPUs (CUDA_VISIBLE_DEVICES chooses some). --processes=N starts N processes on the CPU instead,
# each with an equal part of the cores. --restarts=N repeats the command up to N times after exit code 75.
# --dry-run prints the commands and runs nothing. The Python is $PYTHON, else .venv/bin/python, else python.
#
# Exit codes: those of jaxft.train (0 done, 2 invalid input, 75 run again, 1 other errors); with several processes that
# of the first to fail, 75 if one was killed. SIGTERM and SIGINT are forwarded.
set -euo pipefail

usage() {
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
}

fail() {
  echo "error: $1" >&2
  exit 2
}

dry=0 processes=1 restarts=0
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --processes=*) processes=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    -h | --help)
      usage
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "$1 is not a flag of launch/local.sh: put those of jaxft.train after --" ;;
  esac
  shift
done
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "--processes=$processes is not a number of processes"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts is not a number"
(($#)) || fail "nothing to train: launch/local.sh [flags] -- --config=FILE.py --workdir=DIR"

root=$(cd "$(dirname "$0")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
  if [[ -x $root/.venv/bin/python ]]; then PYTHON=$root/.venv/bin/python; else PYTHON=python; fi
fi

# The environment of every process, as arguments of `env`.
settings=(
  # JAX preallocates this fraction of a GPU's memory, which avoids fragmentation.
  "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
)
port=29400
if ((processes > 1 && !dry)); then
  port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
fi

# Prints the environment of process $1 alone, one variable per line.
share() {
  ((processes > 1)) || return 0
  printf '%s\n' JAX_PLATFORMS=cpu "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$processes" \
    "JAX_PROCESS_ID=$1"
}

# Sets `line` to the command of process $1; the other arguments are those of jaxft.train.
command_of() {
  local number=$1 cores each first own
  shift
  line=()
  cores=$(nproc 2>/dev/null || echo 1)
  each=$((cores / processes))
  first=$((number * each))
  if ((processes > 1 && each > 0)) && command -v taskset >/dev/null; then
    line+=(taskset -c "$first-$((first + each - 1))")
  fi
  mapfile -t own < <(share "$number")
  line+=(env "${settings[@]}" "${own[@]}" "$PYTHON" -m jaxft.train "$@")
}

if ((dry)); then
  for ((number = 0; number < processes; number++)); do
    command_of "$number" "$@"
    printf '%q ' "${line[@]}" | sed 's/ $//'
    echo
  done
  exit 0
fi

children=() asked=""
# shellcheck disable=SC2317,SC2329  # called by trap
forward() {
  asked=$1
  local child
  for child in "${children[@]}"; do kill -s "$1" "$child" 2>/dev/null || true; done
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# Runs all processes and sets `code` to the exit code.
run_once() {
  local number child one ended
  children=() code=0
  for ((number = 0; number < processes; number++)); do
    command_of "$number" "$@"
    "${line[@]}" &
    children+=($!)
  done
  local waiting=("${children[@]}")
  while ((${#waiting[@]})); do
    ended="" one=0
    wait -n -p ended "${waiting[@]}" || one=$?
    [[ -n ${ended:-} ]] || continue # interrupted by a signal, which is forwarded already
    local left=()
    for child in "${waiting[@]}"; do [[ $child == "$ended" ]] || left+=("$child"); done
    waiting=(${left[@]+"${left[@]}"})
    ((one)) || continue
    ((one <= 128)) || one=75 # killed
    ((code)) || code=$one
    ((one == 75 && ${#asked})) || reap "${waiting[@]}"
  done
}

# The other processes notice and end with a message; those that are left after a minute are killed.
reap() {
  (($#)) && [[ -z ${reaper:-} ]] || return 0
  (
    sleep 60
    kill -s KILL "$@" 2>/dev/null
  ) >/dev/null 2>&1 &
  reaper=$!
}

while true; do
  reaper=""
  run_once "$@"
  [[ -z $reaper ]] || kill "$reaper" 2>/dev/null || true
  if ((code != 75 || restarts == 0)) || [[ -n $asked ]]; then exit "$code"; fi
  restarts=$((restarts - 1))
  echo "launch/local.sh: running again (at most $restarts more times)" >&2
  if ((processes > 1)); then
    port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  fi
done
