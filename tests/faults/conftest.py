"""A small run that faults can be done to: its text, vocabulary and corpus are made once."""

import numpy as np
import pytest
from runs import start

CONFIG = """
from albert_jax.config import *

def get_config():
    return PretrainConfig(
        run_dir="run",
        data=DataConfig(sources=("text/*.txt",), tokenizer="vocab/spiece.model", corpus=("corpus",),
                        held_out_fraction=0.2),
        model=AlbertConfig(vocab_size=150, embedding_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, max_position_embeddings=32, hidden_dropout_prob=0.1),
        phases=PhasesConfig(steps=(20, 10), sequence_length=(16, 32), batch_size=(8,)),
        optimizer=OptimizerConfig(peak_learning_rate=0.01, warmup_steps=5),
        compute=ComputeConfig(dtype="float32", remat="none"),
        log_every=5, evaluate_every=15, evaluate_sequences=16, checkpoint_every=10, keep_checkpoints=2,
        sample_sentences=("the [MASK] of the wind",),
    )
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Text, vocabulary, corpus and configuration, and no run."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text").mkdir()
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprstw" for b in "aeiou"]
    words = ["the", "of", "wind"] + ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(300)]
    documents = [
        "\n".join(
            " ".join(" ".join(rng.choice(words, rng.integers(3, 9))).capitalize() + "." for _ in range(5))
            for _ in range(4)
        )
        for _ in range(30)
    ]
    (folder / "text" / "0.txt").write_text("\n\n".join(documents) + "\n")
    (folder / "config.py").write_text(CONFIG)
    return folder


@pytest.fixture(scope="session")
def finished(prepared):
    """The run that nothing befell, on one device."""
    process = start(prepared)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return prepared


@pytest.fixture
def unstarted(finished, tmp_path):
    """The same vocabulary and corpus, and no run yet."""
    for name in ("vocab", "corpus", "text", "config.py"):
        (tmp_path / name).symlink_to(finished / name)
    return tmp_path
