"""A small ALBERT on the bundled corpus: the whole path, from raw text to completed sentences, on a laptop's CPU.

    python pretrain.py

About five minutes on two cores, offline. The model is far too small, and its text far too short, to learn English:
expect it to know common words and punctuation, and to have started on the order of sentences."""

from albert_jax.config import (
    AlbertConfig,
    ComputeConfig,
    DataConfig,
    OptimizerConfig,
    PhasesConfig,
    PretrainConfig,
)


def get_config() -> PretrainConfig:
    return PretrainConfig(
        run_dir="runs/sample",
        data=DataConfig(
            sources=("data/sample/*.txt",),
            tokenizer="runs/sample/vocab/spiece.model",
            corpus=("runs/sample/corpus",),
            held_out_fraction=0.1,
        ),
        model=AlbertConfig(
            vocab_size=2000,
            embedding_size=64,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=128,
        ),
        phases=PhasesConfig(steps=(1500,), sequence_length=(64,), batch_size=(32,)),
        optimizer=OptimizerConfig(peak_learning_rate=1e-2, warmup_steps=150),
        # Our choice for a CPU, where bfloat16 has not been timed.
        compute=ComputeConfig(dtype="float32", remat="none"),
        log_every=50,
        evaluate_every=250,
        evaluate_sequences=256,
        checkpoint_every=250,
        keep_checkpoints=2,
        sample_sentences=(
            "The water in the [MASK] was cold.",
            "She opened the door and [MASK] into the room.",
            "It was one of the [MASK] things that he had ever seen.",
            "In the morning [MASK] walked to the village.",
        ),
    )
