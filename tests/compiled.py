"""What a compiled program moves between eight devices, laid out in several ways."""

import re
from collections import Counter

MESHES = [{"data": 8}, {"fsdp": 8}, {"tensor": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]
IDS = ["-".join(f"{axis}{size}" for axis, size in sizes.items()) for sizes in MESHES]


def table_moves(program: str, shapes: set[tuple[int, int]]) -> Counter:
    """How often arrays of these shapes go between devices; "in a loop" where that is in a loop."""
    bodies, found, name = set(re.findall(r"body=%?([\w.-]+)", program)), Counter(), ""
    for line in program.splitlines():
        name = line.split()[0].lstrip("%") if line.endswith("{") and not line.startswith(" ") else name
        if op := re.search(r"= (.*?) (all-gather|reduce-scatter|all-reduce|all-to-all|collective-permute)\(", line):
            sizes = {tuple(map(int, dims.split(","))) for dims in re.findall(r"\w+\[([\d,]+)\]", op[1])}
            found["in a loop" if name in bodies else op[2]] += bool(sizes & shapes)
    return found
