#!/usr/bin/env bash
# Train on a TPU slice of Google Cloud, from a machine with gcloud:
#   launch/tpu_pod.sh --name=NAME --zone=ZONE --type=v5litepod-16 [flags] -- --config=... --workdir=/shared/runs/x
#
# Creates the TPU or uses the one of this name, copies the tracked files as they are, installs jaxft[tpu], and runs the
# same command on all workers (JAX finds the others). After a preemption it starts again on a new TPU.
#
#   --name=NAME         of the TPU, and of the queued resource
#   --zone=ZONE         such as us-west4-a
#   --type=TYPE         accelerator type; needed to create, such as v5litepod-16 or v6e-64
#   --version=VERSION   software of the TPU VM (default: v2-alpha-tpuv5-lite for v5litepod, v2-alpha-tpuv6e for v6e,
#                       v2-alpha-tpuv5 for v5p, else tpu-ubuntu2204-base)
#   --project=PROJECT   default: that of gcloud's configuration
#   --queued            create it by a queued resource, and wait for that
#   --spot              cheap, may be preempted
#   --network=NETWORK   --service-account=ACCOUNT   for the creation
#   --setup=COMMAND     run on every worker after installing, e.g. to mount the folder of --workdir
#   --restarts=N        how often to start again after a preemption or exit code 75 (default 20)
#   --poll=SECONDS      between checks of the state (default 30)
#   --delete            delete the TPU when the run is done
#   --dry-run           print every command and run nothing
#
# --workdir must be a folder that all workers see (Filestore, or a bucket mounted with gcsfuse). Exit codes: those of
# jaxft.train; 2 for wrong flags, 1 if gcloud fails.
set -euo pipefail

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

say() { echo "launch/tpu_pod.sh: $1" >&2; }

dry=0 name="" zone="" type="" version="" project="" queued=0 network="" account="" setup="" restarts=20 poll=30
delete=0 spot=0
while (($#)); do
  case $1 in
    --dry-run) dry=1 ;;
    --queued) queued=1 ;;
    --spot) spot=1 ;;
    --delete) delete=1 ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --network=*) network=${1#*=} ;;
    --service-account=*) account=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --poll=*) poll=${1#*=} ;;
    -h | --help)
      sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
      exit 0
      ;;
    --)
      shift
      break
      ;;
    *) fail "$1 is not a flag of launch/tpu_pod.sh: put those of jaxft.train after --" ;;
  esac
  shift
done
[[ -n $name && -n $zone ]] || fail "--name=NAME and --zone=ZONE are needed: launch/tpu_pod.sh --help"
[[ $restarts =~ ^[0-9]+$ && $poll =~ ^[0-9]+$ ]] || fail "--restarts=$restarts and --poll=$poll must be numbers"
(($#)) || fail "nothing to train: launch/tpu_pod.sh [flags] -- --config=FILE.py --workdir=DIR"
if [[ -z $version ]]; then
  case $type in
    v5litepod*) version=v2-alpha-tpuv5-lite ;;
    v5p*) version=v2-alpha-tpuv5 ;;
    v6e*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
cd "$(dirname "$0")/.."

place=(--zone="$zone")
if [[ -n $project ]]; then place+=(--project="$project"); fi
tpus=(gcloud compute tpus)

# Runs a command, or prints it.
do_it() {
  if ((dry)); then
    printf '%q ' "$@" | sed 's/ $//'
    echo
  else
    "$@"
  fi
}

# Prints the state of the TPU, "ABSENT" if it does not exist. Other errors of gcloud end the script.
state_of() {
  local kind=$1 field=$2 answer
  if answer=$("${tpus[@]}" "$kind" describe "$name" "${place[@]}" --format="value($field)" 2>&1); then
    echo "$answer"
  elif grep -qi 'not.\?found' <<<"$answer"; then
    echo ABSENT
  else
    fail "gcloud: $answer" 1
  fi
}

vm_state() { state_of tpu-vm state; }

create() {
  [[ -n $type ]] || fail "there is no TPU $name in $zone: --type=TYPE is needed to create it"
  local more=()
  if ((spot)); then more+=(--spot); fi
  if [[ -n $network ]]; then more+=(--network="$network"); fi
  if [[ -n $account ]]; then more+=(--service-account="$account"); fi
  if ((queued)); then
    do_it "${tpus[@]}" queued-resources create "$name" --node-id="$name" "${place[@]}" --accelerator-type="$type" \
      --runtime-version="$version" ${more[@]+"${more[@]}"}
  else
    do_it "${tpus[@]}" tpu-vm create "$name" "${place[@]}" --accelerator-type="$type" --version="$version" \
      ${more[@]+"${more[@]}"}
  fi
}

# Deletes the TPU, and its queued resource.
remove() {
  if ((queued)); then
    do_it "${tpus[@]}" queued-resources delete "$name" "${place[@]}" --force --quiet
  else
    do_it "${tpus[@]}" tpu-vm delete "$name" "${place[@]}" --quiet
  fi
}

# Creates, waits for or replaces the TPU until it can be used.
ready() {
  local state request
  while true; do
    state=$(vm_state)
    if ((queued)); then
      request=$(state_of queued-resources state.state)
      case $request in
        ABSENT) ;;
        ACTIVE) ;;
        FAILED | SUSPENDED) state=PREEMPTED ;;
        *) state=$request ;;
      esac
      if [[ $request == ACTIVE && $state == ABSENT ]]; then state=PREEMPTED; fi
    fi
    case $state in
      READY) return ;;
      ABSENT)
        say "creating $name"
        create
        ;;
      PREEMPTED | TERMINATED)
        say "$name is $state: replacing it"
        remove
        ;;
      STOPPED) "${tpus[@]}" tpu-vm start "$name" "${place[@]}" ;;
      *)
        say "$name is $state"
        sleep "$poll"
        ;;
    esac
  done
}

on_all() { do_it "${tpus[@]}" tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"; }

# Packs the tracked files of the working tree, with uncommitted changes.
pack() {
  if ((dry)); then
    echo "git ls-files -z | tar --null --files-from=- --ignore-failed-read -czf $archive"
  else
    git ls-files -z | tar --null --files-from=- --ignore-failed-read -czf "$archive"
  fi
}

# The steps are chained because `set -e` has no effect in a command before `||`.
install() {
  pack \
    && do_it "${tpus[@]}" tpu-vm scp "$archive" "$name:jaxft.tar.gz" "${place[@]}" --worker=all \
    && on_all "mkdir -p jaxft && tar xzf jaxft.tar.gz -C jaxft && cd jaxft && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'" \
    && { [[ -z $setup ]] || on_all "$setup"; }
}

train() {
  local arguments
  printf -v arguments ' %q' "$@"
  on_all "cd jaxft && JAX_COMPILATION_CACHE_DIR=\$HOME/.cache/jaxft/compiled JAXFT_DISTRIBUTED=1 .venv/bin/python -m jaxft.train$arguments"
}

# Whether the TPU is gone; the state shows a preemption only after a while.
lost() {
  local tries=0 state
  while ((tries < 3)); do
    state=$(vm_state)
    [[ $state == READY ]] || return 0
    tries=$((tries + 1))
    sleep "$poll"
  done
  return 1
}

if ((dry)); then
  archive=/tmp/jaxft.tar.gz
  do_it "${tpus[@]}" tpu-vm describe "$name" "${place[@]}" --format="value(state)"
  if ((queued)); then
    do_it "${tpus[@]}" queued-resources describe "$name" "${place[@]}" --format="value(state.state)"
  fi
  echo "# if it does not exist:"
  if [[ -n $type ]]; then create; else echo "# (--type=TYPE would be needed)"; fi
  echo "# once it is READY:"
  install
  train "$@"
  echo "# after a preemption, before all of it again:"
  remove
  if ((delete)); then
    echo "# when the run is done:"
    remove
  fi
  exit 0
fi

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
while true; do
  ready
  code=0
  install || code=$?
  if ((code == 0)); then train "$@" || code=$?; fi
  if ((code == 0 || code == 2)); then break; fi
  # 75 means "run again"; other exit codes are final, unless the TPU was preempted.
  if ((code != 75)) && ! lost; then break; fi
  if ((restarts == 0)); then
    say "interrupted too often: run the same command again to continue"
    code=75
    break
  fi
  restarts=$((restarts - 1))
  say "interrupted (exit code $code): continuing from the last checkpoint, at most $restarts more times"
  sleep "$poll"
done
if ((delete && code == 0)); then remove; fi
exit "$code"
