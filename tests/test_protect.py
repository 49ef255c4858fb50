"""Protected words: which tokens an attack leaves alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from foveate.errors import RequestError
from foveate.text.classifier import TextClassifier
from foveate.text.encoded import Encoded
from foveate.text.protect import matches, pattern, protected, without_protected


def shown(classifier: TextClassifier, encoded: Encoded, mask: torch.Tensor, row: int = 0) -> list[str]:
    return classifier.tokenizer.convert_ids_to_tokens(encoded.input_ids[row][mask[row]].tolist())


def test_negations_are_protected_and_nothing_else(classifier: TextClassifier) -> None:
    encoded = classifier.encode(["it is NOT good , never was", "the knot and nothingness"])
    mask = protected(encoded, ["negations"])
    assert shown(classifier, encoded, mask) == ["not", "never"]
    assert not mask[1].any()


def test_a_contraction_is_protected_in_all_its_pieces(classifier: TextClassifier) -> None:
    text = "we didn't feel it"
    encoded = classifier.encode([text])
    kept = protected(encoded, ["negations"])[0]
    covered = {tuple(span) for span in encoded.offsets[0][kept].tolist()}
    assert min(a for a, _ in covered) == 3 and max(b for _, b in covered) == 9
    # Every token of the word, and no other.
    inside = (encoded.offsets[0, :, 0] >= 3) & (encoded.offsets[0, :, 1] <= 9) & encoded.maskable[0]
    assert torch.equal(kept, inside)


def test_the_halves_of_a_pair_are_told_apart(classifier: TextClassifier) -> None:
    encoded = classifier.encode([("nobody runs", "somebody runs"), ("somebody runs", "nobody runs")])
    mask = protected(encoded, ["negations"])
    assert encoded.segments[0][mask[0]].tolist() == [0]
    assert encoded.segments[1][mask[1]].tolist() == [1]


def test_lists_files_and_expressions(classifier: TextClassifier, tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_text("dog\n\n the street \n")
    encoded = classifier.encode(["the dog sleeps on the street , a cat runs"])
    for keep, expected in (
        (["dog,cat"], ["dog", "cat"]),
        ([str(file)], ["dog", "the", "street"]),
        ([r"/s\w+s/"], ["sleeps"]),
        (["dog", "/cat/"], ["dog", "cat"]),
        ([], []),
    ):
        assert shown(classifier, encoded, protected(encoded, keep)) == expected


def test_an_expression_that_matches_nothing_protects_nothing(classifier: TextClassifier) -> None:
    assert matches(pattern(["/x*/"]), "the dog") == []
    assert not protected(classifier.encode(["the dog"]), ["/x*/"]).any()


def test_protected_tokens_cannot_be_masked(classifier: TextClassifier) -> None:
    encoded = classifier.encode(["the film is not good", "joy"])
    less = without_protected(encoded, ["not"])
    assert torch.equal(encoded.maskable & ~less.maskable, protected(encoded, ["not"]))
    assert torch.equal(less.input_ids, encoded.input_ids)
    assert without_protected(encoded, []) is encoded


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("/(/", "no regular expression"),
        ("no/such/file", "no/such/file: No such file"),
        ("words.txt", "words.txt: No such file"),
        (" , ", "names no word"),
        ("", "names no word"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(keep: str, said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as error:
        pattern([keep])
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RequestError, match="UTF-8"):
        pattern([str(tmp_path / "words.txt")])
