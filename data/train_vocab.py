"""Trains ALBERT's SentencePiece vocabulary: `python data/train_vocab.py --sources text/*.txt --output
spiece.model`.

Google's options, on text that went through ALBERT's own normalisation and was cut into sentences, which is
what the released vocabulary was trained on as far as its contents tell. The same text and options give the
same file.
"""

import io
import itertools
import os
import random
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# As a script this file's folder is on the path, not the repository, which holds `albert_jax` and `data`.
# ruff: noqa: E402
sys.path[:0] = [] if __package__ else [str(Path(__file__).resolve().parents[1])]

import numpy as np
import sentencepiece

from albert_jax.errors import UserError, exit_cleanly
from albert_jax.tokenizer import CLS, MASK, MAX_VOCAB_SIZE, PAD, SEP, UNK, AlbertTokenizer
from data.preparation import prepare_lines
from data.progress import BuildProgress
from data.readers import PieceReader
from data.sentences import check_language, find_sentences, separate_sentences
from data.sources import Piece, parse_source, whole_pieces

# In the order of the released vocabulary, ids 5 to 12.
USER_DEFINED_SYMBOLS = ["(", ")", '"', "-", ".", "\u2013", "£", "€"]
# SentencePiece skips longer sentences without a word; ours are cut at a space instead. Bytes.
MAX_SENTENCE_BYTES = 4192
# SentencePiece's default, which the released model records. Fixed, because sums over threads depend on their
# number.
THREADS = 16


@dataclass(frozen=True)
class Arguments:
    """Trains a vocabulary with Google's options for ALBERT and writes it as a SentencePiece model file."""

    sources: tuple[str, ...]
    """Files, patterns or folders, hf:NAME:CONFIG, tfds:NAME; each with #option=value behind. See
    docs/data.md."""
    output: Path
    """The model file to write."""
    vocab_size: int = 30_000
    """Pieces in the vocabulary, at most 65,536. ALBERT has 30,000."""
    do_lower_case: bool = True
    """Lower-case the text, as the released vocabulary does."""
    input_sentences: int = 10_000_000
    """Train on a random sample of this many sentences; about 1 KB of memory each."""
    language: str = "en"
    """ISO 639 code of the text, for finding sentences."""
    seed: int = 0
    """Changes the sample."""


def train_vocab(
    sources: Sequence[str],
    output: Path,
    *,
    vocab_size: int,
    do_lower_case: bool = True,
    input_sentences: int = 10_000_000,
    language: str = "en",
    seed: int = 0,
) -> Path:
    """Trains and writes the model file `output`, and returns its path.

    Arguments are those of `Arguments`. Raises UserError where the file exists, the sources cannot be read, or
    the text is too small for the vocabulary; then nothing is written.
    """
    output = Path(output)
    if not 0 < vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(f"vocab_size is {vocab_size:,}, expected 1 to {MAX_VOCAB_SIZE:,}: corpora hold ids in 16 bits")
    if input_sentences < 1:
        raise UserError(f"input_sentences is {input_sentences}, expected at least 1")
    if not sources:
        raise UserError("no sources given; see docs/data.md for what they can be")
    if output.exists():
        raise UserError(f"{output}: exists already; remove it or give another --output")
    check_language(language)
    pieces = [piece for spec in sources for piece in whole_pieces(parse_source(spec))]
    sample = _draw_sample(_sentences(pieces, do_lower_case, language), input_sentences, seed)
    if not sample:
        raise UserError("the sources hold no text to train a vocabulary on")
    model_bytes = _train(sample, vocab_size)
    AlbertTokenizer(model_bytes, do_lower_case, name=str(output))  # raises if it is no ALBERT vocabulary
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = output.with_name(f"{output.name}.{os.getpid()}.partial")
        temporary.write_bytes(model_bytes)
        os.replace(temporary, output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    return output


def _sentences(pieces: Sequence[Piece], do_lower_case: bool, language: str) -> Iterator[str]:
    """The normalised sentences of the pieces, in order, none longer than `MAX_SENTENCE_BYTES`."""
    nothing_unchanged = np.zeros(0x10000, bool)  # of interest to the encoder alone
    with BuildProgress("reading", sum(piece.size for piece in pieces), len(pieces)) as progress:
        for piece in pieces:
            reader, reported = PieceReader(piece), 0
            for document in reader:
                lines = prepare_lines([document], do_lower_case, nothing_unchanged)
                found = find_sentences(lines, language)
                for sentence in separate_sentences(lines, found, 0, len(lines.ends)):
                    yield from _cut(sentence)
                consumed = reader.consumed
                progress.add(done_bytes=consumed - reported, text_bytes=len(document))
                reported = consumed
            progress.add(done_bytes=piece.size - reported, items=1)


def _draw_sample(sentences: Iterator[str], size: int, seed: int) -> list[str]:
    """A uniform sample without replacement, all sentences in order if there are no more than `size`.

    Ours rather than SentencePiece's, whose generator gives another sample, and so another vocabulary, on
    every run.
    """
    sample = list(itertools.islice(sentences, size))
    generator = random.Random(seed)
    for count, sentence in enumerate(sentences, start=size + 1):
        if (place := generator.randrange(count)) < size:
            sample[place] = sentence
    return sample


def _cut(sentence: str) -> Iterator[str]:
    """Parts of at most `MAX_SENTENCE_BYTES`, cut at spaces; a word longer than that is cut anywhere."""
    limit = MAX_SENTENCE_BYTES // 4  # characters of at most four bytes
    while len(sentence) > limit and len(sentence.encode()) > MAX_SENTENCE_BYTES:
        cut = sentence.rfind(" ", 0, limit)
        cut = cut if cut > 0 else limit
        yield sentence[:cut]
        sentence = sentence[cut:].lstrip(" ")
    if sentence:
        yield sentence


def _train(sentences: list[str], vocab_size: int) -> bytes:
    model = io.BytesIO()
    try:
        # albert.md 2.2, from the README of google-research/albert.
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram",
            character_coverage=0.99995,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=PAD,
            unk_piece=UNK,
            control_symbols=[CLS, SEP, MASK],
            user_defined_symbols=USER_DEFINED_SYMBOLS,
            max_sentence_length=MAX_SENTENCE_BYTES,
            num_threads=THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, vocab_size) from None
    return model.getvalue()


def _explain(failure: RuntimeError, vocab_size: int) -> Exception:
    message = str(failure)
    if match := re.search(r"Vocabulary size too high.*?<= (\d+)", message, re.DOTALL):
        return UserError(
            f"vocab_size is {vocab_size:,}, too large for this text: "
            f"the largest possible is {int(match[1]):,}; lower it or give more text"
        )
    if match := re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", message):
        return UserError(
            f"vocab_size is {vocab_size:,}, too small: the characters of this text alone need {int(match[2]):,}"
        )
    return UserError(f"SentencePiece cannot train on this text: {message[:500]}")


def main() -> None:
    import tyro

    arguments = tyro.cli(Arguments, description=__doc__)
    print(f"vocabulary: {train_vocab(**vars(arguments))}")


if __name__ == "__main__":
    exit_cleanly(main)
