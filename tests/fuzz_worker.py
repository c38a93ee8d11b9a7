"""The process that tests/fuzz.py watches: it does one case after another, and says what came of each.

A case is a number: with the seed it gives the mutation, so that one case can be repeated alone.
"""

import contextlib
import gzip
import io
import json
import os
import random
import resource
import shutil
import sys
import time
import traceback
from pathlib import Path

import mutations
import numpy as np

TEXTS = ["the cat sat on the mat", "a bad film with a dull story"]
SHARES = {"model": 40, "data": 33, "flags": 22, "workdir": 5}
LONGEST = 6000  # characters of a message


class Wrong(Exception):
    """Numbers that are not finite, or others than those of the whole file."""


def main(base: str, seed: int, kinds: str) -> None:
    said = os.fdopen(os.dup(1), "w")
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    resource.setrlimit(resource.RLIMIT_AS, (32 * 2**30,) * 2)  # so that a fault does not take the machine with it
    worker = Worker(Path(base), kinds.split(","))
    print("ready", file=said, flush=True)
    for line in sys.stdin:
        case, folder = int(line), Path(base) / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        started = time.process_time()
        found = worker.result(random.Random(f"{seed} {case}"), folder)
        print(json.dumps({"case": case, "seconds": time.process_time() - started, **found}), file=said, flush=True)


class Worker:
    def __init__(self, base: Path, kinds: list[str]):
        from jaxft.inference.model import load

        self.base, self.kinds = base, kinds
        self.model = load(str(base / "model"))
        self.params = {name: np.asarray(value) for name, value in self.model.params.items()}

    def result(self, rng: random.Random, folder: Path) -> dict:
        """What a case is, and its end: "done", "refused", or the kind of fault with its description."""
        from jaxft.problems import RunStopped, UserError

        kind = rng.choices(self.kinds, [SHARES[kind] for kind in self.kinds])[0]
        found = {"kind": kind, "what": "", "detail": ""}

        def say(what: str) -> None:
            found["what"] = what

        try:
            getattr(self, f"do_{kind}")(rng, folder, say)
        except (UserError, RunStopped) as error:
            long = len(str(error)) > LONGEST
            found |= {"end": "a long message" if long else "refused", "detail": str(error)[:300]}
        except Wrong as error:
            found |= {"end": "a wrong number", "detail": str(error)}
        except BaseException as error:  # also a panic of a library in Rust
            lines = traceback.format_exc().splitlines()
            found |= {
                "end": "a traceback",
                "detail": f"{type(error).__name__}: {str(error)[:300]}",
                "trace": lines[-24:],
            }
        else:
            found["end"] = "done"
        return found

    # --- model directories ---

    def do_model(self, rng, folder, say):
        part = rng.choice(
            "config config tokenizer tokenizer safetensors safetensors archive archive row flax index".split()
        )
        directory = shutil.copytree(self.base / "model", folder / "model")
        exact = getattr(self, f"of_{part}")(rng, directory, say)
        self.check(directory, rng, exact)

    def of_config(self, rng, directory, say):
        say("config.json")
        self.rewrite(directory / "config.json", mutations.of_text, rng)

    def of_tokenizer(self, rng, directory, say):
        name = rng.choice(["tokenizer.json", "tokenizer_config.json"])
        say(name)
        self.rewrite(directory / name, mutations.of_text, rng)

    def of_safetensors(self, rng, directory, say):
        file = directory / "model.safetensors"
        whole = file.read_bytes()
        length = 8 + int.from_bytes(whole[:8], "little")
        how = rng.choice(["anywhere", "header", "values"])
        say(f"model.safetensors, {how}")
        if how == "values":
            head = mutations.written(mutations.of_json(json.loads(whole[8:length]), rng))
            file.write_bytes(len(head).to_bytes(8, "little") + head + whole[length:])
        else:
            file.write_bytes(mutations.of_bytes(whole, rng, 0, length if how == "header" else None))

    def of_archive(self, rng, directory, say):
        """Every byte of an archive has a checksum: its tensors are those of the whole file, or it is refused."""
        say("pytorch_model.bin, archive")
        self.other_weights(directory, "archive.bin", "pytorch_model.bin", rng)
        return True

    def of_row(self, rng, directory, say):
        say("pytorch_model.bin, row")
        self.other_weights(directory, "row.bin", "pytorch_model.bin", rng, rng.choice([2000, None]))

    def of_flax(self, rng, directory, say):
        say("flax_model.msgpack")
        self.other_weights(directory, "flax.msgpack", "flax_model.msgpack", rng, rng.choice([2000, None]))

    def of_index(self, rng, directory, say):
        say("an index of shards")
        (directory / "model.safetensors").rename(directory / "model-00001-of-00001.safetensors")
        names = dict.fromkeys((self.base / "names").read_text().split(), "model-00001-of-00001.safetensors")
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        self.rewrite(directory / "model.safetensors.index.json", mutations.of_text, rng)

    def other_weights(self, directory, source, name, rng, stop=None):
        (directory / "model.safetensors").unlink()
        content = (self.base / source).read_bytes()
        (directory / name).write_bytes(mutations.of_bytes(content, rng, 0, stop and min(stop, len(content))))

    def rewrite(self, file, mutate, rng):
        if rng.random() < 0.02:
            file.unlink()
            file.mkdir()
        else:
            file.write_bytes(mutate(file.read_bytes(), rng))

    def check(self, directory, rng, exact):
        """What a directory loads as is finite; with `exact` it is the whole file's."""
        from jaxft.inference.model import load

        model = load(str(directory))
        for name, value in model.params.items():
            if not np.isfinite(np.asarray(value)).all():
                raise Wrong(f"{name} is not finite")
            if exact and not np.array_equal(np.asarray(value), self.params[name]):
                raise Wrong(f"{name} is not the file's")
        model.tokenizer(TEXTS)
        if rng.random() < 0.04:
            json.dumps(model.predict(TEXTS), allow_nan=False, default=float)

    # --- data ---

    def do_data(self, rng, folder, say):
        from jaxft.data.encoded import encode_all
        from jaxft.data.source import Data
        from jaxft.problems import UserError
        from jaxft.tasks.base import EncodingContext
        from jaxft.tasks.classify import Classify

        source = rng.choice(sorted((self.base / "data").iterdir()))
        say(source.name)
        content, file = source.read_bytes(), folder / source.name
        if source.suffix == ".json" and rng.random() < 0.5:
            file.write_bytes(mutations.written(mutations.of_json(json.loads(content), rng)))
        elif source.suffix == ".jsonl" and rng.random() < 0.5:
            lines = content.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = mutations.written(mutations.of_json(json.loads(lines[at]), rng))
            file.write_bytes(b"\n".join(lines))
        else:
            file.write_bytes(mutations.of_bytes(content, rng))
        try:
            rows = Data(path=str(file)).open()
        except UserError as error:
            if not all(file.name in problem for problem in error.problems):
                raise Wrong(f"the message does not name the file: {error}") from error
            raise
        read = rows[:]
        if len(read) != len(rows):
            raise Wrong("rows are missing")
        if source.suffix == ".gz" and [row["text"] for row in read] != self.texts(gzip.decompress(content)):
            raise Wrong("other rows than those that were compressed")  # which have a checksum
        if {"text", "label"} <= set(rows.columns):
            how = EncodingContext(self.model.tokenizer, 32)
            task = Classify().prepare(rows.named(), how)
            encode_all(rows.named(), lambda some: task.encode(some, setting=how))

    def texts(self, content: bytes) -> list[str]:
        return [json.loads(line)["text"] for line in content.splitlines()]

    # --- flags ---

    def do_flags(self, rng, folder, say):
        from jaxft.cli import command
        from jaxft.training.setup import build

        fields = (self.base / "fields").read_text().split("\n")
        names = [rng.choice(fields) for _ in range(rng.choice([1, 1, 2, 3]))]
        if rng.random() < 0.1:
            names.append(rng.choice(["x", "", ".", "task.x.y", "evals.val", "evals.\0.data", "x" * 300, "__class__"]))
        settings = [f"--config.{name}={rng.choice(mutations.TEXTS)}" for name in names]
        say(" ".join(setting[:60] for setting in settings))
        argv = [f"--config={self.base / 'config.py'}", f"--workdir={folder / 'run'}", *settings]
        with contextlib.redirect_stdout(io.StringIO()):
            flags = command.parse(argv, command.CONFIG, command.WORKDIR)
        if rng.random() < 0.3:
            build(flags.config)

    # --- work directories ---

    def do_workdir(self, rng, folder, say):
        from jaxft.cli import command
        from jaxft.evaluation.breakdown import Breakdown
        from jaxft.training.fit import fit
        from jaxft.training.saved_run import evaluate_run, export_run

        run, precious = shutil.copytree(self.base / "run", folder / "run", symlinks=True), folder / "precious"
        precious.write_text("this stays\n")
        files = [path for path in sorted(run.rglob("*")) if path.is_file()]
        tops = [path for path in files if path.parent == run]
        file = rng.choice(tops if rng.random() < 0.7 else files)
        how = rng.choice("text text bytes bytes gone directory link dangling empty".split())
        act = rng.choice(["evaluate", "export", "train"])
        say(f"{act}: {file.relative_to(run)} {how}")
        content = file.read_bytes()
        file.unlink()
        if how == "text" and file.suffix == ".json":
            file.write_bytes(mutations.of_text(content, rng))
        elif how in ("text", "bytes", "empty"):
            file.write_bytes(b"" if how == "empty" else mutations.of_bytes(content, rng))
        elif how == "directory":
            file.mkdir()
        elif how != "gone":
            file.symlink_to(precious if how == "link" else folder / "nowhere")
        try:
            if act == "evaluate":
                evaluate_run(str(run), None, Breakdown())
            elif act == "export":
                export_run(str(run), str(folder / "exported"), None, "merged")
                self.check(folder / "exported", rng, exact=False)
            else:
                with contextlib.redirect_stdout(io.StringIO()):
                    argv = [f"--config={self.base / 'config.py'}", f"--workdir={run}"]
                    fit(command.parse(argv, command.CONFIG, command.WORKDIR).config, str(run))
        finally:
            if precious.read_text() != "this stays\n":
                raise Wrong("the file that a symbolic link names was changed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
