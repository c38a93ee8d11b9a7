"""What tests of data files share: the rows that a file gives, and the message for a file that is refused."""

import pytest

from jaxft.data.source import Data
from jaxft.problems import UserError


def read(path, **options):
    return Data(path=str(path), **options).open()[:]


def message(path, **options):
    with pytest.raises(UserError) as caught:
        Data(path=str(path), **options).open()
    return str(caught.value)
