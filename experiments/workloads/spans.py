"""Entities as spans: F1 over whole entities, as named-entity recognition is scored.

An entity counts as found only if its type, first and last word are all right (CoNLL-2003 shared task, Tjong Kim Sang
and De Meulder, section 2.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Span = tuple[int, int, str]  # first word, word after the last, type


def spans(tags: Sequence[str]) -> set[Span]:
    """The entities of one sentence tagged in BIO; an I- that continues nothing begins an entity, as in conlleval."""
    found = set()
    first, kind = 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind and (prefix != "I" or name != kind):
            found.add((first, position, kind))
            kind = ""
        if prefix != "O" and not kind:
            first, kind = position, name
    return found


def span_f1(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> float:
    """Harmonic mean of precision and recall over the entities of all sentences; 0 if none is found or none is there."""
    right = wrong_or_missed = 0
    for guess, truth in zip(predicted, true, strict=True):
        right += len(spans(guess) & spans(truth))
        wrong_or_missed += len(spans(guess) ^ spans(truth))
    return 2 * right / (2 * right + wrong_or_missed) if right else 0.0
