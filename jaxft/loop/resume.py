"""Whether a configuration may continue the run that a work directory already holds."""

from pathlib import Path

from jaxft.config import Config
from jaxft.configurable import to_json
from jaxft.problems import UserError, raise_problems

# What may differ when a run goes on: where and how it computes, and what it reports.
FREE = ("mesh", "micro_batches", "remat", "scan", "log_every", "save", "evals", "nonfinite", "export_dtype", "wandb")


def changed_problems(cfg: Config, workdir: Path) -> None:
    """Raises UserError if the work directory belongs to a run whose numbers would be other ones."""
    import json

    file = workdir / "config.json"
    if not file.exists():
        return
    try:
        saved = json.loads(file.read_text())
    except ValueError:
        raise UserError(f"{file} is damaged: choose another --workdir, or remove this one") from None
    now = to_json(cfg)
    raise_problems(
        f"config.{name} is {now[name]!r}, but {workdir} holds a run with {saved.get(name)!r}: "
        "choose another --workdir, or put it back"
        for name in now
        if name not in FREE and now[name] != saved.get(name)
    )
