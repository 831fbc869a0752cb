r"""The paper's table 4: which parameters the layers share, at embedding sizes 768 and 128.

One command per row, each followed by what the paper expects, on development sets after fine-tuning:
parameters  SQuAD 1.1  SQuAD 2.0  MNLI  SST-2  RACE  average.

Cost: 262 G tokens a row. Sharing does not change the 1.4e20 FLOPs: estimated 12 hours on 8 H100 with
--phases.accumulation 2, 2 hours on a v5e-256. The row all_128 is base_v1.py, for which the paper gives
MNLI 81.6 in its tables 2 and 3; "all" and "none" are rows of table 3 too.

    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/all_768 --model.embedding_size 768
        # 31M  88.6/81.5  79.2/76.6  82.0  90.6  63.3  79.8
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/attention_768 \
        --model.embedding_size 768 --model.num_hidden_groups 12 --model.shared_across_groups attention
        # 83M  89.9/82.7  80.0/77.2  84.0  91.4  67.7  81.6
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/ffn_768 \
        --model.embedding_size 768 --model.num_hidden_groups 12 --model.shared_across_groups ffn
        # 57M  89.2/82.1  78.2/75.4  81.5  90.8  62.6  79.5
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/none_768 \
        --model.embedding_size 768 --model.num_hidden_groups 12
        # 108M  90.4/83.2  80.4/77.6  84.5  92.8  68.2  82.3
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/all_128
        # 12M  89.3/82.3  80.0/77.1  82.0  90.3  64.0  80.1
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/attention_128 \
        --model.num_hidden_groups 12 --model.shared_across_groups attention
        # 64M  89.9/82.8  80.7/77.9  83.4  91.9  67.6  81.7
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/ffn_128 \
        --model.num_hidden_groups 12 --model.shared_across_groups ffn
        # 38M  88.9/81.6  78.6/75.6  82.3  91.7  64.4  80.2
    python pretrain.py configs/pretrain/table4.py --run_dir runs/table4/none_128 \
        --model.num_hidden_groups 12
        # 89M  89.9/82.8  80.3/77.3  83.2  91.5  67.9  81.6
"""

from albert_jax.config import PretrainConfig, albert_config
from configs.paper import paper_recipe


def get_config() -> PretrainConfig:
    """The row that the options of the others start from: shared, 128."""
    return paper_recipe("runs/table4/all_128", albert_config("base", version=1))
