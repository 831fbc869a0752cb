"""The recipe of the paper, which every file in configs/pretrain/ but the sample starts from.

Lan et al. 2019, section 4.1, completed from Google's code and README. Where none of them says anything the
comment is "our choice".
"""

from albert_jax.config import (
    AlbertConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PhasesConfig,
    PretrainConfig,
)


def paper_recipe(run_dir: str, model: AlbertConfig) -> PretrainConfig:
    """`model`, pretrained as in the paper's main comparison (table 2): 262 G tokens, Wikipedia and books."""
    return PretrainConfig(
        run_dir=run_dir,
        data=DataConfig(
            # Wikipedia and BookCorpus, about 16 GB of text, and a vocabulary of 30,000 pieces (section 4.1);
            # docs/data.md says how to build both.
            corpus=("corpora/wikipedia_books",),
            tokenizer="corpora/vocab/spiece.model",
            do_lower_case=True,  # create_pretraining_data.py
            sentence_objective="sop",  # section 3.1
            short_sequence_probability=0.1,  # section 4.1
            masked_lm_probability=0.15,  # create_pretraining_data.py
            max_ngram=3,  # section 4.1
            # Google's code, and its authors for the paper (google-research/albert issue 51): 20 at 512 tokens
            # too, 3.9 % of them and not 15 %. `--data.max_predictions_per_sequence None` lifts the cap.
            max_predictions_per_sequence=20,
            # Our choice, the same objective: Google's code gives each pair a row of its own, padded. Rows of short
            # articles hold more pairs, so that a batch has more of them than 4096.
            pack_sequences=True,
        ),
        model=model,
        phases=PhasesConfig(
            steps=(125_000,),  # section 4.1
            sequence_length=(512,),  # section 4.1: throughout, with no shorter phase before
            batch_size=(4096,),  # section 4.1
            accumulation=(1,),  # our choice; --dry_run says how many parts fit into which device
        ),
        optimizer=OptimizerConfig(
            name="lamb",  # section 4.1
            peak_learning_rate=1.76e-3,  # section 4.1
            warmup_steps=3125,  # README
            weight_decay=0.01,  # optimization.py, as are the four lines below
            beta_1=0.9,
            beta_2=0.999,
            epsilon=1e-6,
            max_gradient_norm=1.0,
        ),
        # Our choice: any number of devices that divides the batch.
        mesh=MeshConfig(data=-1),
        # Our choice: the paper says nothing of precision.
        compute=ComputeConfig(dtype="bfloat16", remat="matmuls"),
        # Our choices from here on, but for checkpoints: every 5000 steps (README), 5 kept (run_pretraining).
        seed=0,
        log_every=100,
        evaluate_every=5000,
        evaluate_sequences=8192,
        checkpoint_every=5000,
        keep_checkpoints=5,
        sample_sentences=(
            "The capital of France is [MASK].",
            "She opened the door and [MASK] into the room.",
        ),
    )
