"""Tuning methods: which parameters train. One file for each method."""
