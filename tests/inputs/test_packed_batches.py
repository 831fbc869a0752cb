"""Packed batches, counted again: each sequence is the one that has a row of its own without packing, and to the model
it makes no difference."""

import hashlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recount import (
    awkward_documents,
    make_batches,
    random_documents,
    read_examples,
    vocabulary,
    write_corpus,
    write_texts,
)

from albert_jax.config import AlbertConfig, ComputeConfig, DataConfig, MeshConfig, Phase, PhasesConfig, PretrainConfig
from albert_jax.inputs.features import max_predictions
from albert_jax.inputs.pipeline import read_ahead
from albert_jax.inputs.rows import max_sequences
from albert_jax.model import initialize
from albert_jax.objectives import summarize, total_loss
from albert_jax.sharding import make_mesh
from albert_jax.tasks.pretraining import batch_shapes, device_fields, held_out_evaluators, pretraining_sums
from albert_jax.train import local_rows

COUNTERS = ("ngram_counts", "replacement_counts")


def read_packed(features, tokenizer) -> list[list[dict]]:
    """The sequences of each row; asserts what must hold of any row."""
    rows = []
    for row in range(len(features.input_ids)):
        fields = {name: array[row].tolist() for name, array in features._asdict().items()}
        numbers, slots = fields["attention_mask"], len(fields["first_positions"])
        tokens, count = sum(number > 0 for number in numbers), max(numbers)
        assert numbers == sorted(numbers[:tokens]) + [0] * (len(numbers) - tokens)
        assert set(numbers[:tokens]) == set(range(1, count + 1)) and count <= slots
        assert fields["input_ids"][tokens:] == [tokenizer.pad_id] * (len(numbers) - tokens)
        assert not any(fields["token_type_ids"][tokens:]) and not any(fields["position_ids"][tokens:])
        assert not any(fields["first_positions"][count:]) and not any(fields["sentence_order_labels"][count:])
        assert not any(fields["sentence_order_weights"][count:])
        assert fields["origin"][count:] == [[-1, -1, -1]] * (slots - count)
        predicted = int(sum(fields["masked_lm_weights"]))
        unused = len(fields["masked_lm_weights"]) - predicted
        assert fields["masked_lm_weights"] == [1.0] * predicted + [0.0] * unused
        assert fields["masked_lm_positions"][predicted:] == fields["masked_lm_labels"][predicted:] == [0] * unused
        places = fields["masked_lm_positions"][:predicted]
        assert places == sorted(set(places)) and all(place < tokens for place in places)
        sequences = []
        for slot in range(count):
            begin, length = numbers.index(slot + 1), numbers.count(slot + 1)
            assert fields["first_positions"][slot] == begin
            assert fields["position_ids"][begin : begin + length] == list(range(length))
            own = [index for index, place in enumerate(places) if begin <= place < begin + length]
            shown = fields["input_ids"][begin : begin + length]
            middle = shown.index(tokenizer.sep_id)
            types = fields["token_type_ids"][begin : begin + length]
            assert types == [0] * (middle + 1) + [1] * (length - middle - 1)
            sequences.append(
                dict(
                    origin=tuple(fields["origin"][slot]),
                    shown=shown,
                    positions=[places[index] - begin for index in own],
                    labels=[fields["masked_lm_labels"][index] for index in own],
                    label=fields["sentence_order_labels"][slot],
                    counted=fields["sentence_order_weights"][slot],
                )
            )
        rows.append(sequences)
    return rows


def read_alone(features, tokenizer) -> dict[tuple, dict]:
    """The sequences of a batch that is not packed, by their origin."""
    return {
        (example.shard, example.document, example.token): dict(
            origin=(example.shard, example.document, example.token),
            shown=example.shown,
            positions=example.positions,
            labels=[example.original[position] for position in example.positions],
            label=example.label,
            counted=example.counted,
        )
        for example in read_examples(features, tokenizer)
    }


def epoch_of(batches, number):
    """All rows of one epoch."""
    first = sum(batches.epoch(passed).size for passed in range(number))
    return batches.batch(0, np.arange(first, first + batches.epoch(number).size))


def assert_an_epoch_is_that_of_single_rows(packed, single, tokenizer, number=0, exhausted=0):
    """`exhausted` is the number of rows, at most, whose places for predictions do not suffice."""
    features, alone = epoch_of(packed, number), epoch_of(single, number)
    expected = read_alone(alone, tokenizer)
    assert len(expected) == len(alone.input_ids) == packed.epoch(number).examples
    counters = {
        tuple(origin): [getattr(alone, name)[row] for name in COUNTERS]
        for row, origin in enumerate(alone.origin.tolist())
    }
    seen, different = Counter(), 0
    for row, sequences in enumerate(read_packed(features, tokenizer)):
        assert 1 <= len(sequences) <= packed.sequences
        seen.update(sequence["origin"] for sequence in sequences)
        if features.masked_lm_weights[row].all() and exhausted:
            different += any(sequence != expected[sequence["origin"]] for sequence in sequences)
            continue
        for sequence in sequences:
            assert sequence == expected[sequence["origin"]]
        for name, alone_counts in zip(
            COUNTERS, zip(*(counters[s["origin"]] for s in sequences), strict=True), strict=True
        ):
            assert getattr(features, name)[row].tolist() == np.sum(alone_counts, axis=0).tolist()
    assert seen == Counter(expected.keys())
    assert different <= exhausted


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """About 20,000 tokens of ordinary documents in three shards."""
    documents = random_documents(40, 1000, seed=6)
    corpus = write_corpus(tmp_path_factory.mktemp("small") / "corpus", documents, shards=3, awkward=False)
    return corpus, vocabulary(len(documents))


@pytest.mark.parametrize("objective", ["sop", "nsp", "none"])
@pytest.mark.parametrize("length", [16, 64, 128, 512])
def test_an_epoch_holds_each_example_once_as_it_is_alone(small, length, objective):
    tokenizer = small[1]
    settings = dict(length=length, objective=objective, seed=length)
    packed, single = make_batches(*small, pack_sequences=True, **settings), make_batches(*small, **settings)
    assert packed.epoch(0).size < single.epoch(0).size
    for number in (0, 1):
        assert_an_epoch_is_that_of_single_rows(packed, single, tokenizer, number)


@pytest.mark.parametrize("seed", range(6))
def test_random_settings_change_nothing_about_the_examples(tmp_path, seed):
    generator = np.random.default_rng(seed)
    documents = random_documents(40, int(generator.integers(60, 600)), seed)
    corpus = write_corpus(tmp_path / "corpus", documents, shards=int(generator.integers(1, 6)), awkward=False)
    settings = dict(
        length=int(generator.integers(24, 300)),
        seed=seed,
        short_sequence_probability=float(generator.choice([0.0, 0.1, 0.9])),
        max_ngram=int(generator.integers(1, 4)),
        max_predictions_per_sequence=[None, 5, 20][seed % 3],
    )
    tokenizer = vocabulary(len(documents))
    packed = make_batches(corpus, tokenizer, pack_sequences=True, **settings)
    assert packed.predictions % 8 == 0
    assert_an_epoch_is_that_of_single_rows(packed, make_batches(corpus, tokenizer, **settings), tokenizer)


@pytest.mark.parametrize("length", [8, 16, 64, 128])
def test_awkward_documents_are_packed_whole_and_only_their_masks_may_lack_places(tmp_path, length):
    # Words of a dozen pieces, in documents of two to a few tokens: more predictions than any prose has.
    documents = awkward_documents(length - 3) + random_documents(10, 800, seed=4)
    tokenizer = vocabulary(len(documents))
    corpus = write_corpus(tmp_path / "corpus", documents, shards=2)
    packed, single = (make_batches(corpus, tokenizer, length=length, pack_sequences=p) for p in (True, False))
    assert_an_epoch_is_that_of_single_rows(packed, single, tokenizer, exhausted=packed.epoch(0).size // 20)


def test_real_text_is_packed_as_it_is_alone(real_text):
    corpus, tokenizer = real_text
    for length in (128, 512):
        packed, single = (make_batches(corpus, tokenizer, length=length, pack_sequences=p) for p in (True, False))
        assert_an_epoch_is_that_of_single_rows(packed, single, tokenizer)


def short_articles(directory, seed=0):
    """Articles with lengths like Wikipedia's: half are below 300 tokens, in sentences of 27 on average."""
    generator = np.random.default_rng(seed)
    texts = []
    for size in generator.lognormal(np.log(300), 1.2, 1500).astype(int):
        lengths = np.maximum(generator.lognormal(3.1, 0.6, max(1, size // 27)).astype(int), 2)
        texts.append((generator.integers(10, 50, lengths.sum()), lengths.tolist()))
    return write_texts(directory, texts, vocab_size=50, shards=3), vocabulary(1)


@pytest.mark.parametrize("cap", [None, 20])
def test_95_percent_of_the_places_hold_tokens_on_short_articles(tmp_path, cap):
    inputs = short_articles(tmp_path / "corpus")
    shares = {}
    for pack_sequences in (True, False):
        batches = make_batches(
            *inputs, length=512, size=32, pack_sequences=pack_sequences, max_predictions_per_sequence=cap
        )
        steps = range(batches.epoch(0).size // 32)
        tokens = [np.count_nonzero(batches.batch(step).attention_mask) / (32 * 512) for step in steps]
        shares[pack_sequences] = np.mean(tokens)
        if pack_sequences:
            assert min(tokens) > 0.9, "rows of all kinds are mixed in every batch"
    assert shares[True] > 0.95
    assert shares[False] < 0.7


@pytest.mark.parametrize(("length", "cap", "places"), [(512, None, 104), (128, None, 40), (512, 20, 104), (512, 4, 64)])
def test_the_places_for_predictions_are_a_multiple_of_8(length, cap, places):
    assert max_predictions(length, 0.15, cap, max_sequences(length)) == places


def test_a_row_that_lacks_places_masks_fewer_tokens(prose, monkeypatch):
    tokenizer = prose[1]
    monkeypatch.setattr("albert_jax.inputs.features.DEVIATIONS", -3)
    packed, single = (make_batches(*prose, length=128, pack_sequences=p) for p in (True, False))
    assert packed.predictions == 16
    features, alone = epoch_of(packed, 0), read_alone(epoch_of(single, 0), tokenizer)
    rows = read_packed(features, tokenizer)
    lacking = [row for row in rows if any(s["positions"] != alone[s["origin"]]["positions"] for s in row)]
    assert len(lacking) > 0.1 * len(rows)
    for row in lacking:
        assert 12 <= sum(len(sequence["positions"]) for sequence in row) <= 16
        assert sum(len(alone[sequence["origin"]]["positions"]) for sequence in row) > 12


# ---- a pure function of (seed, step)


def digest(features) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in features)).hexdigest()


@pytest.fixture(scope="module")
def packed(prose):
    return make_batches(*prose, length=128, size=64, pack_sequences=True)


def test_batches_depend_on_neither_order_nor_threads_nor_batch_size(prose, packed):
    steps = np.arange(packed.epoch(0).size * 3 // 64)
    expected = [digest(packed.batch(int(step))) for step in steps]
    fresh = make_batches(*prose, length=128, size=64, pack_sequences=True)
    order = np.random.default_rng(1).permutation(steps).tolist()
    with ThreadPoolExecutor(4) as threads:
        found = dict(zip(order, threads.map(lambda step: digest(fresh.batch(step)), order), strict=True))
    assert [found[step] for step in steps] == expected
    ahead = read_ahead(fresh, start=5, stop=len(steps), rows=None, threads=2, prefetch=3)
    assert [digest(features) for features in ahead] == expected[5:]
    small = make_batches(*prose, length=128, size=16, pack_sequences=True)
    parts = [small.batch(step) for step in range(4, 8)]
    assert digest([np.concatenate(arrays) for arrays in zip(*parts, strict=True)]) == expected[1]


def test_rows_of_several_processes_make_up_the_batch(packed):
    step = packed.epoch(0).size // 64  # holds the end of an epoch
    whole = packed.batch(step)
    parts = [packed.batch(step, np.arange(process * 16, process * 16 + 16)) for process in range(4)]
    assert digest([np.concatenate(arrays) for arrays in zip(*parts, strict=True)]) == digest(whole)
    some = np.array([63, 0, 17, 17])
    assert digest(packed.batch(step, some)) == digest([array[some] for array in whole])
    assert len(packed.batch(step, np.array([], int)).input_ids) == 0


def test_a_far_step_is_found_without_planning_the_epochs_before(prose, packed):
    firsts = np.cumsum([0] + [packed.epoch(number).size for number in range(20)])
    far = make_batches(*prose, length=128, size=64, pack_sequences=True)
    assert far.locate(int(firsts[19])) == (19, 0)
    assert far.locate(int(firsts[19]) - 1) == (18, packed.epoch(18).size - 1)
    assert digest(far.batch(int(firsts[19]) // 64)) == digest(packed.batch(int(firsts[19]) // 64))


def test_each_epoch_puts_other_examples_together(prose, packed):
    together = []
    for number in (0, 1):
        rows = epoch_of(packed, number).origin[..., [0, 2]].tolist()
        together.append({tuple(map(tuple, row[:2])) for row in rows if row[1][0] >= 0})
    assert len(together[0]) > 20 and len(together[0] & together[1]) < 0.1 * len(together[0])


# ---- evaluation


@pytest.mark.parametrize("limit", [1, 40, 200, 10**6])
def test_held_out_sequences_are_the_same_packed_or_not(prose, limit):
    tokenizer = prose[1]
    found = []
    for pack_sequences in (True, False):
        batches = make_batches(*prose, length=128, size=16, pack_sequences=pack_sequences)
        features = [batches.first_examples(step, limit) for step in range(batches.steps_of_first(limit))]
        past_the_end = batches.first_examples(batches.steps_of_first(limit), limit)
        assert not past_the_end.attention_mask.any() and (past_the_end.origin == -1).all()
        if pack_sequences:
            found.append([s for one in features for row in read_packed(one, tokenizer) for s in row])
        else:
            whole = [
                one._replace(**{n: a[one.attention_mask.any(1)] for n, a in one._asdict().items()}) for one in features
            ]
            found.append([s for one in whole for s in read_alone(one, tokenizer).values()])
    together, alone = (sorted(sequences, key=lambda sequence: sequence["origin"]) for sequences in found)
    assert together == alone
    assert len(together) == min(limit, batches.epoch(0).examples)


# ---- the model's view

MODEL = AlbertConfig(
    vocab_size=10 + 120 * 40, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=4,
    intermediate_size=32, max_position_embeddings=64,
)  # fmt: skip


def as_config(objective="sop", pack_sequences=True) -> PretrainConfig:
    return PretrainConfig(
        run_dir="run",
        data=DataConfig(("corpus",), "model", sentence_objective=objective, pack_sequences=pack_sequences),
        model=MODEL,
        phases=PhasesConfig(steps=(5000,), sequence_length=(64,), batch_size=(16,)),
        compute=ComputeConfig(dtype="float32", remat="none"),
        evaluate_sequences=100,
    )


def losses_and_gradients(params, batches, steps, remat="none"):
    """Sums over the batches, the loss of all of them as one, and its gradients."""
    hosts = [device_fields(features) for features in steps]
    batch = {name: jnp.concatenate([jnp.asarray(host[name]) for host in hosts]) for name in hosts[0]}

    def loss(params):
        sums = pretraining_sums(MODEL, ComputeConfig(dtype="float32", remat=remat), params, batch, None)
        return total_loss(sums, sums["mlm_weight"], sums["sop_weight"]), sums

    (value, sums), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return float(value), {name: float(number) for name, number in sums.items()}, gradients


@pytest.mark.parametrize(("objective", "remat"), [("sop", "none"), ("nsp", "matmuls"), ("none", "full")])
def test_losses_and_gradients_are_those_of_single_rows(prose, objective, remat):
    params = initialize(MODEL, jax.random.key(0))
    # Larger weights than at the start of training: attention that sees a neighbour would show.
    params = jax.tree.map(lambda leaf: leaf * 5 if leaf.ndim > 1 else leaf, params)
    results = []
    for pack_sequences in (True, False):
        batches = make_batches(*prose, length=64, size=16, objective=objective, pack_sequences=pack_sequences)
        steps = [batches.first_examples(step, 150) for step in range(batches.steps_of_first(150))]
        results.append(losses_and_gradients(params, batches, steps, remat))
    (loss, sums, gradients), (alone_loss, alone_sums, alone_gradients) = results
    assert loss == pytest.approx(alone_loss, rel=1e-5)
    assert sums["sequences"] == alone_sums["sequences"] == 150 and sums["rows"] < alone_sums["rows"]
    for name in set(sums) - {"places", "rows"}:
        assert sums[name] == pytest.approx(alone_sums[name], rel=1e-5), name

    def alike(path, one, other):
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other) + 1e-7, path

    jax.tree_util.tree_map_with_path(alike, gradients, alone_gradients)


def test_evaluation_gives_the_same_values_packed_or_not(prose):
    corpus, tokenizer = prose
    mesh = make_mesh(MeshConfig())
    params = initialize(MODEL, jax.random.key(1))
    values = []
    with jax.set_mesh(mesh):
        shardings = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), params)
        for pack_sequences in (True, False):
            config = as_config(pack_sequences=pack_sequences)
            (evaluator,) = held_out_evaluators(config, tokenizer, (corpus,), config.phases.phases[0], mesh, shardings)
            values.append(dict(evaluator.run(jax.device_put(params, shardings))))
    together, alone = values
    for name in ("loss", "mlm_loss", "mlm_accuracy", "sop_loss", "sop_accuracy", "mask_rate", "swapped"):
        assert together[f"held_out/{name}"] == pytest.approx(alone[f"held_out/{name}"], rel=1e-5), name
    assert together["held_out/padding"] < alone["held_out/padding"]
    assert together["held_out/sequences_per_row"] > 1 >= alone["held_out/sequences_per_row"]


def test_devices_get_packed_fields_only_for_packed_rows(prose):
    phase = Phase(start=0, steps=10, sequence_length=64, batch_size=16, accumulation=2)
    shapes = {}
    for pack_sequences in (True, False):
        batches = make_batches(*prose, length=64, size=16, pack_sequences=pack_sequences)
        shapes[pack_sequences] = {
            name: (shape.shape, shape.dtype.name) for name, shape in batch_shapes(batches, phase).items()
        }
        for name, array in device_fields(batches.batch(0)).items():
            assert ((2, 8, *array.shape[1:]), array.dtype.name) == shapes[pack_sequences][name]
    assert shapes[False].keys() == shapes[True].keys() - {"position_ids", "first_positions"}
    assert shapes[False]["attention_mask"] == ((2, 8, 64), "bool")
    assert shapes[False]["sentence_order_labels"] == ((2, 8), "int32")
    assert shapes[True]["attention_mask"] == ((2, 8, 64), "int32")
    assert shapes[True]["position_ids"] == ((2, 8, 64), "int32")
    assert shapes[True]["first_positions"] == shapes[True]["sentence_order_labels"] == ((2, 8, 4), "int32")
    assert shapes[True]["masked_lm_positions"] == ((2, 8, 24), "int32")


def test_statistics_count_sequences_and_real_tokens(prose):
    batches = make_batches(*prose, length=64, size=32, pack_sequences=True)
    _, sums, _ = losses_and_gradients(initialize(MODEL, jax.random.key(0)), batches, [batches.batch(0)])
    rows = read_packed(batches.batch(0), prose[1])
    assert sums["sequences"] == sum(map(len, rows)) and sums["rows"] == 32
    assert sums["tokens"] == sum(len(sequence["shown"]) for row in rows for sequence in row)
    summary = summarize(sums)
    assert summary["sequences_per_row"] == sum(map(len, rows)) / 32
    assert summary["padding"] == pytest.approx(1 - sums["tokens"] / (32 * 64))
    assert summary["swapped"] == np.mean([sequence["label"] for row in rows for sequence in row])
    assert set(local_rows(make_mesh(MeshConfig()), 32, 2)) == set(range(32))
