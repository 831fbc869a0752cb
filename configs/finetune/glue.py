"""GLUE with the paper's recipe for every task (Table 14), from a pretrained model.

    python finetune.py configs/finetune/glue.py --task rte --init_from SOURCE --data_dir GLUE
    python finetune.py configs/finetune/glue.py --task all --init_from SOURCE --data_dir GLUE

Five seeds, of which the paper reports the median. ALBERT base at the paper's length takes minutes (RTE, MRPC) to hours
(QNLI, MNLI, QQP) a seed on one GPU; a start from a model of MNLI helps RTE, STS-B and MRPC, and is what `--task all`
does. Expected: the paper's Table 9 for xxlarge; Google's README for MNLI and SST-2 of every size."""

from albert_jax.tasks.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="rte",
        data_dir="hf:glue",
        run_dir="runs/glue",
        seeds=(0, 1, 2, 3, 4),  # section 4.2.2: the median over 5 runs
    )
