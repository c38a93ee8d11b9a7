"""Whether a configuration may continue the run that a work directory already holds."""

from pathlib import Path

from jaxft import strict_json
from jaxft.config import Config
from jaxft.configurable import to_json
from jaxft.problems import UserError, raise_problems, shown

# What may differ when a run goes on: where and how it computes, and what it reports.
FREE = ("mesh", "micro_batches", "remat", "scan", "log_every", "save", "evals", "nonfinite", "export_dtype", "wandb")


def changed_problems(cfg: Config, workdir: Path) -> None:
    """Raises UserError if the work directory belongs to a run whose numbers would be other ones."""
    file = workdir / "config.json"
    if not file.exists():
        return
    try:
        saved = strict_json.parse(file.read_bytes())
    except ValueError as error:
        saved = error
    if not isinstance(saved, dict):
        reason = saved if isinstance(saved, ValueError) else f"{shown(saved)} is no configuration"
        raise UserError(f"{file} is damaged ({reason}): choose another --workdir, or remove this one")
    now = to_json(cfg)
    raise_problems(
        f"config.{name} is {shown(now[name])}, but {workdir} holds a run with {shown(saved.get(name))}: "
        "choose another --workdir, or put it back"
        for name in now
        if name not in FREE and now[name] != saved.get(name)
    )
