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
    config.lr = 7e-4
    config.batch = 32
    config.epochs = 4
    config.save = {"every": 83}
    return config
