"""ALBERT base, version 1: as in the paper's main comparison (table 2).

    python pretrain.py configs/pretrain/base_v1.py --phases.accumulation 2

Cost: 11,813,810 parameters, 262 G tokens, 1.42e20 FLOPs; estimated 12 hours on 8 H100 with this accumulation,
2 hours on a v5e-256. --dry_run estimates other machines.

Expected after fine-tuning (paper, table 2, development sets): SQuAD 1.1 89.3/82.3, SQuAD 2.0 80.0/77.1, MNLI
81.6, SST-2 90.3, RACE 64.0, average 80.1. On the paper's own held-out text (table 5) 54.0 % of the masked
tokens and 86.5 % of the sentence orders are right; other text gives other figures.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("base", version=1)  # dropout 0.1 (TF-Hub configuration)
    return paper_recipe("runs/base_v1", model)
