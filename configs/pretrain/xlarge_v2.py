"""ALBERT xlarge, version 2: without dropout.

    python pretrain.py configs/pretrain/xlarge_v2.py --phases.accumulation 8

Cost: 59,021,490 parameters, 262 G tokens, 1.93e21 FLOPs; estimated 7.0 days on 8 H100 with this accumulation,
26 hours on a v5e-256. --dry_run estimates other machines.

Expected: nothing is published for this length. The release was trained for 3M steps on more data (README; its
mixture is not public), 24 times the cost:

    python pretrain.py configs/pretrain/xlarge_v2.py --phases.steps 3000000 --run_dir runs/xlarge_v2_release

and reached after fine-tuning (README, development sets) SQuAD 1.1 92.9/86.4, SQuAD 2.0 87.9/84.1, MNLI 87.9,
SST-2 95.4, RACE 80.7, average 87.9.

Not published: the learning rate and warm-up of version 2. Those of the paper are used here, our choice.
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    model = albert_config("xlarge", version=2)  # dropout 0 (README)
    return paper_recipe("runs/xlarge_v2", model)
