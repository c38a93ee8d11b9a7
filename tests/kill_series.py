"""Kill one run again and again, and compare what it leaves with what an unbroken run leaves.

    python tests/kill_series.py --processes=2 --sigkill=30 --sigterm=10 [--seed=0] [--steps=600] [--folder=DIR]

Half of the SIGKILLs wait for the moment when a checkpoint is being written. Prints each kill; exit code 0 if equal.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLOCKED = ("tokens_per_second", "steps_per_second", "memory_bytes")  # what no run can repeat


def start(config: Path, workdir: Path, count: int, log) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    line = [sys.executable, "-m", "jaxft.train", f"--config={config}", f"--workdir={workdir}"]
    several = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)} if count > 1 else {}
    environment = os.environ | several | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(line, env=environment | {"JAX_PROCESS_ID": str(number)}, stdout=log, stderr=log)
        for number in range(count)
    ]


def newest(workdir: Path) -> int:
    """The newest whole checkpoint's step, 0 without one."""
    return max((int(folder.name) for folder in workdir.glob("checkpoints/*") if folder.name.isdecimal()), default=0)


def lines(workdir: Path) -> list[dict]:
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in read]


def await_moment(workdir: Path, started, chance: random.Random, saving: bool, before: int) -> None:
    """Until this run has saved once, then a random while; where `saving`, until a checkpoint is half written."""
    while newest(workdir) <= before and started[0].poll() is None:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.5))
    give_up = time.monotonic() + 10
    while saving and time.monotonic() < give_up and started[0].poll() is None:
        if any("tmp" in folder.name for folder in workdir.glob("checkpoints/*")):
            return time.sleep(chance.uniform(0, 0.03))
        time.sleep(0.001)


def interrupt(config, workdir, count, sent, chance, log) -> tuple[int, list[int]]:
    """(the newest step after it, exit codes) of a run that gets a signal at a random moment."""
    before = newest(workdir)
    started = start(config, workdir, count, log)
    await_moment(workdir, started, chance, sent == signal.SIGKILL and chance.random() < 0.5, before)
    chance.choice(started).send_signal(sent)
    codes = [process.wait(timeout=90) for process in started]
    return newest(workdir), codes


def series(config: Path, folder: Path, count: int, kills: int, terms: int, seed: int) -> list[str]:
    """What differs between a run that got the signals and an unbroken one: nothing, one hopes."""
    chance, problems = random.Random(seed), []
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    chance.shuffle(signals)
    with open(folder / "log", "w") as log:
        if codes := [process.wait() for process in start(config, folder / "whole", count, log)]:
            assert not any(codes), f"the unbroken run failed: {folder / 'log'}"
        for number, sent in enumerate(signals, 1):
            step, codes = interrupt(config, folder / "broken", count, sent, chance, log)
            if not any(codes):
                problems.append(f"the run was done before signal {number}: give it more --steps")
                break
            print(f"{number}/{len(signals)} {sent.name}: exit codes {codes}, step {step} is saved", flush=True)
            expected = {75, -signal.SIGKILL} if sent == signal.SIGKILL else {75}
            if not set(codes) <= expected:
                problems.append(f"exit codes {codes} after {sent.name} number {number}")
        if any(process.wait() for process in start(config, folder / "broken", count, log)):
            return [*problems, f"the last run failed: {folder / 'log'}"]
    if lines(folder / "broken") != lines(folder / "whole"):
        problems.append("metrics.jsonl differs")
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
        max_len=16, rows=Pad(buckets=(16,)), log_every=3, save=Save(every={every}, keep=2),
        evals={{"val": Eval(data=Data(path={str(data)!r}, limit=13), every={2 * every})}},
    )
""")
    return file


def main():
    root = Path(__file__).parent.parent
    flags = argparse.ArgumentParser()
    for name, value in (
        ("processes", 1),
        ("sigkill", 30),
        ("sigterm", 10),
        ("seed", 0),
        ("steps", 1000),
        ("every", 10),
    ):
        flags.add_argument(f"--{name}", type=int, default=value)
    flags.add_argument("--folder", default=None)
    given = flags.parse_args()
    folder = Path(given.folder or tempfile.mkdtemp(prefix="jaxft-kills-"))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    assets = root / "jaxft" / "assets"
    config = write_config(
        folder, assets / "tiny-encoder", assets / "brown-genres" / "train.csv", given.steps, given.every
    )
    problems = series(config, folder, given.processes, given.sigkill, given.sigterm, given.seed)
    print("\n".join(problems) or f"equal: {given.sigkill} SIGKILLs and {given.sigterm} SIGTERMs changed nothing")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
