"""Writes the YAML files beside it, one for each published experiment.

    python examples/paper/make.py

Change the tables here, not the files: a test compares them. Settings are the defaults that the
authors' code documents; ../README.md says where ours differ, and why.
"""

from __future__ import annotations

from pathlib import Path

# Accuracy in %, of SCPL (arXiv 2602.00062), from a list that does not name the network.
PUBLISHED = {"ag_news": "92.12", "imdb": "89.84", "tiny_imagenet": "48.95"}
METHODS = {
    "bp": "Backpropagation end to end, through the same stages",
    "bp_p": "Backpropagation end to end, and at every stage an exit that listens in",
    "ee": "Early Exit: each stage learns from its own exit",
    "al": "Associated learning: what each stage gives meets a code of the label",
    "scpl": "SCPL: a contrastive loss at each stage, one exit at the end",
    "dascpl": "DASCPL: a contrastive loss and a detached exit at each stage",
    "dascpl_accumulate": "DASCPL with dynamic layer accumulation: stages join one by one",
    "dascpl_reduce": "DASCPL with dynamic layer reduction: stages leave one by one",
}
ALL, SOME = tuple(METHODS), ("bp", "ee", "al", "scpl")
ELASTIC = {
    "dascpl_accumulate": "elastic:\n  start_stages: 1\n  grow_at: {epoch: [50, 100, 150]}\n\n",
    "dascpl_reduce": "elastic:\n  shrink_at: {epoch: [50, 100, 150]}\n\n",
}
# Name, layers of each stage, keys of `model`, the published classifier, width of the label's code,
# methods.
LEAKY = "  activation: leaky_relu\n"
VISION = {
    "vgg8": ("VGG8", "[2, 2, 1, 1]", "", "{kind: mlp, hidden: 2500}", 500, ALL),
    "resnet18": ("ResNet18", "[3, 2, 2, 2]", LEAKY, "{kind: linear}", 500, ALL),
    "vanillacnn": ("VanillaCNN", "[2, 2, 2, 2]", "", "{kind: mlp, hidden: 1500}", 300, SOME),
}
IMAGES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny-ImageNet"}
TRANSFORMER = "  heads: 6\n  dropout: 0.1\n  embedding_dropout: 0.0\n  positional: none\n"
TEXT = {"lstm": ("LSTM", "  dropout: 0.0\n"), "transformer": ("Transformer", TRANSFORMER)}
# Name, longest text, more keys of `data`.
TEXTS = {
    "ag_news": ("AG News", 60, ""),
    "dbpedia_14": ("DBpedia-14", 400, ""),
    "sst2": ("SST-2", 15, ""),
    "imdb": ("IMDB", 350, "  pool: true # all 50,000 reviews, cut 80 / 20\n  test: 0.2\n"),
}


def files() -> dict[str, str]:
    """Every file that belongs here: path from this folder -> text."""
    vision = [(m, d, x) for m in VISION for d in IMAGES for x in VISION[m][-1]]
    text = [(m, d, x) for m in TEXT for d in TEXTS for x in ALL if x not in ELASTIC]
    return {f"vision/{'_'.join(one)}.yaml": _vision(*one) for one in vision} | {
        f"text/{'_'.join(one)}.yaml": _text(*one) for one in text
    }


def _vision(model: str, data: str, method: str) -> str:
    name, stages, keys, classifier, code, _ = VISION[model]
    # Published: heads of 512, and behind the last stage the classifier. Here all exits are of one
    # kind, and the last one is the classifier.
    exit_head = classifier if method in ("bp", "scpl") else "{kind: mlp, hidden: 512}"
    return f"""\
{_head("vision", model, data, method, f"{name} on {IMAGES[data]}")}\
stages: {stages}

data:
  source: {data}
  augment: two_views # published: strong

model:
  kind: {model}
{keys}
{_local(method, "{kind: mlp, hidden: 512, out: 1024}", exit_head, code)}
optimizer:
  name: adam
  lr: 1.0e-3
  schedule: cosine
  schedule_every: epoch
  end_lr: 1.0e-5

{ELASTIC.get(method, "")}\
train:
  epochs: 200
  batch_size: 1024 # images; 2,048 rows with two views
  select: best # on the validation split

pipeline:
  data_workers: 4 # processes that make the views, as published
"""


def _text(model: str, data: str, method: str) -> str:
    (name, keys), (title, max_len, more) = TEXT[model], TEXTS[data]
    return f"""\
{_head("text", model, data, method, f"{name} on {title}")}\
stages: [1, 1, 1, 1] # the embedding, then one layer each

data:
  source: {data}
  max_len: {max_len}
  vocab_size: 30000
  stop_words: english
{more}
model:
  kind: {model}
  layers: 3
  width: 300
{keys}\
  word_vectors: glove.6B.300d.txt # of nlp.stanford.edu/data/glove.6B.zip; null: from scratch

{_local(method, "{kind: identity}", "{kind: mlp, hidden: 300}", 300)}
optimizer:
  name: adam
  lr: 1.0e-3
  schedule: constant # published: a cosine from 1e-3 to 1e-3

train:
  epochs: 50
  batch_size: 1024
  select: best # on the validation split
"""


def _head(folder: str, model: str, data: str, method: str, what: str) -> str:
    figure = PUBLISHED.get(data) if method == "scpl" else None
    found = f"SCPL {figure} % (our source does not name the network)" if figure else "not at hand"
    return f"""\
# yaml-language-server: $schema=../../config.schema.json
# {what}. {METHODS[method]}.
# Published figure: {found}.
#   scpl-ray train examples/paper/{folder}/{model}_{data}_{method}.yaml --repeats 5
# Written by ../make.py: change it there.
method: {"dascpl" if method in ELASTIC else method}
"""


def _local(method: str, projection_head: str, exit_head: str, code: int) -> str:
    if method == "al":
        return f"local:\n  associated: {{width: {code}}}\n"
    contrastive = f"  temperature: 0.1\n  projection_head: {projection_head}\n"
    if not method.startswith(("scpl", "dascpl")):
        contrastive = ""
    return f"local:\n{contrastive}  exit_head: {exit_head}\n"


if __name__ == "__main__":
    for path, text in files().items():
        file = Path(__file__).parent / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    print(f"{len(files())} files")
