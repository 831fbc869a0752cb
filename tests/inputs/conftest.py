"""Corpora that several of the tests below read."""

import os
from pathlib import Path

import pytest
from recount import random_documents, vocabulary, write_corpus, write_real_text

from albert_jax.tokenizer import AlbertTokenizer


@pytest.fixture(scope="session")
def prose(tmp_path_factory):
    """A corpus of ordinary documents in three shards, about 120,000 tokens, and its vocabulary."""
    documents = random_documents(120, 2000, seed=5)
    corpus = write_corpus(tmp_path_factory.mktemp("prose") / "corpus", documents, shards=3, awkward=False)
    return corpus, vocabulary(len(documents))


@pytest.fixture(scope="session")
def real_text(tmp_path_factory, request):
    """Wikipedia and books, about 150,000 tokens, with the released vocabulary."""
    beside = request.config.rootpath.parent / "shared"
    shared = Path(os.environ.get("ALBERT_JAX_SHARED", beside)) / "data"
    paths = [
        shared / "text" / "wikipedia" / "wiki_dev.txt.xz",
        shared / "text" / "books" / "books_dev.txt.xz",
    ]
    model = shared / "albert_fixtures" / "spiece.model"
    for path in [*paths, model]:
        if not path.exists():
            pytest.skip(f"needs {path}")
    tokenizer = AlbertTokenizer.from_file(model)
    return write_real_text(tmp_path_factory.mktemp("real") / "corpus", paths, tokenizer, 300_000), tokenizer
