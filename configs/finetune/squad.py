"""SQuAD 1.1 and 2.0 with the paper's recipes (Table 14), from a pretrained model.

    python finetune.py configs/finetune/squad.py --task squad1 --init_from SOURCE --data_dir SQUAD
    python finetune.py configs/finetune/squad.py --task squad2 --init_from SOURCE --data_dir SQUAD --squad.head beam

SQUAD is a folder with train-v1.1.json and so on, `hf:squad` (for 2.0 `hf:squad_v2`) or `tfds:squad`. Expected for base
v2 (Google's README): F1 90.2 and 82.1. `--squad.head beam` is Google's own head for 2.0; the plain one can be used in
transformers."""

from albert_jax.tasks.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(task="squad1", run_dir="runs/squad")
