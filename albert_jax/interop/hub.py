"""Models on the Hugging Face hub, fetched through `huggingface_hub` and its cache."""

import re
from pathlib import Path

from albert_jax.errors import UserError

# What a model is read from; weights of other frameworks are not fetched.
SMALL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "spiece.model", "vocab.txt")
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
    ("flax_model.msgpack",),
)
NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def download(name: str, revision: str | None = None) -> Path:
    """The folder of the model `name`, such as "albert/albert-base-v2", in the local cache, fetched if need be.

    Raises `UserError` if there is no such model or revision, or the hub cannot be reached and the cache has no copy.
    """
    if not NAME.fullmatch(name) or ".." in name or name.startswith((".", "-")):
        raise UserError(f"{name}: no such file or folder, and not the name of a model on the Hugging Face hub")
    import huggingface_hub
    from huggingface_hub import errors

    where = f"{name}{f' at revision {revision}' if revision else ''}"
    try:
        for weights in WEIGHTS:
            folder = Path(
                huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[*SMALL_FILES, *weights])
            )
            if any(file for pattern in weights for file in folder.glob(pattern)):
                return folder
    except errors.RevisionNotFoundError:
        raise UserError(f"{where}: the model has no such revision on the Hugging Face hub") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UserError(
            f"{name}: no such file or folder here, and no such model on the Hugging Face hub (a private one needs "
            "`hf auth login`)"
        ) from None
    except Exception as error:
        # Offline: no connection, or HF_HUB_OFFLINE; whatever the library and its HTTP client call it. Their chained
        # tracebacks would hide what to do.
        raise UserError(
            f"{where}: no such file or folder here, and the Hugging Face hub could not be reached "
            f"({type(error).__name__}). Where there is a connection, `hf download {name} --local-dir FOLDER` fetches "
            "it; copy FOLDER here and give its path"
        ) from None
    raise UserError(f"{where}: the model on the hub has no weights in a format that is read here")
