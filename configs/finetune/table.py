"""Your own data: a .csv, .tsv or JSON lines file whose columns say what it is for.

    python finetune.py configs/finetune/table.py --init_from SOURCE --table.train_file train.csv --run_dir runs/mine

    text, [pair,] label                     classification; regression where labels have decimals, or --table.kind
    text, [pair,] labels                    several labels for each text, "a|b"
    words, tags                             tagging, "John lives" and "B-PER O"
    text, [question,] choices0, choices1 ... label         multiple choice
    question, context, answer [, answer_start]             question answering; no answer where it is empty

Other names: --table.columns.text sentence. Without --table.dev_file a tenth of the training examples is kept apart.
--mode predict --table.test_file FILE writes predictions for a file without labels."""

from albert_jax.tasks.config import FinetuneConfig


def get_config() -> FinetuneConfig:
    return FinetuneConfig(task="table", run_dir="runs/table")
