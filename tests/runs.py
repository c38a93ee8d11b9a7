"""What tests of whole runs share: rows of text, configuration files, records of a run, commands, processes."""

import csv
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxft.config import save_config

WORDS = (
    "the cat sat on the mat and a dog with a good film story bad actors rain sailors harbour numbers 10 20 7".split()
)
CLOCKED = ("tokens_per_second", "steps_per_second", "memory_bytes")  # what no run can repeat


def write_rows(path, count: int, seed=0):
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for _ in range(count):
            rows.writerow([" ".join(rng.choice(WORDS, rng.integers(3, 24))), rng.choice(["neg", "pos", "neu"])])
    return str(path)


def config_file(cfg, folder):
    save_config(cfg, folder / "cfg.json")
    file = folder / "cfg.py"
    file.write_text(
        f"from jaxft.config import load_config\n\nget_config = lambda: load_config({str(folder / 'cfg.json')!r})\n"
    )
    return file


def numbers(workdir) -> list[dict]:
    lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]


def command(name, *flags, cwd):
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": os.getcwd()}
    line = [sys.executable, "-m", f"jaxft.{name}", *map(str, flags)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=cwd)


def start_processes(count, *words) -> list[subprocess.Popen]:
    """A command in `count` processes which have eight devices together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    started = []
    for number in range(count):
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(count),
            "JAX_PROCESS_ID": str(number),
        }
        line = [sys.executable, "-m", *map(str, words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(line, env=environment, **pipes))
    return started
