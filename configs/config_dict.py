"""The quick start as an `ml_collections.ConfigDict`.

`jaxft.config.to_config_dict(cfg)` converts any Config.
"""

from ml_collections import ConfigDict

from jaxft.assets import path


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.model = path("tiny-encoder")
    config.task = {"name": "Classify", "text": "text", "label": "label"}
    config.data = {"class": "Data", "path": path("brown-genres/train.csv")}
    config.evals = {"test": {"data": {"class": "Data", "path": path("brown-genres/test.csv")}}}
    config.lr = 5e-4
    config.batch = 32
    config.epochs = 5
    config.save = {"every": 103}
    return config
