"""A short series of kills; tests/kill_series.py is the long one."""

import signal

import kill_series
import pytest

from jaxft.assets import path


@pytest.mark.slow
def test_a_run_that_is_killed_and_asked_to_end_is_the_unbroken_run(tmp_path, monkeypatch, capsys):
    """One process: two SIGKILLs, of which some hit a checkpoint being written, and a SIGTERM."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = kill_series.write_config(tmp_path, path("tiny-encoder"), path("brown-genres/train.csv"), 200, 10)
    assert kill_series.series(config, tmp_path, 1, kills=2, terms=1, seed=3) == []
    said = capsys.readouterr().out
    assert said.count(signal.SIGKILL.name) == 2 and said.count(signal.SIGTERM.name) == 1
