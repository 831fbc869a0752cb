"""What models say about texts: the same alone and among others, and exactly what the network computes.

The models are tiny and random, but of larger weights than fresh ones: every answer depends on the whole text."""

import jax
import numpy as np
import pytest

import albert_jax
from albert_jax import predict
from albert_jax.config import AlbertConfig
from albert_jax.errors import UserError
from albert_jax.predict import Tag, entities
from albert_jax.pretrained import LoadReport
from albert_jax.tokenizer import AlbertTokenizer

LONGEST = 192
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


INPUTS = "input_ids", "token_type_ids", "attention_mask"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> AlbertTokenizer:
    from data.train_vocab import train_vocab

    folder = tmp_path_factory.mktemp("vocab")
    rng = np.random.default_rng(0)
    syllables = ["wa", "ter", "sto", "ne", "ri", "ver", "li", "ght", "door", "ro", "om", "cafe", "x", "y", "z", "q"]
    words = ["water", "stone", "river", "the"] + ["".join(rng.choice(syllables, 2)) for _ in range(60)]
    marks = [".", "?", "!", ", and", " - no.", '"', " (so)", ": 12"]
    lines = [" ".join(rng.choice(words, 8)) + rng.choice(marks) for _ in range(400)]
    (folder / "text.txt").write_text("\n".join(lines))
    return AlbertTokenizer.from_file(train_vocab([str(folder / "text.txt")], folder / "spiece.model", vocab_size=90))


@pytest.fixture(scope="module")
def make(tokenizer):
    """A model of a class by its name."""

    def make(name: str, labels: tuple[str, ...] = ("bad", "good", "ugly"), longest: int = LONGEST):
        config = AlbertConfig(
            vocab_size=96,  # larger than the tokenizer's, as where it is rounded up
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=longest,
        )
        model = getattr(albert_jax, name).from_config(config, tokenizer, labels=labels)
        model.params = jax.tree.map(lambda x: x * 10 if x.ndim > 1 else x, model.params)
        return model

    return make


@pytest.fixture(scope="module")
def masked_lm(make):
    return make("AlbertForMaskedLM")


@pytest.fixture(scope="module")
def classifier(make):
    return make("AlbertForSequenceClassification")


@pytest.fixture(scope="module")
def tagger(make):
    return make("AlbertForTokenClassification", LABELS)


@pytest.fixture(scope="module")
def reader(make):
    return make("AlbertForQuestionAnswering")


@pytest.fixture(scope="module")
def chooser(make):
    return make("AlbertForMultipleChoice")


def prose(words: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(rng.choice(["water", "stone", "river", "the", "door", "room.", "light,"], words))


def mixed_texts(count: int = 40) -> list[str]:
    """From one word to more than 128 pieces, so that both row lengths occur, and several batches."""
    rng = np.random.default_rng(1)
    texts = [prose(int(words), seed) for seed, words in enumerate(rng.integers(1, 40, count))]
    return [*texts, prose(72, 5), "the", prose(64, 6)]


def softmax(logits) -> np.ndarray:
    exponentials = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponentials / exponentials.sum()


def plain(model, text: str, pair: str | None = None):
    """The model's own output for one text, not packed. Padded to one length, so that it is compiled once."""
    longest = model.config.max_position_embeddings
    batch = model.tokenizer([text], None if pair is None else [pair], padding="max_length", max_length=longest)
    return model(**batch)


def by_label(labels) -> dict[str, float]:
    return {label: score for label, score in labels}


def test_the_texts_here_are_of_all_lengths(tokenizer):
    lengths = [len(tokenizer.encode(text)) for text in mixed_texts()]
    assert min(lengths) < 4
    assert max(lengths) > 128
    assert sum(lengths) > 2048


# ---- completions


def test_every_mask_gets_its_likeliest_pieces_in_order(masked_lm):
    one, two = predict.fill_mask(masked_lm, ["the [MASK] river.", "[MASK] water [MASK] stone"], top_k=4)
    assert (len(one), len(two)) == (1, 2)
    for completions in one + two:
        probabilities = [completion.probability for completion in completions]
        assert len(completions) == 4
        assert probabilities == sorted(probabilities, reverse=True)


def test_probabilities_are_the_networks_over_the_whole_vocabulary(masked_lm, tokenizer):
    ids = [tokenizer.cls_id, *tokenizer.encode("the water"), tokenizer.mask_id, *tokenizer.encode("stone")]
    ids.append(tokenizer.sep_id)
    logits = masked_lm(np.array([ids])).logits[0, ids.index(tokenizer.mask_id), : tokenizer.vocab_size]
    expected = softmax(logits)
    ((completions,),) = predict.fill_mask(masked_lm, ["the water [MASK] stone"], top_k=1000)
    assert len(completions) == len(tokenizer.ordinary_ids)
    for completion in completions:
        assert completion.probability == pytest.approx(expected[tokenizer.piece_to_id(completion.piece)], rel=1e-4)


def test_special_pieces_complete_nothing(masked_lm, tokenizer):
    ((completions,),) = predict.fill_mask(masked_lm, ["the [MASK]"], top_k=1000)
    special = {tokenizer.id_to_piece(i) for i in tokenizer.special_ids}
    assert not special & {completion.piece for completion in completions}
    assert 0.5 < sum(completion.probability for completion in completions) < 1


def test_completions_alone_are_those_among_others(masked_lm):
    rng = np.random.default_rng(2)
    texts = []
    for text in mixed_texts():
        words = text.split()
        for place in rng.choice(len(words), min(len(words), 3), replace=False):
            words[place] = "[MASK]"
        texts.append(" ".join(words))
    together = predict.fill_mask(masked_lm, texts, top_k=3)
    for text, masks in zip(texts, together, strict=True):
        assert len(masks) == text.count("[MASK]")
        for one, other in zip(masks, predict.fill_mask(masked_lm, [text], top_k=3)[0], strict=True):
            np.testing.assert_allclose([c.probability for c in one], [c.probability for c in other], atol=1e-5)


def test_a_text_may_be_nothing_but_masks(masked_lm):
    (masks,) = predict.fill_mask(masked_lm, ["[MASK]" * 150], top_k=1)
    assert len(masks) == 150


def test_targets_are_compared_instead(masked_lm):
    ((every,),) = predict.fill_mask(masked_lm, ["the [MASK]"], top_k=1000)
    ((some,),) = predict.fill_mask(masked_lm, ["the [MASK]"], targets=["water", "the", "river"], top_k=1)
    assert {completion.text for completion in some} == {"water", "the", "river"}
    assert [c for c in every if c in some] == some


def test_the_text_of_a_completion_is_without_the_mark_of_a_space(masked_lm):
    ((completions,),) = predict.fill_mask(masked_lm, ["the [MASK]"], top_k=1000)
    for completion in completions:
        assert completion.text == (completion.piece.removeprefix("▁") or "▁")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("waterstone", r"target 'waterstone': is \d pieces of the vocabulary \(▁w.*\); only single ones"),
        ("東", "target '東': is not in the vocabulary"),
        ("", "target '': is not in the vocabulary"),
    ],
)
def test_a_target_that_is_no_piece_is_refused(masked_lm, target, message):
    with pytest.raises(UserError, match=message):
        predict.fill_mask(masked_lm, ["the [MASK]"], targets=["the", target])


def test_a_sign_behind_a_mask_follows_without_a_space(masked_lm, tokenizer):
    ids = [tokenizer.cls_id, *tokenizer.encode("the"), tokenizer.mask_id, tokenizer.piece_to_id("."), tokenizer.sep_id]
    assert predict._encode_masked(tokenizer, "the [MASK].", 32) == ids


def test_a_pretraining_model_completes_too(make):
    model = make("AlbertForPreTraining")
    assert len(predict.fill_mask(model, ["the [MASK]"])[0][0]) == 5


# ---- embeddings


def pooled(model, text: str, pooling: str) -> np.ndarray:
    output = plain(model, text)
    if pooling == "pooler":
        return np.asarray(output.pooler_output[0])
    hidden = np.asarray(output.last_hidden_state[0, : len(model.tokenizer.build(text))])
    return hidden.mean(0) if pooling == "mean" else hidden[0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_embeddings_are_those_of_each_text_alone(make, pooling):
    model, texts = make("AlbertModel"), mixed_texts(12)
    found = predict.embed(model, texts, pooling=pooling)
    assert found.dtype == np.float32
    assert found.shape == (len(texts), 16)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, pooled(model, text, pooling), atol=1e-5)


def test_a_model_without_a_pooler_has_means_but_no_pooled_vectors(masked_lm):
    assert predict.embed(masked_lm, ["the water"]).shape == (1, 16)
    with pytest.raises(UserError, match="AlbertForMaskedLM has no pooler; load the source as AlbertModel"):
        predict.embed(masked_lm, ["the water"], pooling="pooler")


def test_a_pooler_that_was_drawn_at_random_is_refused(make):
    model = make("AlbertModel")
    model.report = LoadReport("here", "AlbertModel", initialized=["albert/pooler/kernel"])
    with pytest.raises(UserError, match="here has no pooler; choose mean or cls"):
        predict.embed(model, ["the water"], pooling="pooler")


def test_bfloat16_is_near_float32(make):
    model, texts = make("AlbertModel"), mixed_texts(4)
    exact, rounded = predict.embed(model, texts), predict.embed(model, texts, dtype="bfloat16")
    assert rounded.dtype == np.float32
    assert 0 < np.abs(exact - rounded).max() < 0.1


# ---- labels


def test_labels_have_the_softmax_of_the_logits_likeliest_first(classifier):
    texts = mixed_texts()
    for text, labels in zip(texts, predict.classify(classifier, texts), strict=True):
        scores = [label.score for label in labels]
        assert scores == sorted(scores, reverse=True)
        expected = dict(zip(classifier.labels, softmax(plain(classifier, text).logits[0]), strict=True))
        assert by_label(labels) == pytest.approx(expected, abs=1e-5)


def test_pairs_are_two_segments(classifier):
    texts, pairs = mixed_texts(5), list(reversed(mixed_texts(5)))
    found = predict.classify(classifier, [t[:200] for t in texts], [p[:200] for p in pairs])
    for text, pair, labels in zip(texts, pairs, found, strict=True):
        expected = softmax(plain(classifier, text[:200], pair[:200]).logits[0])
        assert by_label(labels) == pytest.approx(dict(zip(classifier.labels, expected, strict=True)), abs=1e-5)


def test_labels_of_a_multi_label_model_have_probabilities_of_their_own(make):
    model = make("AlbertForSequenceClassification")
    model.problem_type = "multi_label_classification"
    (labels,) = predict.classify(model, ["the water"])
    expected = 1 / (1 + np.exp(-np.asarray(plain(model, "the water").logits[0])))
    assert by_label(labels) == pytest.approx(dict(zip(model.labels, expected, strict=True)), abs=1e-5)


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_a_regression_gives_its_number(make, problem_type):
    model = make("AlbertForSequenceClassification", ("score",))
    model.problem_type = problem_type
    ((number,),) = predict.classify(model, ["the water"])
    assert number == ("score", pytest.approx(float(plain(model, "the water").logits[0, 0]), abs=1e-5))


# ---- tags

TEXT = "  Thé café\tcafé,  \U0001f600 said U.N. (so) — well-known: don't… \U0001f469\u200d\U0001f680 12,000!?"
WORDS = [
    *("Thé", "café", "café", ",", "\U0001f600", "said", "U.N", ".", "(", "so", ")", "—", "well-known", ":", "don't"),
    *("…", "\U0001f469\u200d\U0001f680", "12", ",", "000", "!", "?"),
]


def test_words_stand_where_their_spans_say(tagger):
    text = TEXT.replace("café,", "cafe\u0301,")  # one accent of its own, which is a character more
    (tags,) = predict.tag(tagger, [text])
    assert [tag.word.replace("e\u0301", "é") for tag in tags] == WORDS
    assert all(text[tag.start : tag.stop] == tag.word for tag in tags)


def test_a_word_has_the_label_of_its_first_piece(tagger, tokenizer):
    texts = [TEXT, *mixed_texts()]
    for text, tags in zip(texts, predict.tag(tagger, texts), strict=True):
        batch = tokenizer([text], offsets=True)
        logits = np.asarray(plain(tagger, text).logits[0])
        for tag in tags:
            piece = next(
                number for number, (start, stop) in enumerate(batch.offsets[0]) if start < stop and stop > tag.start
            )
            expected = softmax(logits[piece])
            assert tag.score == pytest.approx(expected.max(), abs=1e-5)
            assert expected[LABELS.index(tag.label)] == pytest.approx(expected.max(), abs=1e-5)


def test_signs_that_are_one_piece_each_have_its_label(tagger):
    """Neighbouring characters that the vocabulary lacks are one unknown piece."""
    (tags,) = predict.tag(tagger, ["water \U0001f600\U0001f601"])
    assert [tag.word for tag in tags] == ["water", "\U0001f600", "\U0001f601"]
    assert tags[1][3:] == tags[2][3:]


def test_words_beyond_the_positions_have_no_tags(make):
    tagger = make("AlbertForTokenClassification", LABELS, 16)
    text = prose(60)
    (tags,) = predict.tag(tagger, [text], truncate=True)
    assert 0 < len(tags) < 15
    assert all(text[tag.start : tag.stop] == tag.word for tag in tags)


def test_a_text_of_spaces_has_no_words(tagger):
    assert predict.tag(tagger, ["  ", ""]) == [[], []]


def tags_of(marked: str) -> tuple[list[Tag], str]:
    """ "Ann/B-PER Lee/I-PER" as tags."""
    words = [word.rsplit("/", 1) for word in marked.split()]
    text, tags = " ".join(word for word, _ in words), []
    start = 0
    for number, (word, label) in enumerate(words):
        tags.append(Tag(word, start, start + len(word), label, 0.5 + 0.1 * (number % 2)))
        start += len(word) + 1
    return tags, text


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("Ann/B-PER Lee/I-PER met/O Bo/B-PER", ["PER Ann Lee", "PER Bo"]),
        ("Ann/I-PER Lee/I-PER met/O Bo/I-PER", ["PER Ann Lee", "PER Bo"]),  # IOB1
        ("Ann/I-PER Bo/B-PER Lee/I-PER", ["PER Ann", "PER Bo Lee"]),  # IOB1: B- parts neighbours
        ("Ann/B-PER Bo/B-PER", ["PER Ann", "PER Bo"]),
        ("Ann/B-PER Rome/I-LOC", ["PER Ann", "LOC Rome"]),
        ("Ann/PER Lee/PER Rome/LOC", ["PER Ann Lee", "LOC Rome"]),  # no prefixes
        ("met/O", []),
        ("", []),
    ],
)
def test_entities_are_runs_of_words(marked, expected):
    tags, text = tags_of(marked)
    found = entities(tags, text)
    assert [f"{entity.label} {entity.text}" for entity in found] == expected
    assert all(text[entity.start : entity.stop] == entity.text for entity in found)


def test_an_entity_scores_the_mean_of_its_words():
    tags, text = tags_of("Ann/B-PER Lee/I-PER")
    assert entities(tags, text)[0].score == pytest.approx(0.55)


# ---- answers


def spans_by_hand(reader, question: str, context: str, max_length: int, stride: int, longest: int):
    """Every span's best score over all windows, from the model's own logits: {(start, stop): score}."""
    tokenizer = reader.tokenizer
    asked, (pieces, offsets) = tokenizer.encode(question), tokenizer.encode_with_offsets(context)
    head = [tokenizer.cls_id, *asked, tokenizer.sep_id]
    room = max_length - len(head) - 1
    best, nulls, first = {}, [], 0
    while True:
        part = pieces[first : first + room]
        ids = [*head, *part, tokenizer.sep_id]
        types = [0] * len(head) + [1] * (len(part) + 1)
        inputs = (np.pad(x, (0, LONGEST - len(ids)))[None] for x in (ids, types, [1] * len(ids)))
        output = reader(**dict(zip(INPUTS, inputs, strict=True)))
        starts, ends = np.asarray(output.start_logits[0]), np.asarray(output.end_logits[0])
        nulls.append(starts[0] + ends[0])
        for one in range(len(part)):
            for other in range(one, min(len(part), one + longest)):
                span = int(offsets[first + one][0]), int(offsets[first + other][1])
                if span[1] > span[0]:
                    score = starts[len(head) + one] + ends[len(head) + other]
                    best[span] = max(score, best.get(span, -np.inf))
        if first + room >= len(pieces):
            return best, min(nulls)
        first += min(stride, room)


@pytest.mark.parametrize("words", [5, 30, 120])
@pytest.mark.parametrize("seed", range(4))
def test_the_answer_is_the_best_span_of_all_windows(reader, words, seed):
    question, context = "the water?", prose(words, seed)
    best, _ = spans_by_hand(reader, question, context, 64, 24, 8)
    others = [prose(n, 100 + n) for n in (3, 50)]
    found = predict.answer(
        reader, [question] * 3, [others[0], context, others[1]], max_length=64, stride=24, max_answer_length=8
    )
    ((answer,),) = found[1:2]
    assert best[answer.start, answer.stop] == pytest.approx(max(best.values()), abs=1e-4)
    assert answer.text == context[answer.start : answer.stop]


def test_an_answer_in_the_last_window_is_found(reader):
    """Of many contexts some have it there."""
    contexts = [prose(60, seed) for seed in range(40)]
    found = predict.answer(reader, ["the?"] * 40, contexts, max_length=40, stride=16, max_answer_length=4)
    assert any(answer.start > len(context) - 30 for (answer,), context in zip(found, contexts, strict=True))


def test_the_best_answers_come_in_order_of_their_scores(reader):
    question, context = "the water?", prose(40, 3)
    best, _ = spans_by_hand(reader, question, context, LONGEST, 128, 30)
    (answers,) = predict.answer(reader, [question], [context], n_best=6)
    assert len({(answer.start, answer.stop) for answer in answers}) == 6
    found = [best[answer.start, answer.stop] for answer in answers]
    np.testing.assert_allclose(found, sorted(best.values(), reverse=True)[:6], atol=1e-4)
    expected = softmax(sorted(best.values(), reverse=True)[:20])
    np.testing.assert_allclose([answer.score for answer in answers], expected[:6], atol=1e-4)


def test_answers_are_no_longer_than_told(reader, tokenizer):
    contexts = [prose(40, seed) for seed in range(6)]
    for found in predict.answer(reader, ["the water?"] * 6, contexts, n_best=20, max_answer_length=2):
        assert len(found) == 20
        assert max(len(tokenizer.encode(answer.text)) for answer in found) <= 3  # alone a piece may get a "▁" more


def test_no_answer_competes_by_its_score(reader):
    contexts = [prose(1 + seed % 5, seed) for seed in range(20)]
    found = predict.answer(reader, ["the water?"] * 20, contexts, no_answer=True)
    for context, (answer,) in zip(contexts, found, strict=True):
        best, null = spans_by_hand(reader, "the water?", context, LONGEST, 128, 30)
        if abs(null - max(best.values())) > 1e-4:
            assert (answer.text == "") == (null > max(best.values()))
    texts = {answer.text == "" for (answer,) in found}
    assert texts == {True, False}


def test_without_no_answer_there_always_is_one(reader):
    found = predict.answer(reader, ["the water?"] * 20, [prose(20, seed) for seed in range(20)])
    assert all(answer.text for (answer,) in found)


def test_an_empty_context_has_no_answer(reader):
    assert predict.answer(reader, ["the?"], [" "]) == [[("", 0, 0, 1.0)]]


def test_answers_are_exact_in_texts_with_accents_and_emoji(reader):
    context = "  Thé café\tcafe\u0301,  \U0001f600 said (so) — well-known: don't… 12,000!?"
    (answers,) = predict.answer(reader, ["the?"], [context], n_best=20)
    assert len(answers) == 20
    for answer in answers:
        assert answer.text == context[answer.start : answer.stop]
        assert answer.text == answer.text.strip() != ""


@pytest.mark.parametrize("name", ["n_best", "stride", "max_answer_length"])
def test_numbers_below_one_are_refused(reader, name):
    with pytest.raises(UserError, match=f"{name} = 0: must be at least 1"):
        predict.answer(reader, ["the?"], ["water"], **{name: 0})


def test_a_question_that_leaves_no_room_is_refused(reader):
    with pytest.raises(UserError, match="leaves no room for its context in 192") as error:
        predict.answer(reader, ["the?", prose(150)], ["water", "stone"])
    assert error.value.number == 1


# ---- choices


def test_choices_have_the_probabilities_of_the_models_own_logits(chooser, tokenizer):
    texts = [text[:150] for text in mixed_texts(6)]
    choices = [["the stone", "water", prose(12)][: 2 + number % 2] for number in range(len(texts))]
    for text, those, ranked in zip(texts, choices, predict.choose(chooser, texts, choices), strict=True):
        batch = tokenizer([text] * len(those), those)
        inputs = (x[None] for x in (batch.input_ids, batch.token_type_ids, batch.attention_mask))
        expected = softmax(chooser(**dict(zip(INPUTS, inputs, strict=True))).logits[0])
        assert [choice.score for choice in ranked] == sorted((choice.score for choice in ranked), reverse=True)
        for choice in ranked:
            assert choice.text == those[choice.index]
            assert choice.score == pytest.approx(expected[choice.index], abs=1e-5)


def test_truncation_shortens_the_text_and_never_the_choice(make):
    chooser = make("AlbertForMultipleChoice", longest=24)
    text, choices = prose(60), ["water stone", "the door"]
    (ranked,) = predict.choose(chooser, [text], [choices], truncate=True)
    batch = chooser.tokenizer([text] * 2, choices, truncation="only_first", max_length=24)
    inputs = (x[None] for x in (batch.input_ids, batch.token_type_ids, batch.attention_mask))
    expected = softmax(chooser(**dict(zip(INPUTS, inputs, strict=True))).logits[0])
    assert {choice.index: choice.score for choice in ranked} == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_a_text_without_choices_is_refused(chooser):
    with pytest.raises(UserError, match=r"text 2 \('water'\): has no choices"):
        predict.choose(chooser, ["the", "water"], [["stone"], []])


# ---- what all refuse, and what all do with nothing

USES = {
    "fill_mask": ("AlbertForMaskedLM", predict.fill_mask),
    "embed": ("AlbertModel", predict.embed),
    "classify": ("AlbertForSequenceClassification", predict.classify),
    "tag": ("AlbertForTokenClassification", predict.tag),
    "answer": (
        "AlbertForQuestionAnswering",
        lambda model, texts, **o: predict.answer(model, texts, texts, **o),
    ),
    "choose": (
        "AlbertForMultipleChoice",
        lambda model, texts, **o: predict.choose(model, texts, [["stone", "water"]] * len(texts), **o),
    ),
}


@pytest.mark.parametrize("use", USES)
def test_no_texts_give_no_results(make, use):
    name, run = USES[use]
    assert len(run(make(name), [])) == 0


@pytest.mark.parametrize("use", USES)
def test_one_string_instead_of_a_list_is_refused(make, use):
    name, run = USES[use]
    with pytest.raises(UserError, match=r"one str \('the \[MASK\]'\), expected several; put it into a list"):
        run(make(name), "the [MASK]")


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("texts", [None, 5, {"the [MASK]"}, ["the [MASK]", None], [b"[MASK]"], "generator"])
def test_what_is_no_list_of_texts_is_refused(make, use, texts):
    """A generator above all: it would be empty once it was checked."""
    name, run = USES[use]
    if use == "choose":

        def run(model, texts):
            return predict.choose(model, texts, [["stone"]])

    if texts == "generator":
        texts = (text for text in ["the [MASK]"])
    with pytest.raises(UserError, match=r"expected a list of str|expected str"):
        run(make(name), texts)


@pytest.mark.parametrize("others", [5, "w", [None], [5], {"water"}])
def test_second_texts_are_checked_like_the_first(make, others):
    for use in (
        lambda: predict.answer(make("AlbertForQuestionAnswering"), ["the"], others),
        lambda: predict.choose(make("AlbertForMultipleChoice"), ["the"], [others]),
        lambda: predict.fill_mask(make("AlbertForMaskedLM"), ["the [MASK]"], targets=others),
        lambda: predict.classify(make("AlbertForSequenceClassification"), ["the"], others),
    ):
        with pytest.raises(UserError, match=r"expected a list of str|expected str|put it into a list"):
            use()


@pytest.mark.parametrize("top_k", ["5", 2.5, None, True])
def test_a_number_of_another_type_is_refused(masked_lm, top_k):
    with pytest.raises(UserError, match=r"top_k = .*: must be a whole number"):
        predict.fill_mask(masked_lm, ["the [MASK]"], top_k=top_k)


@pytest.mark.parametrize("use", USES)
def test_a_model_without_a_tokenizer_is_refused(make, use):
    name, run = USES[use]
    model = make(name)
    model.tokenizer = None
    with pytest.raises(UserError, match=r"no tokenizer: put its spiece.model or tokenizer.json beside"):
        run(model, ["the [MASK]"])


@pytest.mark.parametrize("use", [use for use in USES if use != "embed"])
def test_a_model_of_another_class_is_refused(make, use):
    name, run = USES[use]
    with pytest.raises(UserError, match=f"the model is AlbertModel, expected {name}"):
        run(make("AlbertModel"), ["the [MASK]"])


@pytest.mark.parametrize("use", [use for use in USES if use != "embed"])
def test_a_head_that_was_never_trained_is_refused(make, use):
    name, run = USES[use]
    model = make(name)
    report = LoadReport("here", name, initialized=[f"{model.head}kernel", f"{model.head}bias"])
    model = type(model)(model.config, model.params, model.tokenizer, labels=model.labels, report=report)
    with pytest.raises(UserError, match=r"here: has no trained .* would answer at random"):
        run(model, ["the [MASK]"])


@pytest.mark.parametrize("use", [use for use in USES if use != "answer"])
def test_a_text_beyond_the_positions_is_refused_by_its_number(make, use):
    name, run = USES[use]
    with pytest.raises(UserError, match=r"^text 2 .*pieces, more than the model's 32 positions; shorten it") as error:
        run(make(name, longest=32), ["the [MASK]", prose(60) + " [MASK]", "water [MASK]"])
    assert error.value.number == 1


@pytest.mark.parametrize("use", ["embed", "classify", "tag", "choose"])
def test_a_text_beyond_the_positions_can_be_cut(make, use):
    name, run = USES[use]
    assert len(run(make(name, longest=32), ["the", prose(60), "water"], truncate=True)) == 3


@pytest.mark.parametrize("text", ["no mask", "a [mask]", ""])
def test_a_text_without_a_mask_is_refused(masked_lm, text):
    with pytest.raises(UserError, match=r"contains no \[MASK\]; write it, in capitals"):
        predict.fill_mask(masked_lm, ["the [MASK]", text])


@pytest.mark.parametrize(
    ("use", "arguments"),
    [
        ("classify", (["one", "two"], ["one"])),
        ("answer", (["one"], ["one", "two"])),
        ("choose", (["one"], [["a"], ["b"]])),
    ],
)
def test_numbers_of_texts_that_differ_are_refused(make, use, arguments):
    with pytest.raises(UserError, match=r"\d .*but .*\d.*; give each"):
        getattr(predict, use)(make(USES[use][0]), *arguments)
