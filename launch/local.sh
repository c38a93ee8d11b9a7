#!/usr/bin/env bash
# Train on this machine:  launch/local.sh [--dry-run] [--processes=N] [--restarts=N] -- --config=... --workdir=...
#
# One process drives all GPUs (CUDA_VISIBLE_DEVICES chooses some). --processes=N starts N processes on the CPU instead,
# each with its share of the cores. --restarts=N runs the command again, N times at most, after exit code 75.
# --dry-run prints the commands and runs nothing. The Python is $PYTHON, else .venv/bin/python, else python.
#
# Exit codes: those of jaxft.train (0 done, 2 the input is at fault, 75 run me again, 1 anything else); with several
# processes that of the first which fails, 75 where one was killed. SIGTERM and SIGINT are passed on.
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
    *) fail "$1 is no flag of launch/local.sh: those of jaxft.train come after --" ;;
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

# What every process gets, as words of `env`.
settings=(
  # JAX takes this share of a GPU's memory at once instead of in pieces, which would scatter it.
  "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
)
port=29400
if ((processes > 1 && !dry)); then
  port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
fi

# Prints, a line each, the words that set process $1 apart.
share() {
  ((processes > 1)) || return 0
  printf '%s\n' JAX_PLATFORMS=cpu "JAX_COORDINATOR_ADDRESS=localhost:$port" "JAX_NUM_PROCESSES=$processes" \
    "JAX_PROCESS_ID=$1"
}

# Fills `line` with the whole command of process $1; the rest are its arguments.
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

# Prints nothing; sets `code` to the exit code of the whole.
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
    [[ -n ${ended:-} ]] || continue # a signal came; it is passed on already
    local left=()
    for child in "${waiting[@]}"; do [[ $child == "$ended" ]] || left+=("$child"); done
    waiting=(${left[@]+"${left[@]}"})
    ((one)) || continue
    ((one <= 128)) || one=75 # killed
    ((code)) || code=$one
    ((one == 75 && ${#asked})) || reap "${waiting[@]}"
  done
}

# The others notice by themselves, and say so; what is left after a minute is killed.
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
  echo "launch/local.sh: running again ($restarts more times at most)" >&2
  if ((processes > 1)); then
    port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
  fi
done
