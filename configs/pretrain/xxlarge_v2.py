"""ALBERT xxlarge, version 2: without dropout.

    python pretrain.py configs/pretrain/xxlarge_v2.py --phases.accumulation 8

Cost: 223,158,450 parameters, 262 G tokens, 3.68e21 FLOPs; estimated 13.4 days on 8 H100 with this
accumulation, 50 hours on a v5e-256 (accumulation 2). --dry_run estimates other machines.

Expected: nothing is published for this length. The release was trained for 3M steps on more data (README; its
mixture is not public), 24 times the cost:

    python pretrain.py configs/pretrain/xxlarge_v2.py --phases.steps 3000000 --run_dir runs/xxlarge_v2_release

and reached after fine-tuning (README, development sets) SQuAD 1.1 94.6/89.1, SQuAD 2.0 89.8/86.9, MNLI 90.6,
SST-2 96.8, RACE 86.8, average 90.9.

Not published: the learning rate and warm-up of version 2. Those of the paper are used here, our choice.
Version 1 of this size has no dropout either: at equal length the two are the same run.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("xxlarge", version=2)  # dropout 0 (README)
    return paper_recipe("runs/xxlarge_v2", model)
