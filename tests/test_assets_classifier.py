"""The embedded emotion classifier: small, offline, accurate, and unsure when it sees nothing."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import foveate

DIRECTORY = Path(foveate.__file__).parent / "assets" / "emotion-classifier"
TEST_DATA = Path(__file__).parents[2] / "shared" / "data" / "emotion" / "test.jsonl"


@pytest.fixture(scope="module")
def loaded():
    return (
        AutoModelForSequenceClassification.from_pretrained(DIRECTORY, local_files_only=True).eval(),
        AutoTokenizer.from_pretrained(DIRECTORY, local_files_only=True),
    )


@torch.inference_mode()
def probabilities(loaded, texts: list[str], mask: bool = False) -> torch.Tensor:
    model, tokenizer = loaded
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt", return_special_tokens_mask=True)
    special = batch.pop("special_tokens_mask").bool()
    if mask:
        batch["input_ids"] = torch.where(special, batch["input_ids"], tokenizer.mask_token_id)
    return model(**batch).logits.softmax(-1)


def test_size_is_at_most_12_megabytes():
    names = {path.name for path in DIRECTORY.iterdir()}
    assert names == {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= 12_000_000


def test_labels_and_precision(loaded):
    model, tokenizer = loaded
    assert list(model.config.id2label.values()) == ["sadness", "joy", "love", "anger", "fear", "surprise"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert tokenizer.is_fast and tokenizer.mask_token_id is not None
    assert tokenizer.model_max_length == model.config.max_position_embeddings


@pytest.mark.parametrize(
    "text",
    ["i feel dirty and ashamed for saying that", "I feel dirty, and ashamed, for saying that!"],
)
def test_predicts_the_example(loaded, text):
    assert probabilities(loaded, [text])[0, 0] > 0.8


def test_case_accents_and_apostrophes_do_not_matter(loaded):
    _, tokenizer = loaded
    assert tokenizer("I DIDN'T go to the Café").input_ids == tokenizer("i didnt go to the cafe").input_ids
    encoded = tokenizer("I didn't go", return_offsets_mapping=True)
    assert encoded["offset_mapping"][2] == (2, 8)


def test_a_text_masked_whole_is_uncertain(loaded):
    lengths = torch.tensor([1, 3, 5, 10, 20, 40, 80])
    assert probabilities(loaded, ["feel " * n for n in lengths.tolist()], mask=True).max() < 0.6


def test_accuracy_on_the_emotion_test_set(loaded):
    if not TEST_DATA.exists():
        pytest.skip("the Emotion test set is not beside the repository (../shared/data/emotion/test.jsonl)")
    rows = [json.loads(line) for line in TEST_DATA.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: len(row["text"]))  # short texts together: little padding
    right = 0
    for start in range(0, len(rows), 100):
        chunk = rows[start : start + 100]
        predicted = probabilities(loaded, [row["text"] for row in chunk]).argmax(-1)
        right += (predicted == torch.tensor([row["label"] for row in chunk])).sum().item()
    assert right / len(rows) >= 0.90
