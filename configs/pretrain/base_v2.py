"""ALBERT base, version 2: without dropout.

    python pretrain.py configs/pretrain/base_v2.py --phases.accumulation 2

Cost: 11,813,810 parameters, 262 G tokens, 1.42e20 FLOPs; estimated 12 hours on 8 H100 with this accumulation,
2 hours on a v5e-256. --dry_run estimates other machines.

Expected: nothing is published for this length. The release was trained for 10M steps on more data (README;
its mixture is not public), 80 times the cost:

    python pretrain.py configs/pretrain/base_v2.py --phases.steps 10000000 --run_dir runs/base_v2_release

and reached after fine-tuning (README, development sets) SQuAD 1.1 90.2/83.2, SQuAD 2.0 82.1/79.3, MNLI 84.6,
SST-2 92.9, RACE 66.8, average 82.3.

Not published: the learning rate and warm-up of version 2. Those of the paper are used here, our choice.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("base", version=2)  # dropout 0 (README)
    return paper_recipe("runs/base_v2", model)
