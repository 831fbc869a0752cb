"""What `albert_jax.predict` says beside the pipelines of transformers (4.57 or 5), on the same random models.

Run in an environment that has transformers and torch: `pip install -e ".[test,peer]"; pytest -m peer`.
"""

import jax
import numpy as np
import pytest

import albert_jax
from albert_jax import predict
from albert_jax.config import AlbertConfig
from albert_jax.tokenizer import AlbertTokenizer

pytestmark = pytest.mark.peer
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TEXTS = [
    "The water of the river, said Ann Lee.",
    "stone",
    "Thé café is well-known; don't you know?  It has 12 rooms (so it says)!",
    "water " * 60,
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> AlbertTokenizer:
    from data.train_vocab import train_vocab

    folder = tmp_path_factory.mktemp("vocab")
    rng = np.random.default_rng(0)
    words = ["water", "stone", "river", "the", "of", "said", "cafe", "well", "known", "room", "says", "it", "you"]
    marks = [".", "?", "!", ", and", " - no.", '"', " (so)", ": 12", ";", "'"]
    lines = [" ".join(rng.choice(words, 8)) + rng.choice(marks) for _ in range(400)]
    lines += ["the quick brown fox jumps over a lazy dog"] * 5
    (folder / "text.txt").write_text("\n".join(lines))
    return AlbertTokenizer.from_file(train_vocab([str(folder / "text.txt")], folder / "spiece.model", vocab_size=62))


@pytest.fixture
def both(tokenizer, tmp_path):
    """Our model of a class, and a pipeline over the folder that it is saved to."""

    def both(name: str, task: str, labels: tuple[str, ...] = ("bad", "good", "ugly"), problem_type=None):
        config = AlbertConfig(
            vocab_size=tokenizer.vocab_size,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=256,
        )
        model = getattr(albert_jax, name).from_config(config, tokenizer, labels=labels)
        # Of larger weights than fresh ones, so that every output depends on the whole text.
        model.params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, model.params)
        model.problem_type = problem_type
        model.save_pretrained(tmp_path / name)
        return model, transformers.pipeline(task, str(tmp_path / name), device="cpu")

    return both


def test_completions_are_those_of_the_fill_mask_pipeline(both, tokenizer):
    model, theirs = both("AlbertForMaskedLM", "fill-mask")
    texts = [
        "the [MASK] of the river",
        "[MASK] stone, said the [MASK]",
        "The café [MASK] ( so ) [MASK]",
        "water " * 50 + "[MASK]",
    ]
    size = tokenizer.vocab_size
    for text, masks in zip(texts, predict.fill_mask(model, texts, top_k=size), strict=True):
        found = theirs(text, top_k=size)
        found = found if isinstance(found[0], list) else [found]
        assert len(masks) == len(found)
        for ours, peer in zip(masks, found, strict=True):
            expected = {tokenizer.id_to_piece(one["token"]): one["score"] for one in peer}
            ordinary = {tokenizer.id_to_piece(i) for i in tokenizer.ordinary_ids}
            assert {c.piece for c in ours} == ordinary  # theirs has the special symbols too
            for completion in ours:
                assert completion.probability == pytest.approx(expected[completion.piece], abs=1e-5)
            order = [piece for piece in expected if piece in ordinary]
            assert [c.piece for c in ours][:3] == order[:3]


def test_only_the_pipeline_puts_a_space_between_a_mask_and_a_full_stop(both, tokenizer):
    """The one difference in reading: SentencePiece begins the part behind a symbol with a "▁" of its own."""
    _, theirs = both("AlbertForMaskedLM", "fill-mask")
    ours = predict._encode_masked(tokenizer, "the [MASK].", 256)
    peer = theirs.tokenizer("the [MASK].")["input_ids"]
    assert [tokenizer.id_to_piece(i) for i in peer] == ["[CLS]", "▁the", "[MASK]", "▁", ".", "[SEP]"]
    assert [tokenizer.id_to_piece(i) for i in ours] == ["[CLS]", "▁the", "[MASK]", ".", "[SEP]"]


@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_labels_are_those_of_the_text_classification_pipeline(both, problem_type):
    model, theirs = both("AlbertForSequenceClassification", "text-classification", problem_type=problem_type)
    for text, ours in zip(TEXTS, predict.classify(model, TEXTS), strict=True):
        peer = theirs(text, top_k=None)
        assert [label.label for label in ours] == [one["label"] for one in peer]
        np.testing.assert_allclose([label.score for label in ours], [one["score"] for one in peer], atol=1e-5)


def test_labels_of_pairs_are_those_of_the_text_classification_pipeline(both):
    model, theirs = both("AlbertForSequenceClassification", "text-classification")
    pairs = TEXTS[::-1]
    for text, pair, ours in zip(TEXTS, pairs, predict.classify(model, TEXTS, pairs), strict=True):
        peer = theirs({"text": text, "text_pair": pair}, top_k=None)
        expected = {one["label"]: one["score"] for one in peer}
        assert {label.label: label.score for label in ours} == pytest.approx(expected, abs=1e-5)


def test_a_regression_is_the_number_of_the_text_classification_pipeline(both):
    model, theirs = both("AlbertForSequenceClassification", "text-classification", ("score",), "regression")
    for text, ((_, number),) in zip(TEXTS, predict.classify(model, TEXTS), strict=True):
        # Version 4 squashes the number of a regression too, unless told not to.
        (peer,) = theirs(text, top_k=None, function_to_apply="none")
        assert number == pytest.approx(peer["score"], abs=1e-5)


def test_words_have_the_label_that_the_token_classification_pipeline_gives_their_first_piece(both):
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    model, theirs = both("AlbertForTokenClassification", "token-classification", labels)
    for text, tags in zip(TEXTS, predict.tag(model, TEXTS), strict=True):
        pieces = [piece for piece in theirs(text, ignore_labels=[]) if piece["word"] != "▁"]
        assert tags
        for tag in tags:
            first = next(piece for piece in pieces if piece["end"] > tag.start)
            assert tag.label == first["entity"]
            assert tag.score == pytest.approx(float(first["score"]), abs=1e-5)


def test_embeddings_are_means_of_the_feature_extraction_pipeline(both):
    model, theirs = both("AlbertModel", "feature-extraction")
    means, firsts = (predict.embed(model, TEXTS, pooling=pooling) for pooling in ("mean", "cls"))
    for text, mean, first in zip(TEXTS, means, firsts, strict=True):
        features = np.array(theirs(text)[0])
        np.testing.assert_allclose(mean, features.mean(0), atol=1e-5)
        np.testing.assert_allclose(first, features[0], atol=1e-5)
