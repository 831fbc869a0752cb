"""A small task for the model that `python pretrain.py` has trained: is a sentence from an essay on nature, or a story?

    python finetune.py configs/finetune/sample.py

About a minute on two cores, offline. The sentences are the pretraining text's own, so this shows how things work and
nothing about what a model can do."""

from albert_jax.config import ComputeConfig
from albert_jax.tasks.config import FinetuneConfig, Recipe, TableConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(
        task="table",
        init_from="runs/sample",
        run_dir="runs/topics",
        table=TableConfig(train_file="data/sample/topics.csv"),
        # A model this small learns at a rate at which large ones diverge.
        recipe=Recipe(learning_rate=3e-4, batch_size=32, epochs=8.0),
        # As in the pretraining of the sample.
        compute=ComputeConfig(dtype="float32", remat="none"),
    )
