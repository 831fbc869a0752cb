"""Completions of masked sentences."""

import jax
import numpy as np
import pytest

from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.model import initialize
from albert_jax.predict import fill_mask
from albert_jax.tokenizer import AlbertTokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from data.train_vocab import train_vocab

    folder = tmp_path_factory.mktemp("vocab")
    rng = np.random.default_rng(0)
    syllables = ["wa", "ter", "sto", "ne", "ri", "ver", "li", "ght", "door", "ro", "om"]
    words = ["water", "stone", "river", "the"] + ["".join(rng.choice(syllables, 2)) for _ in range(60)]
    (folder / "text.txt").write_text("\n".join(" ".join(rng.choice(words, 8)) + "." for _ in range(300)))
    path = train_vocab([str(folder / "text.txt")], folder / "spiece.model", vocab_size=50)
    config = AlbertConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    return config, initialize(config, jax.random.key(0)), AlbertTokenizer.from_file(path)


def test_every_mask_gets_its_likeliest_pieces_in_order(model):
    one, two = fill_mask(*model, ["the [MASK] river.", "[MASK] water [MASK] stone"], top_k=4)
    assert (len(one), len(two)) == (1, 2)
    for choices in one + two:
        probabilities = [choice.probability for choice in choices]
        assert len(choices) == 4
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1


def test_a_sentence_alone_is_completed_as_among_others(model):
    alone = fill_mask(*model, ["[MASK] water"])[0][0]
    together = fill_mask(*model, ["[MASK] water", "the river the water [MASK] stone"])[0][0]
    assert [choice.piece for choice in alone] == [choice.piece for choice in together]
    np.testing.assert_allclose([c.probability for c in alone], [c.probability for c in together], rtol=1e-4)


def test_special_pieces_complete_nothing(model):
    config, _, _ = model
    (choices,) = fill_mask(*model, ["the [MASK]"], top_k=config.vocab_size)[0]
    assert sum(choice.probability for choice in choices) == pytest.approx(1.0, abs=1e-4)
    assert all(choice.probability == 0 for choice in choices if choice.piece in ("[CLS]", "[SEP]", "[MASK]", "<pad>"))


def test_a_sentence_without_a_mask_is_refused(model):
    with pytest.raises(UserError, match=r"'no mask': contains no \[MASK\]"):
        fill_mask(*model, ["no mask"])


def test_a_sentence_beyond_the_positions_is_refused(model):
    with pytest.raises(UserError, match="more than the model's 24 positions"):
        fill_mask(*model, ["[MASK] " + "water " * 30])
