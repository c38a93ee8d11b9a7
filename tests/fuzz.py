"""Mutated models, data files, flags and work directories: python tests/fuzz.py --n=3000 --seed=S [--kinds=model,data]

Each case is run by a child process (tests/fuzz_worker.py) that is watched. It may end in an answer of finite numbers,
or in a short message. A traceback, a crash, more than 20 s of computing, more than 4 GiB, or a number that is wrong
without a word is a fault: it is printed with what repeats it, --seed=S --only=CASE, and the exit code is 1.
"""

import argparse
import contextlib
import dataclasses
import gzip
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
SECONDS, BYTES = 20, 4 * 2**30  # of a case
WAIT = 240  # seconds without an answer, on a machine that does other things as well
RENEWED = 1000  # cases of one child
KINDS = "model,data,flags,workdir"
CONFIG = """
from jaxft.config import Config, Eval, Save
from jaxft.data import Data
from jaxft.tasks.classify import Classify

def get_config():
    return Config(
        model={model!r}, task=Classify(), data=Data(path={data!r}), evals={{"val": Eval(data=Data(path={data!r}))}},
        lr=1e-3, batch=8, steps=2, max_len=16, save=Save(every=1), log_every=1,
    )
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="repeat one case")
    parser.add_argument("--kinds", default=KINDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxft-fuzz-") as base:
        make_files(Path(base))
        cases = range(args.n) if args.only is None else [args.only]
        faults = run(Path(base), args.seed, cases, args.kinds, verbose=args.only is not None)
    return 1 if faults else 0


def run(base: Path, seed: int, cases, kinds: str = KINDS, verbose: bool = False) -> list[dict]:
    """The cases that are faults; all are counted on stdout."""
    counts, faults, child, started = Counter(), [], None, time.monotonic()
    for number, case in enumerate(cases, 1):
        child = child or Child(base, seed, kinds)
        found = child.ask(case)
        if found["end"] not in ("done", "refused"):
            faults.append(found)
            print(f"--seed={seed} --only={case}: {json.dumps(found, indent=1)}", flush=True)
        elif verbose:
            print(json.dumps(found, indent=1))
        counts[found["kind"], found["end"]] += 1
        if number % RENEWED == 0:  # JAX keeps what was compiled, and the models with it
            child.end()
        if child.gone:
            child = None
        if number % 500 == 0:
            print(f"{number} cases, {time.monotonic() - started:.0f} s, {len(faults)} faults", flush=True)
    if child:
        child.end()
    for (kind, end), count in sorted(counts.items()):
        print(f"{kind:8} {end:16} {count:6}")
    return faults


class Child:
    """A worker process, its time and its memory."""

    def __init__(self, base: Path, seed: int, kinds: str):
        cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(base / "compiled"))
        own = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "JAX_COMPILATION_CACHE_DIR": cache}
        own |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
        own |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        flags = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fuzz_worker.py"), str(base), str(seed), kinds],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=base,
            start_new_session=True,
            env=os.environ | own | {"XLA_FLAGS": flags},
        )
        self.gone = False
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("the worker does not start")

    def ask(self, case: int) -> dict:
        """What became of a case; `end` is "done", "refused", or a fault."""
        self._reset_peak()
        self.process.stdin.write(f"{case}\n")
        self.process.stdin.flush()
        begun, computed = time.monotonic(), self._seconds()
        while not select.select([self.process.stdout], [], [], 0.2)[0]:
            used = self._seconds() - computed
            if self._memory("VmRSS") > BYTES:
                return self._fault(case, f"more than {BYTES >> 30} GiB")
            if used > SECONDS or time.monotonic() - begun > WAIT:
                return self._fault(case, f"no end after {used:.0f} s of computing")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            end = (
                f"a crash, {signal.Signals(-code).name}" if code < 0 else f"an end of the process with exit code {code}"
            )
            return self._fault(case, end)
        found = json.loads(line)
        peak = self._memory("VmHWM")
        if peak > BYTES:
            found["end"] = f"more than {BYTES >> 30} GiB: {peak:,} bytes"
        if found["seconds"] > SECONDS:
            found["end"] = f"{found['seconds']:.0f} s of computing"
        return found

    def end(self) -> None:
        self.gone = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _fault(self, case: int, end: str) -> dict:
        self.end()
        return {"case": case, "kind": "?", "end": end}

    def _seconds(self) -> float:
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return 0.0

    def _memory(self, name: str) -> int:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) << 10
        return 0

    def _reset_peak(self) -> None:
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


# --- what is mutated ---


def make_files(base: Path) -> None:
    """A small model in all forms, data files of all kinds, a configuration, and the work directory of a run."""
    make_model(base)
    make_data(base / "data")
    config = CONFIG.format(model=str(base / "model"), data=str(base / "data" / "rows.jsonl"))
    (base / "config.py").write_text(config)
    from jaxft.config import file as config_file
    from jaxft.config.component import is_config

    def fields(value, prefix=""):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            yield prefix + field.name
            if is_config(inner):
                yield from fields(inner, f"{prefix}{field.name}.")

    cfg = config_file.load(str(base / "config.py"))
    names = [*fields(cfg), *fields(cfg.evals["val"], "evals.val.")]
    (base / "fields").write_text("\n".join(names))
    own = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "jaxft.train", f"--config={base / 'config.py'}", f"--workdir={base / 'run'}"]
    subprocess.run(command, check=True, env=os.environ | own, capture_output=True)


def make_model(base: Path) -> None:
    import conftest
    import flax.serialization
    import torch
    import transformers
    from safetensors.numpy import load_file
    from zoo import flax_tree

    tokenizer = conftest.wordpiece()
    names = {"id2label": {0: "bad", 1: "good", 2: "neither"}, "label2id": {"bad": 0, "good": 1, "neither": 2}}
    model = transformers.BertForSequenceClassification(conftest.bert_config(tokenizer, 1, 12, **names))
    conftest.save_perturbed(model, tokenizer, base / "model")
    tensors = load_file(base / "model" / "model.safetensors")
    (base / "names").write_text("\n".join(tensors))
    pickled = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(pickled, base / "archive.bin")
    torch.save(pickled, base / "row.bin", _use_new_zipfile_serialization=False)
    (base / "flax.msgpack").write_bytes(flax.serialization.msgpack_serialize(flax_tree(tensors)))


def make_data(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir()
    labels = ["bad", "good", "neither"]
    rows = [
        {"text": f"the film {i} was good é", "label": labels[i % 3], "tags": ["a", None], "n": i} for i in range(24)
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    cells = [(row["text"], row["label"]) for row in rows]
    words = "\n\n".join("\n".join(f"{word}\tO" for word in text.split()) for text, _ in cells)
    table = pa.Table.from_pylist(rows)
    for name, content in {
        "rows.jsonl": lines,
        "rows.jsonl.gz": gzip.compress(lines),
        "rows.json": json.dumps(rows, indent=1).encode(),
        "rows.csv": ("text,label\r\n" + "".join(f'"{text}",{label}\r\n' for text, label in cells)).encode(),
        "rows.tsv": ("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in cells)).encode(),
        "rows.txt": "".join(f"{text}\n" for text, _ in cells).encode(),
        "rows.conll": words.encode(),
    }.items():
        (folder / name).write_bytes(content)
    pa.parquet.write_table(table, folder / "rows.parquet", compression="gzip", write_page_checksum=True)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
