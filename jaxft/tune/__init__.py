"""Tuning methods: which parameters train. One file per method."""
