"""ALBERT xlarge, version 1: as in the paper's main comparison (table 2).

    python pretrain.py configs/pretrain/xlarge_v1.py --phases.accumulation 8

Cost: 59,021,490 parameters, 262 G tokens, 1.93e21 FLOPs; estimated 7.0 days on 8 H100 with this accumulation,
26 hours on a v5e-256 (accumulation 2). --dry_run estimates other machines.

Expected after fine-tuning (paper, table 2, development sets): SQuAD 1.1 92.5/86.1, SQuAD 2.0 86.1/83.1, MNLI
86.4, SST-2 92.4, RACE 74.8, average 85.5.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("xlarge", version=1)  # dropout 0.1 (TF-Hub configuration)
    return paper_recipe("runs/xlarge_v1", model)
