"""Quantised linear maps: the formats in which a frozen model's matrices are held. One file for each format."""
