r"""The paper's table 3: the size of the embeddings, with parameters shared by all layers and by none.

One command per row, each followed by what the paper expects, on development sets after fine-tuning:
parameters  SQuAD 1.1  SQuAD 2.0  MNLI  SST-2  RACE  average.

Cost: 262 G tokens a row. Sharing does not change the 1.4e20 FLOPs: estimated 12 hours on 8 H100 with
--phases.accumulation 2, 2 hours on a v5e-256. The row shared_128 is base_v1.py.

    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/not_shared_64 \
        --model.embedding_size 64 --model.num_hidden_groups 12
        # 87M  89.9/82.9  80.1/77.8  82.9  91.5  66.7  81.3
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/not_shared_128 \
        --model.num_hidden_groups 12
        # 89M  89.9/82.8  80.3/77.3  83.7  91.5  67.9  81.7
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/not_shared_256 \
        --model.embedding_size 256 --model.num_hidden_groups 12
        # 93M  90.2/83.2  80.3/77.4  84.1  91.9  67.3  81.8
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/not_shared_768 \
        --model.embedding_size 768 --model.num_hidden_groups 12
        # 108M  90.4/83.2  80.4/77.6  84.5  92.8  68.2  82.3
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/shared_64 --model.embedding_size 64
        # 10M  88.7/81.4  77.5/74.8  80.8  89.4  63.5  79.0
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/shared_128
        # 12M  89.3/82.3  80.0/77.1  81.6  90.3  64.0  80.1
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/shared_256 \
        --model.embedding_size 256
        # 16M  88.8/81.5  79.1/76.3  81.5  90.3  63.4  79.6
    python pretrain.py configs/pretrain/table3.py --run_dir runs/table3/shared_768 \
        --model.embedding_size 768
        # 31M  88.6/81.5  79.2/76.6  82.0  90.6  63.3  79.8
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    """The row that the options of the others start from: shared, 128."""
    return paper_recipe("runs/table3/shared_128", albert_config("base", version=1))
