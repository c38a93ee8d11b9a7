"""All commands in one: `jaxft NAME ...` and `python -m jaxft NAME ...` do what `python -m jaxft.NAME ...` does."""

from typing import NoReturn

from jaxft.cli import commands
from jaxft.host import startup


def script() -> NoReturn:
    """The command `jaxft`, which pip installs."""
    startup.begin_script()
    commands.run("jaxft")


if __name__ == "__main__":
    commands.run("python -m jaxft")
