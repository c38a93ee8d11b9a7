"""Adapters: small trained parts on a frozen model, and their files. One file for each method."""
