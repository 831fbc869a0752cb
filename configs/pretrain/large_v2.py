"""ALBERT large, version 2: without dropout.

    python pretrain.py configs/pretrain/large_v2.py --phases.accumulation 4

Cost: 17,847,474 parameters, 262 G tokens, 5.02e20 FLOPs; estimated 44 hours on 8 H100 with this accumulation,
7 hours on a v5e-256. --dry_run estimates other machines.

Expected: nothing is published for this length. The release was trained for 3M steps on more data (README; its
mixture is not public), 24 times the cost:

    python pretrain.py configs/pretrain/large_v2.py --phases.steps 3000000 --run_dir runs/large_v2_release

and reached after fine-tuning (README, development sets) SQuAD 1.1 91.8/85.2, SQuAD 2.0 84.9/81.8, MNLI 86.5,
SST-2 94.9, RACE 75.2, average 85.7.

Not published: the learning rate and warm-up of version 2. Those of the paper are used here, our choice.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("large", version=2)  # dropout 0 (README)
    return paper_recipe("runs/large_v2", model)
