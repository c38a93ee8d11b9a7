"""Kill one run again and again, and compare what it leaves with what an unbroken run leaves.

    python tests/kill_series.py --processes=2 --sigkill=50 --sigterm=10 --sigint=10 [--seed=0] [--folder=DIR] [--fork]

Signals come while the run starts (reads, loads, compiles), between two saves (steps, evaluation), while a checkpoint is
half written, and while the model is written. Prints each of them; exit code 0 if equal. With --fork a run is a fork of
this process, which has imported everything already: a second instead of five.
"""

import argparse
import atexit
import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

CLOCKED = ("tokens_per_second", "steps_per_second", "memory_bytes")  # what no run can repeat
CODES = {signal.SIGKILL: {75, -signal.SIGKILL}, signal.SIGTERM: {75}, signal.SIGINT: {130}}
PHASES = ("start", "steps", "save")
IMPORTED = ("jaxft.cli.command", "jaxft.training.fit", "jaxft.parallel.distributed", "jaxft.tasks.classify")  # once
WARM = 2.0  # seconds that a start takes at least
COLD = 5.0  # and at most: the unbroken run also compiled what the others find in the cache
LATE = 30.0  # seconds after which a process that was asked to end is too slow, on a busy machine


@dataclass
class Forked:
    """A child process, as far as subprocess.Popen is needed here."""

    pid: int
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        give_up = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < give_up, "the process does not end"
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def spawn(words: list[str], environment: dict[str, str], log) -> subprocess.Popen:
    line = [sys.executable, "-m", "jaxft.train", *words]
    return subprocess.Popen(line, env=os.environ | environment, stdout=log, stderr=log)


def fork(words: list[str], environment: dict[str, str], log) -> Forked:
    from jaxft.host import startup

    pid = os.fork()
    if pid:
        return Forked(pid)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, startup.end)  # as where a command of its own begins, until it listens itself
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    os.environ.update(environment)
    sys.argv = ["jaxft.train", *words]
    code = 1
    try:
        runpy.run_module("jaxft.train", run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:  # as Python ends
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def start(config: Path, workdir: Path, count: int, log, begin=spawn) -> list:
    """The run in `count` processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    words = [f"--config={config}", f"--workdir={workdir}"]
    several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
    environment = several | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return [begin(words, environment | {"JAX_PROCESS_ID": str(number)}, log) for number in range(count)]


def ended(started) -> set[int]:
    """The exit codes of all processes, which are waited for."""
    return {process.wait() for process in started}


def newest(workdir: Path) -> int:
    """The newest whole checkpoint's step, 0 without one."""
    return max((int(folder.name) for folder in workdir.glob("checkpoints/*") if folder.name.isdecimal()), default=0)


def lines(workdir: Path) -> list[dict]:
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in read]


def made_since(folder: Path, begun: float) -> bool:
    """Whether it is there, and not what a killed run has left."""
    try:
        return folder.stat().st_mtime > begun
    except FileNotFoundError:
        return False


def await_moment(workdir: Path, started, chance: random.Random, phase: str, warm: float) -> None:
    """Until the run is in this phase, at a random moment of it; `warm` are the seconds that a start takes."""
    before, begun = newest(workdir), time.time()

    def until(condition, seconds=120.0):
        give_up = time.monotonic() + seconds
        while not condition() and time.monotonic() < give_up and started[0].poll() is None:
            time.sleep(0.001)

    if phase == "start":
        return time.sleep(chance.uniform(0.05, 1.2) * warm)
    if phase == "export":
        until(lambda: made_since(workdir / "model.partial", begun))
        return time.sleep(chance.uniform(0, 0.02))
    until(lambda: newest(workdir) > before)
    time.sleep(chance.uniform(0, 0.5))
    if phase == "save":
        until(lambda: any("tmp" in folder.name for folder in workdir.glob("checkpoints/*")), 1)
        time.sleep(chance.uniform(0, 0.03))


def interrupt(begin, config, workdir, count, sent, phase, chance, log, warm) -> tuple[list[int], float]:
    """(exit codes, seconds until all have ended) of a run that gets a signal in a phase."""
    started = start(config, workdir, count, log, begin)
    await_moment(workdir, started, chance, phase, warm)
    time_sent = time.monotonic()
    chance.choice(started).send_signal(sent)
    codes = [process.wait(timeout=120) for process in started]
    return codes, time.monotonic() - time_sent


def plan(numbers: dict[int, int], chance: random.Random) -> list[tuple[int, str]]:
    """(signal, phase) in a random order; a quarter of each come last, while the model is written."""
    early = [(sent, PHASES[n % 3]) for sent, count in numbers.items() for n in range(count - count // 4)]
    late = [(sent, "export") for sent, count in numbers.items() for _ in range(count // 4)]
    chance.shuffle(early)
    chance.shuffle(late)
    return early + late


def series(
    config: Path, folder: Path, count: int, numbers: dict[int, int], seed: int, begin=spawn, minutes=1e9
) -> list[str]:
    """What differs between a run that got so many of each signal and an unbroken one: nothing, one hopes.

    In a folder where both are already it goes on with them; no signal is sent after so many minutes.
    """
    chance, problems, slowest = random.Random(seed), [], 0.0
    with open(folder / "log", "a") as log:
        begun = time.monotonic()
        whole = start(config, folder / "whole", count, log, begin)
        while newest(folder / "whole") == 0 and whole[0].poll() is None:
            time.sleep(0.01)
        warm = min(max(time.monotonic() - begun, WARM), COLD)
        assert ended(whole) == {0}, f"the unbroken run failed: {folder / 'log'}"
        signals = plan(numbers, chance)
        give_up = time.monotonic() + minutes * 60
        for number, (sent, phase) in enumerate(signals, 1):
            if time.monotonic() > give_up:
                break
            codes, seconds = interrupt(begin, config, folder / "broken", count, sent, phase, chance, log, warm)
            if not any(codes) and phase == "export":
                print(f"{number}/{len(signals)} {sent.name} came after the end", flush=True)
                (folder / "broken" / "model").rename(folder / f"model-{number}")  # so that it is written again
                continue
            if not any(codes):
                problems.append(f"the run was done before signal {number}: give it more --steps")
                break
            step = newest(folder / "broken")
            where = f"{number}/{len(signals)} {sent.name}, {phase}"
            print(f"{where}: exit codes {codes} after {seconds:.1f} s, step {step} is saved", flush=True)
            if not set(codes) <= CODES[sent]:
                problems.append(f"exit codes {codes} after {sent.name} number {number}")
            slowest = max(slowest, seconds)
        if ended(start(config, folder / "broken", count, log, begin)) != {0}:
            return [*problems, f"the last run failed: {folder / 'log'}"]
    print(f"the slowest end took {slowest:.1f} s")
    problems += [f"an end took {slowest:.1f} s"] if slowest > LATE else []
    return problems + differences(folder)


def differences(folder: Path) -> list[str]:
    problems = ["a traceback was printed"] if "Traceback" in (folder / "log").read_text() else []
    problems += ["metrics.jsonl differs"] if lines(folder / "broken") != lines(folder / "whole") else []
    for file in sorted((folder / "whole" / "model").iterdir()):
        if (folder / "broken" / "model" / file.name).read_bytes() != file.read_bytes():
            problems.append(f"model/{file.name} differs")
    return problems


def write_config(folder: Path, model: Path, data: Path, steps: int, every: int) -> Path:
    file = folder / "config.py"
    file.write_text(f"""from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pad
from jaxft.tasks.classify import Classify


def get_config():
    data = Data(path={str(data)!r})
    return Config(
        model={str(model)!r}, init="backbone", task=Classify(), data=data, lr=1e-3, batch=4, steps={steps}, dropout=0.1,
        max_len=16, batching=Pad(buckets=(16,)), log_every=3, save=Save(every={every}, keep=2),
        evals={{"val": Eval(data=Data(path={str(data)!r}, limit=13), every={2 * every})}},
    )
""")
    return file


def main():
    root = Path(__file__).parent.parent
    flags = argparse.ArgumentParser()
    for name, value in (
        ("processes", 1),
        ("sigkill", 50),
        ("sigterm", 10),
        ("sigint", 10),
        ("seed", 0),
        ("steps", 2000),
        ("minutes", 1000),
        ("every", 10),
    ):
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--folder", default=None)
    flags.add_argument("--fork", action="store_true")
    given = flags.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the background of a script ignores
    folder = Path(given.folder or tempfile.mkdtemp(prefix="jaxft-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    for module in IMPORTED if given.fork else ():
        importlib.import_module(module)
    assets = root / "jaxft" / "assets"
    config = write_config(
        folder, assets / "tiny-encoder", assets / "brown-genres" / "train.csv", given.steps, given.every
    )
    numbers = {signal.SIGKILL: given.sigkill, signal.SIGTERM: given.sigterm, signal.SIGINT: given.sigint}
    problems = series(
        config, folder, given.processes, numbers, given.seed, fork if given.fork else spawn, given.minutes
    )
    print("\n".join(problems) or "equal: the signals changed nothing")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
