"""The launch scripts, with commands in place of Python and gcloud that write down how they were called."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCAL, POD = ROOT / "launch" / "local.sh", ROOT / "launch" / "tpu_pod.sh"
TRAIN = ["--config=my configs/x.py", "--config.task.text=it's", "--workdir=/shared/runs/x"]

PYTHON = """#!/usr/bin/env bash
if [[ $1 == -c ]]; then exec {python} "$@"; fi
id=${{JAX_PROCESS_ID:-0}}
echo "$id/${{JAX_NUM_PROCESSES:-1}}" "$@" >>{log}
code=$(sed -n "$(grep -c "^$id/" {log})p" {folder}/codes-$id 2>/dev/null)
trap 'echo "$id got TERM" >>{log}; exit 75' TERM
case $code in
  wait) for _ in {{1..100}}; do sleep 0.1; done ;;
  kill) kill -9 $$ ;;
  *) exit "${{code:-0}}" ;;
esac
"""

# Answers `describe` with the next line of the file named after the kind, and `ssh` of a training with the next code.
GCLOUD = """#!/usr/bin/env bash
printf '%q ' "$@" >>{log}
echo >>{log}
next() {{
  local line
  line=$(head -1 {folder}/$1)
  if [[ $(wc -l <{folder}/$1) -gt 1 ]]; then sed -i 1d {folder}/$1; fi
  echo "$line"
}}
case "$3 $4" in
  *\\ describe)
    state=$(next "$3")
    if [[ $state == ABSENT ]]; then echo "ERROR: (gcloud) NOT_FOUND: Resource was not found" >&2; exit 1; fi
    if [[ $state == DENIED ]]; then echo "ERROR: (gcloud) PERMISSION_DENIED" >&2; exit 1; fi
    echo "$state" ;;
  *\\ scp) tar tzf "$5" >{folder}/files ;;
  *\\ ssh) if [[ "$*" == *jaxft.train* ]]; then exit "$(next codes)"; fi ;;
esac
"""


@pytest.fixture
def bench(tmp_path):
    """A folder with fake `python` and `gcloud`, and the environment that finds them."""
    log = tmp_path / "log"
    log.write_text("")
    for name, text in (("python", PYTHON), ("gcloud", GCLOUD)):
        (tmp_path / name).write_text(text.format(python=sys.executable, log=log, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
    return tmp_path, environment


def launch(bench, *words, **answers):
    """(finished process, calls) of a script; `answers` are the lines of the files that the fakes read."""
    folder, environment = bench
    for name, lines in answers.items():
        (folder / name.replace("_", "-")).write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=60)
    return done, (folder / "log").read_text().splitlines()


@pytest.mark.parametrize("script", sorted((ROOT / "launch").glob("*.sh")), ids=lambda file: file.name)
def test_scripts_are_sound(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [LOCAL, POD], ids=lambda file: file.name)
def test_what_is_wrong_is_said(bench, script):
    place = ["--name=a", "--zone=b"] if script == POD else []
    for words, message in (
        (["--config=x.py"], "--config=x.py is not a flag of"),
        (place, "nothing to train"),
        ([*place, "--restarts=x", "--", "a"], "--restarts=x"),
    ):
        done, calls = launch(bench, script, *words)
        assert done.returncode == 2 and message in done.stderr and calls == []
    done, _ = launch(bench, script, "--help")
    assert done.returncode == 0 and "--restarts=N" in done.stdout and "set -e" not in done.stdout


def test_dry_runs_run_nothing_and_can_be_pasted(bench):
    done, calls = launch(bench, LOCAL, "--dry-run", "--processes=2", "--", *TRAIN)
    assert done.returncode == 0 and calls == []
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [line[-5:] for line in lines] == [["-m", "jaxft.train", *TRAIN]] * 2
    for number, line in enumerate(lines):
        assert {f"JAX_PROCESS_ID={number}", "JAX_NUM_PROCESSES=2", "JAX_PLATFORMS=cpu"} <= set(line)
    done, calls = launch(bench, LOCAL, "--dry-run", "--", *TRAIN)
    (line,) = map(shlex.split, done.stdout.splitlines())
    assert line[-5:] == ["-m", "jaxft.train", *TRAIN] and "JAX_PLATFORMS=cpu" not in line and calls == []
    done, calls = launch(bench, POD, "--dry-run", "--name=a", "--zone=b", "--type=v6e-16", "--queued", "--", *TRAIN)
    assert done.returncode == 0 and calls == []
    kinds = [shlex.split(line)[3:5] for line in done.stdout.splitlines() if line.startswith("gcloud")]
    vm, queue = "tpu-vm", "queued-resources"
    assert kinds == [
        [vm, "describe"],
        [queue, "describe"],
        [queue, "create"],
        [vm, "scp"],
        [vm, "ssh"],
        [vm, "ssh"],
        [queue, "delete"],
    ]
    assert shlex.split(trained(done.stdout.splitlines())[0])[-3:] == TRAIN


def trained(calls) -> list[str]:
    """The commands that workers get for training, as their shells read them."""
    words = [shlex.split(call) for call in calls if "jaxft.train" in call]
    return [word.removeprefix("--command=") for call in words for word in call if word.startswith("--command=")]


def test_local_processes_and_exit_codes(bench):
    done, calls = launch(bench, LOCAL, "--processes=2", "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    assert sorted(calls) == [f"{number}/2 -m jaxft.train {' '.join(TRAIN)}" for number in range(2)]
    for codes, expected in ((["2"], 2), (["kill"], 75), (["75"], 75), (["1"], 1)):
        (bench[0] / "log").write_text("")
        done, calls = launch(bench, LOCAL, "--", *TRAIN, codes_0=codes)
        assert done.returncode == expected and len(calls) == 1


def test_local_runs_again_only_when_asked(bench):
    done, calls = launch(bench, LOCAL, "--restarts=5", "--", *TRAIN, codes_0=["75", "kill", "0"])
    assert done.returncode == 0 and len(calls) == 3
    (bench[0] / "log").write_text("")
    done, calls = launch(bench, LOCAL, "--restarts=1", "--", *TRAIN, codes_0=["75", "75", "0"])
    assert done.returncode == 75 and len(calls) == 2
    (bench[0] / "log").write_text("")
    done, calls = launch(bench, LOCAL, "--restarts=5", "--", *TRAIN, codes_0=["2", "0"])
    assert done.returncode == 2 and len(calls) == 1


def test_local_passes_signals_on(bench):
    folder, environment = bench
    for number in range(2):
        (folder / f"codes-{number}").write_text("wait\n")
    line = [str(LOCAL), "--processes=2", "--restarts=3", "--", *TRAIN]
    process = subprocess.Popen(line, env=environment)
    while len((folder / "log").read_text().splitlines()) < 2:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75  # and not again: the machine is to be given up
    calls = (folder / "log").read_text().splitlines()
    assert sorted(calls[2:]) == ["0 got TERM", "1 got TERM"]


def kinds(calls) -> list[str]:
    names = [shlex.split(call)[2:4] for call in calls]
    return [" ".join(name) for name in names if name[1] != "describe"]


PLACE = ["--name=pod", "--zone=us-x1-a", "--poll=0"]


def test_a_pod_that_is_there_is_used(bench):
    done, calls = launch(bench, POD, *PLACE, "--", *TRAIN, tpu_vm=["CREATING", "READY"], codes=["0"])
    assert done.returncode == 0, done.stderr
    assert kinds(calls) == ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]
    assert all("--zone=us-x1-a" in call for call in calls) and not any("--project" in call for call in calls)
    assert {"launch/tpu_pod.sh", "jaxft/train.py", "pyproject.toml"} <= set((bench[0] / "files").read_text().split())
    (command,) = trained(calls)
    assert shlex.split(command)[-3:] == TRAIN and "JAXFT_DISTRIBUTED=1" in command


def test_a_pod_that_is_absent_is_made(bench):
    done, calls = launch(bench, POD, *PLACE, "--", *TRAIN, tpu_vm=["ABSENT"], codes=["0"])
    assert done.returncode == 2 and "--type=TYPE is needed" in done.stderr and kinds(calls) == []
    flags = ["--type=v6e-8", "--spot", "--project=p", "--delete"]
    done, calls = launch(bench, POD, *PLACE, *flags, "--", *TRAIN, tpu_vm=["ABSENT", "READY"], codes=["0"])
    assert done.returncode == 0, done.stderr
    assert kinds(calls) == ["tpu-vm create", "tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh", "tpu-vm delete"]
    (created,) = [call for call in calls if " create " in call]
    assert {"--accelerator-type=v6e-8", "--version=v2-alpha-tpuv6e", "--spot", "--project=p"} <= set(created.split())


@pytest.mark.parametrize("queued", [False, True])
def test_a_preempted_pod_is_replaced_and_the_run_goes_on(bench, queued):
    kind = "queued-resources" if queued else "tpu-vm"
    flags = ["--type=v5litepod-16", *(["--queued"] if queued else [])]
    done, calls = launch(
        bench,
        POD,
        *PLACE,
        *flags,
        "--",
        *TRAIN,
        codes=["255", "0"],
        **{
            "tpu-vm": ["READY", "PREEMPTED", "PREEMPTED", "ABSENT", *(["ABSENT"] if queued else []), "READY"],
            "queued-resources": ["ACTIVE", "SUSPENDED", "ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE"],
        },
    )
    assert done.returncode == 0, done.stderr
    run = ["tpu-vm scp", "tpu-vm ssh", "tpu-vm ssh"]
    assert kinds(calls) == [*run, f"{kind} delete", f"{kind} create", *run]
    assert len(set(trained(calls))) == 1  # the same command


def test_what_a_run_on_a_pod_ends_with(bench):
    for codes, expected, runs in ((["2"], 2, 1), (["1"], 1, 1), (["75", "0"], 0, 2), (["75", "75", "75", "0"], 75, 3)):
        (bench[0] / "log").write_text("")
        done, calls = launch(bench, POD, *PLACE, "--restarts=2", "--", *TRAIN, tpu_vm=["READY"], codes=codes)
        assert (done.returncode, len(trained(calls))) == (expected, runs), done.stderr
    done, _ = launch(bench, POD, *PLACE, "--", *TRAIN, tpu_vm=["DENIED"], codes=["0"])
    assert done.returncode == 1 and "PERMISSION_DENIED" in done.stderr
