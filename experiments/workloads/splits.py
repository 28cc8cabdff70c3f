"""Which examples are trained on, validated on and held out."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.model_selection import train_test_split


def stratified(
    labels: Sequence[object], validation: int, test: int, seed: int, train: int | None = None
) -> dict[str, list[int]]:
    """Row numbers of the splits "train", "validation" and "test", drawn at random with classes in proportion.

    Args:
        labels: of all rows, in order.
        validation, test, train: rows of each; without `train` all that are left.
        seed: equal seeds give equal splits.

    Raises:
        ValueError: there are too few rows.
    """
    rows = range(len(labels))
    rest, tested = train_test_split(rows, test_size=test, stratify=labels, random_state=seed)
    trained, validated = train_test_split(
        rest, test_size=validation, train_size=train, stratify=[labels[row] for row in rest], random_state=seed
    )
    return {"train": trained, "validation": validated, "test": tested}
