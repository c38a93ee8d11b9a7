"""A short series of kills; tests/kill_series.py is the long one."""

import signal

import kill_series
import pytest

from jaxft.assets import path


@pytest.mark.slow
def test_a_run_that_is_killed_and_asked_to_end_is_the_unbroken_run(tmp_path, monkeypatch, capsys):
    """One process: two SIGKILLs, a SIGTERM and a Ctrl-C, while it starts, steps and saves."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = kill_series.write_config(tmp_path, path("tiny-encoder"), path("brown-genres/train.csv"), 800, 10)
    numbers = {signal.SIGKILL: 2, signal.SIGTERM: 1, signal.SIGINT: 1}
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script's background would ignore
    try:
        problems = kill_series.series(config, tmp_path, 1, numbers, seed=3)
        assert problems == [], (tmp_path / "log").read_text()[-20_000:]
    finally:
        signal.signal(signal.SIGINT, former)
    said = capsys.readouterr().out
    assert [said.count(number.name) for number in numbers] == [2, 1, 1]
