"""A run on two corpora, start to end: what it reads, how it is judged, and where it says that it is."""

import dataclasses
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import pretrain
from albert_jax.__main__ import main
from albert_jax.config import (
    AlbertConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    PhasesConfig,
    PretrainConfig,
    read_pretrain_config,
)
from albert_jax.errors import UserError
from albert_jax.inputs.corpus import open_corpus
from albert_jax.tasks.pretraining import corpus_fingerprint, held_out_counts, open_inputs, position, training_batches
from albert_jax.tasks.where import position_lines, run_position
from albert_jax.tracking import read_metrics
from data.encode_corpus import encode_corpus
from data.train_vocab import train_vocab

LAST = 12


def write_text(path, documents: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(generator.choice(syllables, generator.integers(1, 4))) for _ in range(200)]

    def sentence() -> str:
        return " ".join(generator.choice(words, generator.integers(3, 9))).capitalize() + "."

    path.write_text("\n\n".join("\n".join(sentence() for _ in range(12)) for _ in range(documents)) + "\n")


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> PretrainConfig:
    """A configuration of two phases on two corpora, which lie beside its run."""
    folder = tmp_path_factory.mktemp("mixed")
    for name, documents in (("news", 40), ("books", 20)):
        write_text(folder / f"{name}.txt", documents, documents)
    model = folder / "spiece.model"
    train_vocab((str(folder / "news.txt"), str(folder / "books.txt")), model, vocab_size=120, do_lower_case=True)
    for name in ("news", "books"):
        encode_corpus((str(folder / f"{name}.txt"),), model, folder / name, do_lower_case=True, held_out_fraction=0.25)
    return PretrainConfig(
        run_dir=str(folder / "run"),
        data=DataConfig(
            corpus=(str(folder / "news"), str(folder / "books")), tokenizer=str(model), corpus_weights=(1.0, 3.0)
        ),
        model=AlbertConfig(
            vocab_size=120,
            embedding_size=8,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
        ),
        phases=PhasesConfig(steps=(8, 4), sequence_length=(16,), batch_size=(64,)),
        optimizer=OptimizerConfig(warmup_steps=1),
        compute=ComputeConfig(dtype="float32", remat="none"),
        mesh=MeshConfig(),
        log_every=2,
        evaluate_every=6,
        evaluate_sequences=40,
        checkpoint_every=6,
    )


@pytest.fixture(scope="module")
def finished(config) -> PretrainConfig:
    assert pretrain.pretrain(config) is None
    return config


def records(config) -> list[dict]:
    return read_metrics(config.run_dir)


def with_data(config, **changes) -> PretrainConfig:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def test_a_mix_is_judged_as_a_whole_and_by_corpus(finished):
    values = next(record for record in records(finished) if "held_out/loss" in record)
    assert {"held_out/mlm_loss", "held_out/news/mlm_loss", "held_out/books/mlm_loss"} <= set(values)
    parts = sorted((values["held_out/news/mlm_loss"], values["held_out/books/mlm_loss"]))
    assert parts[0] < values["held_out/mlm_loss"] < parts[1]


def test_held_out_sequences_have_the_shares_of_the_weights(finished):
    class Part:
        def __init__(self, examples):
            self.examples = examples

        def epoch(self, number):
            return self

    assert held_out_counts(finished, [Part(1000), Part(1000)]) == [10, 30]
    even = with_data(finished, corpus_weights=())
    assert held_out_counts(even, [Part(3000), Part(1000)]) == [30, 10]
    assert held_out_counts(even, [Part(6), Part(2)]) == [6, 2], "all that there are"
    assert held_out_counts(even, [Part(10**6), Part(1)]) == [40, 1], "none is left out"


def test_where_counts_what_the_run_recorded(finished):
    found = run_position(finished.run_dir)
    assert (found.step, found.total_steps, found.checkpoint) == (LAST, LAST, LAST)
    assert [(phase.steps_done, phase.steps) for phase in found.phases] == [(8, 8), (4, 4)]
    logged = [record for record in records(finished) if "speed/tokens_per_second" in record]
    recorded = sum(2 * r["speed/tokens_per_second"] * r["speed/seconds_per_step"] for r in logged)
    assert found.tokens == pytest.approx(recorded, rel=1e-6)
    rows = sum(2 * 64 * record["train/sequences_per_row"] for record in logged)
    assert found.sequences == pytest.approx(rows, rel=1e-6)
    for phase in found.phases:
        assert [corpus.share for corpus in phase.corpora] == [0.25, 0.75]
        assert sum(corpus.rows for corpus in phase.corpora) == phase.steps_done * 64


def test_where_can_be_asked_of_any_step(finished):
    positions = [run_position(finished.run_dir, step) for step in range(LAST + 1)]
    assert positions[0].tokens == positions[0].sequences == 0
    assert [len(found.phases) for found in positions] == [1] * 9 + [2] * 4
    assert all(a.tokens < b.tokens for a, b in pairwise(positions))
    assert positions[LAST].phases == run_position(finished.run_dir).phases
    books = positions[8].phases[0].corpora[1]
    assert books.epochs > 1 and books.epoch_documents_begun <= books.documents
    with pytest.raises(UserError, match=r"--step = 13: must be 0 to 12, the steps of the run"):
        run_position(finished.run_dir, 13)


def test_the_position_for_the_log_is_that_of_where(finished):
    tokenizer, corpora, _ = open_inputs(finished)
    for phase, steps in zip(finished.phases.phases, ((0, 1, 5, 8), (8, 9, 12)), strict=True):
        batches = training_batches(finished, tokenizer, corpora, phase)
        for step in steps:
            logged = position(batches, phase, step)
            assert set(logged) == {"data/epoch", "data/news/epoch", "data/books/epoch"}
            number = finished.phases.phases.index(phase)
            if step > phase.start:
                news, books = run_position(finished.run_dir, step).phases[number].corpora
                assert (logged["data/news/epoch"], logged["data/books/epoch"]) == (news.epochs, books.epochs)
                assert min(news.epochs, books.epochs) < logged["data/epoch"] < max(news.epochs, books.epochs)
            else:
                assert set(logged.values()) == {0.0}
        alone = training_batches(with_data(finished, corpus_weights=()), tokenizer, corpora[:1], phase)
        rows = alone.parts[0].epoch(0).size
        assert position(alone, phase, phase.start + 1) == {"data/epoch": pytest.approx(64 / rows)}


@pytest.fixture
def copied(finished, tmp_path):
    """The run's folder, to be changed."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_is_writing_a_record_stands_at_the_one_before(copied):
    shutil.rmtree(copied / "checkpoints")
    lines = (copied / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= 4]
    (copied / "metrics.jsonl").write_text("".join(kept) + '{"step": 6, "train/lo')
    found = run_position(copied)
    assert (found.step, found.checkpoint) == (4, None)
    assert "step 4 of 12 (newest record in metrics.jsonl; no checkpoint yet)" in position_lines(found)[0]


def test_where_changes_nothing(finished):
    def state():
        return {path: path.stat().st_mtime_ns for path in Path(finished.run_dir).rglob("*")}

    before = state()
    run_position(finished.run_dir)
    assert state() == before


def test_where_on_the_command_line(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["albert-jax", "where", finished.run_dir, "--step", "9", "--json"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 9 and found == json.loads(json.dumps(dataclasses.asdict(run_position(finished.run_dir, 9))))
    monkeypatch.setattr(sys, "argv", ["albert-jax", "where", finished.run_dir])
    main()
    text = capsys.readouterr().out
    assert "step 12 of 12" in text and "news (25.00% of the rows)" in text and "phase 2: step 4 of 4" in text


def test_where_of_another_folder_is_refused(finished, copied, tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        run_position(tmp_path)
    (copied / "data.json").write_text('{"corpus": "other"}')
    with pytest.raises(UserError, match="another corpus"):
        run_position(copied)
    for content in ("{", "[]", "{}", '{"data": {"corpus": ["c"]}}', '{"data": {"corpus": 3}}'):
        (copied / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json"):
            run_position(copied)


def test_a_saved_configuration_is_read_back_even_from_before_mixing(finished, copied):
    assert read_pretrain_config(copied / "config.json") == finished
    values = json.loads((copied / "config.json").read_text())
    values["data"]["corpus"] = values["data"]["corpus"][0]
    del values["data"]["corpus_weights"]
    (copied / "config.json").write_text(json.dumps(values))
    expected = with_data(finished, corpus=finished.data.corpus[:1], corpus_weights=())
    assert read_pretrain_config(copied / "config.json") == expected


def test_a_folder_named_twice_is_refused(finished):
    folder = finished.data.corpus[0]
    for other in (folder, f"{folder}/", f"{folder}/../news"):
        with pytest.raises(UserError, match=r"data\.corpus: .* is named twice"):
            open_inputs(with_data(finished, corpus=(folder, other)))


def test_corpora_of_different_tokenizers_are_refused(finished, tmp_path):
    shutil.copytree(finished.data.corpus[1], tmp_path / "other")
    manifest = json.loads((tmp_path / "other" / "manifest.json").read_text())
    manifest["tokenizer"]["fingerprint"] = "0" * 64
    (tmp_path / "other" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"other: encoded with another tokenizer"):
        open_inputs(with_data(finished, corpus=(finished.data.corpus[0], str(tmp_path / "other"))))


def test_verifying_is_a_switch_of_the_command(config, tmp_path, monkeypatch, capsys):
    shutil.copytree(config.data.corpus[1], tmp_path / "corpus")
    path = next((tmp_path / "corpus").glob("train-*.tokens"))
    manifest = tmp_path / "corpus" / "manifest.json"
    values = json.loads(manifest.read_text())
    for entry in values["splits"]["train"]["shards"]:
        del entry["sha256"]["samples"]
    manifest.write_text(json.dumps(values))
    content = bytearray(path.read_bytes())
    content[-2] ^= 1  # still an id of the vocabulary
    path.write_bytes(content)
    data = with_data(config, corpus=(config.data.corpus[0], str(tmp_path / "corpus")))
    other = dataclasses.replace(data, run_dir=str(tmp_path / "run"))
    monkeypatch.setattr(pretrain, "load_config", lambda path: other)
    monkeypatch.setattr(sys, "argv", ["pretrain.py", "config.py", "--verify"])
    with pytest.raises(UserError, match=rf"{path.name}: altered, its sha256"):
        pretrain.main()
    open_inputs(other)


def test_the_fingerprint_of_a_mix_tells_its_corpora_and_their_order(config):
    first, second = (open_corpus(c, "train", tokenizer_fingerprint=None, verify=False) for c in config.data.corpus)
    found = {corpus_fingerprint(corpora) for corpora in ([first], [second], [first, second], [second, first])}
    assert len(found) == 4
    assert corpus_fingerprint([first]) == first.fingerprint


def test_a_run_on_other_weights_is_refused(finished, copied):
    other = dataclasses.replace(with_data(finished, corpus_weights=(1.0, 1.0)), run_dir=str(copied))
    with pytest.raises(UserError, match=r"data\.corpus_weights: \[1\.0, 3\.0\] -> \[1\.0, 1\.0\]"):
        pretrain.pretrain(other)
