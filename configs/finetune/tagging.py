"""Named entities: CoNLL-2003, judged by the F1 of whole entities.

    python finetune.py configs/finetune/tagging.py --init_from SOURCE --data_dir CONLL

CONLL is a folder with eng.train, eng.testa and eng.testb. The paper has no tagging; the recipe is BERT's. For words and
tags of your own see table.py."""

from albert_jax.tasks.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(task="conll", data_dir="hf:conll2003", run_dir="runs/tagging")
