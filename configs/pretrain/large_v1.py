"""ALBERT large, version 1: as in the paper's main comparison (table 2).

    python pretrain.py configs/pretrain/large_v1.py --phases.accumulation 4

Cost: 17,847,474 parameters, 262 G tokens, 5.02e20 FLOPs; estimated 44 hours on 8 H100 with this accumulation,
7 hours on a v5e-256. --dry_run estimates other machines.

Expected after fine-tuning (paper, table 2, development sets): SQuAD 1.1 90.6/83.9, SQuAD 2.0 82.3/79.4, MNLI
83.5, SST-2 91.7, RACE 68.5, average 82.4.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("large", version=1)  # dropout 0.1 (TF-Hub configuration)
    return paper_recipe("runs/large_v1", model)
