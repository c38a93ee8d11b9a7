"""A run that is killed at random moments, also while it saves, is the unbroken run. More: kill_series.py."""

import pytest
from kill_series import series, write_config
from test_same_numbers import write_rows


@pytest.mark.slow
def test_kills_change_nothing(tiny_bert, tmp_path):
    config = write_config(tmp_path, tiny_bert, write_rows(tmp_path / "rows.csv", 61), steps=3000, every=20)
    assert series(config, tmp_path, count=1, kills=4, terms=2, seed=1) == []
