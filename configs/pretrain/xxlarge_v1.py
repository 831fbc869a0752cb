"""ALBERT xxlarge, version 1: as in the paper's main comparison, the 12 layers of table 13.

    python pretrain.py configs/pretrain/xxlarge_v1.py --phases.accumulation 8

Cost: 223,158,450 parameters, 262 G tokens, 3.68e21 FLOPs; estimated 13.4 days on 8 H100 with this
accumulation, 50 hours on a v5e-256 (accumulation 2). --dry_run estimates other machines.

Expected after fine-tuning (paper, table 13, development sets): SQuAD 1.1 94.0/88.1, SQuAD 2.0 88.3/85.3, MNLI
87.8, SST-2 95.4, RACE 82.5, average 88.7.

The release was trained for 1.5M steps on more data (section 4.9; its mixture is not public), twelve times the
cost:

    python pretrain.py configs/pretrain/xxlarge_v1.py --phases.steps 1500000 --run_dir runs/xxlarge_v1_release

and reached (README) SQuAD 1.1 94.8/89.3, SQuAD 2.0 90.2/87.4, MNLI 90.8, SST-2 96.9, RACE 86.5, average 91.0.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("xxlarge", version=1)  # no dropout in this size (TF-Hub configuration)
    return paper_recipe("runs/xxlarge_v1", model)
