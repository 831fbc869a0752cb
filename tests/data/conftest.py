"""Text and a vocabulary for the tests of the offline data side, made up on the spot."""

import random
import sys
from pathlib import Path

import pytest

# `data` is a folder of scripts, not an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

_SYLLABLES = "ba be di do fa go hi ju ka lo mi na pe ra so tu va we xi zo ton ver mar sel".split()
_WORDS = ["".join(random.Random(i).choices(_SYLLABLES, k=1 + i % 3)) for i in range(300)] + [
    "in 1999,",
    "12,000",
]


def make_sentence(generator: random.Random) -> str:
    words = generator.choices(_WORDS, k=generator.randint(4, 14))
    return " ".join(words).capitalize() + generator.choice(".....!?")


def make_documents(count: int, seed: int) -> list[str]:
    """Documents of one to five paragraphs of one to six sentences."""
    generator = random.Random(seed)
    return [
        "\n".join(
            " ".join(make_sentence(generator) for _ in range(generator.randint(1, 6)))
            for _ in range(generator.randint(1, 5))
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return make_documents(300, seed=1)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, documents: list[str]) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    from data.train_vocab import train_vocab

    return train_vocab([str(text_file)], tmp_path_factory.mktemp("vocab") / "spiece.model", vocab_size=150)
