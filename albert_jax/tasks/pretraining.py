"""Pretraining put together from its parts: corpus and tokenizer become batches, batches and model become sums, sums
become a loss and a log line. `pretrain.py` tells the story; this holds its nouns."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from albert_jax.config import AlbertConfig, ComputeConfig, Phase, PretrainConfig
from albert_jax.errors import UserError
from albert_jax.evaluate import Evaluator
from albert_jax.inputs.corpus import Corpus, open_corpus
from albert_jax.inputs.features import HOST_FIELDS, PACKED_FIELDS, Features, max_predictions
from albert_jax.inputs.mixing import apportion, shares_of
from albert_jax.inputs.pipeline import MixedBatches, PretrainingBatches, read_ahead
from albert_jax.inputs.rows import max_sequences
from albert_jax.model import apply
from albert_jax.objectives import (
    batch_statistics,
    masked_lm_sums,
    sentence_order_sums,
    summarize,
    total_loss,
)
from albert_jax.tokenizer import AlbertTokenizer
from albert_jax.train import Objective, local_rows, place_batches

EVALUATION_SEED = 20190926  # the day of the paper's first version; held-out batches are the same in every run
STATISTICS = (
    "attention_mask",
    "masked_lm_weights",
    "sentence_order_labels",
    "sentence_order_weights",
    "ngram_counts",
    "replacement_counts",
)


def pretraining_objective(model: AlbertConfig, compute: ComputeConfig) -> Objective:
    """Masked-LM plus sentence-order loss of `AlbertForPreTraining`."""
    return Objective(
        sums=partial(pretraining_sums, model, compute),
        weights=lambda batch: dict(mlm=batch["masked_lm_weights"].sum(), sop=batch["sentence_order_weights"].sum()),
        loss=lambda sums, weights: total_loss(sums, weights["mlm"], weights["sop"]),
        random=model.hidden_dropout_prob > 0 or model.attention_probs_dropout_prob > 0,
    )


def pretraining_sums(
    model: AlbertConfig,
    compute: ComputeConfig,
    params: Any,
    batch: dict[str, jax.Array],
    keys: jax.Array | None,
) -> dict[str, jax.Array]:
    """Losses, hits, weights and data statistics summed over a batch of arrays [B, ...]; dropout only with keys."""
    output = apply(
        model,
        params,
        batch["input_ids"],
        batch["token_type_ids"],
        batch["attention_mask"],
        batch["masked_lm_positions"],
        keys=keys,
        dtype=compute.dtype,
        remat=compute.remat,
        attention=compute.attention,
        **{name: batch[name] for name in PACKED_FIELDS if name in batch},
    )
    return (
        masked_lm_sums(output.mlm_logits, batch["masked_lm_labels"], batch["masked_lm_weights"])
        | sentence_order_sums(output.sop_logits, batch["sentence_order_labels"], batch["sentence_order_weights"])
        | batch_statistics(*(batch[name] for name in STATISTICS))
    )


def open_inputs(config: PretrainConfig) -> tuple[AlbertTokenizer, tuple[Corpus, ...], tuple[Corpus, ...]]:
    """Tokenizer, and training and held-out split of each corpus, checked to belong together and to the model. With
    `data.verify_checksums` every process reads its share of the shards."""
    require_different(config.data.corpus)
    tokenizer = AlbertTokenizer.from_file(config.data.tokenizer, config.data.do_lower_case)
    if tokenizer.vocab_size != config.model.vocab_size:
        raise UserError(
            f"model.vocab_size = {config.model.vocab_size}: {config.data.tokenizer} has {tokenizer.vocab_size} pieces; "
            f"set --model.vocab_size {tokenizer.vocab_size}, or use the tokenizer that belongs to this model"
        )
    train, held_out = (
        tuple(
            open_corpus(
                directory,
                split,
                tokenizer_fingerprint=tokenizer.fingerprint,
                verify=config.data.verify_checksums,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            for directory in config.data.corpus
        )
        for split in ("train", "held_out")
    )
    return tokenizer, train, held_out


def require_different(directories: Sequence[str]) -> None:
    """Raises `UserError` if two of the folders are the same one."""
    resolved = [Path(directory).resolve() for directory in directories]
    for number, directory in enumerate(directories):
        if resolved[number] in resolved[:number]:
            raise UserError(
                f"data.corpus: {directory} is named twice; name it once, with a larger weight in data.corpus_weights"
            )


def corpus_names(corpora: Sequence[Corpus]) -> list[str]:
    """What metrics call the corpora of a mix: their folders' names, or corpus_1, corpus_2, ... where two are alike."""
    names = [corpus.directory.resolve().name for corpus in corpora]
    return names if len(set(names)) == len(names) else [f"corpus_{number + 1}" for number in range(len(names))]


def describe_corpora(corpora: Sequence[Corpus], batches: MixedBatches) -> list[str]:
    """A line for each corpus: what is in it, and what share of the rows is from it."""
    lines = []
    for corpus, part, share in zip(corpora, batches.parts, batches.mix.shares, strict=True):
        mixed = f"{float(share):.2%} of the rows from {corpus.directory}: " if len(corpora) > 1 else ""
        epoch = part.epoch(0)
        lines.append(
            f"{mixed}{corpus.num_documents:,} documents, {corpus.num_tokens:,} tokens; one epoch is "
            f"{epoch.examples:,} sequences in {epoch.size:,} rows of {part.sequence_length}"
        )
    return lines


def training_batches(
    config: PretrainConfig, tokenizer: AlbertTokenizer, corpora: Sequence[Corpus], phase: Phase, order: int = 0
) -> MixedBatches:
    """The batches of one phase; step 0 is the phase's first. Phases draw from streams of their own, and so does each
    `order` that a run which went back to a checkpoint goes on with."""
    seed = config.seed if order == 0 else int(np.random.SeedSequence((config.seed, order)).generate_state(1)[0]) >> 1
    seed += phase.start * 2**31
    parts = [
        PretrainingBatches(
            corpus,
            tokenizer,
            config.data,
            sequence_length=phase.sequence_length,
            batch_size=phase.batch_size,
            seed=seed,
            mixed_after=corpora[:number],
        )
        for number, corpus in enumerate(corpora)
    ]
    return MixedBatches(parts, config.data.corpus_weights, seed=seed)


def position(batches: MixedBatches, phase: Phase, step: int) -> dict[str, float]:
    """Where training step `step` of a phase stands in its data: `data/epoch`, the times that the rows of an epoch have
    been read, as a fraction; of a mix for all its corpora together, and `data/NAME/epoch` for each. Cheap."""
    rows = batches.mix.rows_before((step - phase.start) * batches.batch_size)
    found = [part.position(count) for part, count in zip(batches.parts, rows, strict=True)]
    epochs = [epoch + read / size for epoch, read, size in found]
    if len(epochs) == 1:
        return {"data/epoch": epochs[0]}
    sizes = [size for _, _, size in found]
    together = sum(epoch * size for epoch, size in zip(epochs, sizes, strict=True)) / sum(sizes)
    names = corpus_names([part.corpus for part in batches.parts])
    return {"data/epoch": together} | {f"data/{name}/epoch": epoch for name, epoch in zip(names, epochs, strict=True)}


def phase_batches(
    config: PretrainConfig, batches: MixedBatches, phase: Phase, mesh: Mesh, step: int
) -> Iterator[dict[str, jax.Array]]:
    """The batches of a phase from training step `step` on, on the mesh, read ahead by threads."""
    ahead = read_ahead(
        batches,
        start=step - phase.start,
        stop=phase.steps,
        rows=local_rows(mesh, phase.batch_size, phase.accumulation),
        threads=config.data.threads,
        prefetch=config.data.prefetch_batches,
    )
    return place_batches(map(device_fields, ahead), mesh, phase.batch_size, phase.accumulation)


def device_fields(features: Features) -> dict[str, np.ndarray]:
    """What goes to the devices."""
    absent = HOST_FIELDS if features.position_ids.shape[1] else HOST_FIELDS + PACKED_FIELDS
    return {name: array for name, array in features._asdict().items() if name not in absent}


def held_out_evaluators(
    config: PretrainConfig,
    tokenizer: AlbertTokenizer,
    corpora: Sequence[Corpus],
    phase: Phase,
    mesh: Mesh,
    params_shardings: Any,
) -> list[Evaluator]:
    """Evaluators at the phase's length: `held_out` for the objective that is trained, and `held_out_nsp` and the like
    for the others of `config.evaluate_objectives`.

    The sequences of a mix are from its corpora in the shares of `data.corpus_weights`, or, if there are none, of their
    held-out sequences.
    """
    evaluators = []
    sums = jax.jit(
        lambda params, batch: pretraining_sums(
            config.model, config.compute, params, jax.tree.map(lambda x: x[0], batch), None
        ),
        in_shardings=(params_shardings, NamedSharding(mesh, P(None, ("data", "fsdp")))),
        out_shardings=NamedSharding(mesh, P()),
    )
    trained = config.data.sentence_objective
    for objective in dict.fromkeys((trained, *config.evaluate_objectives)):
        shards = mesh.shape["data"] * mesh.shape["fsdp"]
        # The same number of rows at once as in training, so that what fits there fits here.
        batch_size = max(shards, phase.batch_size // phase.accumulation)
        parts = [
            PretrainingBatches(
                corpus,
                tokenizer,
                config.data,
                sequence_length=phase.sequence_length,
                batch_size=batch_size,
                seed=EVALUATION_SEED,
                objective=objective,
                mixed_after=corpora[:number],
            )
            for number, corpus in enumerate(corpora)
        ]
        name = "held_out" if objective == trained else f"held_out_{objective}"
        rows, counts = local_rows(mesh, batch_size, 1), held_out_counts(config, parts)
        sets = {
            corpus: partial(_fixed_batches, part, count, rows, mesh)
            for corpus, part, count in zip(corpus_names(corpora), parts, counts, strict=True)
        }
        evaluators.append(Evaluator(name, sets, sums, summarize))
    return evaluators


def held_out_counts(config: PretrainConfig, parts: Sequence[PretrainingBatches]) -> list[int]:
    """How many of `evaluate_sequences` are from each corpus, at least one; more than a corpus has means all of them."""
    sizes = [part.epoch(0).examples for part in parts]
    wanted = min(config.evaluate_sequences, sum(sizes))
    return [max(1, count) for count in apportion(wanted, shares_of(config.data.corpus_weights or sizes))]


def _fixed_batches(
    batches: PretrainingBatches, sequences: int, rows: np.ndarray, mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    steps = range(batches.steps_of_first(sequences))
    features = (device_fields(batches.first_examples(step, sequences, rows)) for step in steps)
    return place_batches(features, mesh, batches.batch_size, 1)


def corpus_fingerprint(corpora: Sequence[Corpus]) -> str:
    """SHA-256 over the checksums of every shard of both splits, as the manifest has them; of a mix, over those of its
    corpora in their order."""
    found = [corpus.fingerprint for corpus in corpora]
    return found[0] if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()


def unigram_entropy(corpora: Sequence[Corpus]) -> float:
    """Entropy in nats of the corpora's own token frequencies: the loss of a model that knows nothing else."""
    counts = np.zeros(2**16, np.int64)
    for shard in (shard for corpus in corpora for shard in corpus.shards):
        for start in range(0, len(shard.tokens), 2**24):
            counts += np.bincount(shard.tokens[start : start + 2**24], minlength=2**16)
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def sequence_places(config: PretrainConfig, phase: Phase) -> int | None:
    """Places for sequences in a packed row of the phase, S; None where rows are not packed."""
    return max_sequences(phase.sequence_length) if config.data.pack_sequences else None


def prediction_places(config: PretrainConfig, phase: Phase) -> int:
    """Places for predictions in a row of the phase, P."""
    data = config.data
    return max_predictions(
        phase.sequence_length,
        data.masked_lm_probability,
        data.max_predictions_per_sequence,
        sequence_places(config, phase),
    )


def batch_shapes(batches: PretrainingBatches | MixedBatches, phase: Phase) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a placed batch, [accumulation, rows, ...]."""
    leading = (phase.accumulation, phase.batch_size // phase.accumulation)
    one = device_fields(batches.empty(1))
    return {name: jax.ShapeDtypeStruct((*leading, *array.shape[1:]), array.dtype) for name, array in one.items()}
