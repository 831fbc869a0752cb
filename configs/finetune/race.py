"""RACE with the paper's recipe (Table 14; for version 2 Google's README), and other multiple choice.

    python finetune.py configs/finetune/race.py --init_from SOURCE --data_dir RACE
    python finetune.py configs/finetune/race.py --task swag --init_from SOURCE --data_dir SWAG
    python finetune.py configs/finetune/race.py --task dream --init_from SOURCE --data_dir DREAM

RACE trains on both schools and reports middle, high and all. `--model_version v1` for models of version 1: their rate
and dropout make version 2 diverge. Expected for base v2: 66.8 (Google's README)."""

from albert_jax.tasks.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(task="race", data_dir="hf:race", run_dir="runs/choice")
