"""Transformer models: parts, the stack that runs them, heads, and one file of facts per family."""
