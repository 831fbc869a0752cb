r"""The paper's table 5: the sentence-level objective, none, next-sentence or sentence-order prediction.

One command per row, each followed by what the paper expects: accuracy in masked-LM, next-sentence and
sentence-order prediction on its held-out text (of SQuAD and RACE; ours is the corpus's own, so expect the
differences rather than the values), then on development sets after fine-tuning:
SQuAD 1.1  SQuAD 2.0  MNLI  SST-2  RACE  average.

Cost: 11,813,810 parameters, 262 G tokens and 1.42e20 FLOPs a row; estimated 12 hours on 8 H100 with
--phases.accumulation 2, 2 hours on a v5e-256. The row sop is base_v1.py with one more evaluation.

    python pretrain.py configs/pretrain/table5.py --run_dir runs/table5/none --data.sentence_objective none
        # 54.9  52.4  53.3    88.6/81.5  78.1/75.3  81.5  89.9  61.7  79.0
    python pretrain.py configs/pretrain/table5.py --run_dir runs/table5/nsp --data.sentence_objective nsp
        # 54.5  90.5  52.0    88.4/81.5  77.2/74.6  81.6  91.1  62.3  79.2
    python pretrain.py configs/pretrain/table5.py --run_dir runs/table5/sop
        # 54.0  78.9  86.5    89.3/82.3  80.0/77.1  82.0  90.3  64.0  80.1
"""

import dataclasses

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    """The row that the options of the others start from: sentence order."""
    config = paper_recipe("runs/table5/sop", albert_config("base", version=1))
    # Every model is measured on both objectives, also on the one that it was not trained for.
    return dataclasses.replace(config, evaluate_objectives=("sop", "nsp"))
