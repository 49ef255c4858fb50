"""Explanations survive their files."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.errors import RequestError
from foveate.text.explanation import Explanation, Step, Token
from foveate.text.explanation_files import JsonlWriter, ParquetWriter, load, open_writer, read, save

REAL = st.floats(allow_nan=False, allow_infinity=False)
COUNT = st.integers(0, 2**31 - 1)


@st.composite
def explanations(draw: st.DrawFn) -> Explanation:
    tokens = draw(st.lists(st.builds(Token, st.text(), COUNT, COUNT, st.integers(0, 1), st.booleans()), max_size=4))
    numbers = st.lists(st.integers(0, max(0, len(tokens) - 1)), max_size=len(tokens)).map(tuple)
    steps = st.builds(Step, numbers, numbers, REAL, REAL, st.text())
    return Explanation(
        text=draw(st.text()),
        pair=draw(st.none() | st.text()),
        label=draw(st.text()),
        probability=draw(REAL),
        tokens=tuple(tokens),
        masked=draw(numbers),
        scores=tuple(draw(REAL) for _ in tokens),
        delta_p=draw(REAL),
        solved=draw(st.booleans()),
        flipped=draw(st.booleans()),
        final_label=draw(st.text()),
        queries=draw(COUNT),
        mask_rate=draw(REAL),
        minimal=draw(st.sampled_from([None, True, False])),
        path=tuple(draw(st.lists(steps, max_size=3))),
        method=draw(st.text()),
        model=draw(st.text()),
        threshold=draw(REAL),
        truncated=draw(st.booleans()),
        verification_queries=draw(COUNT),
    )


def example(**changes: object) -> Explanation:
    found = Explanation(
        text="i feel dirty",
        pair=None,
        label="sadness",
        probability=0.99,
        tokens=(Token("i", 0, 1, 0, False), Token("feel", 2, 6, 0, False), Token("dirty", 7, 12, 0, False)),
        masked=(1, 2),
        scores=(0.1, -0.2, 0.7),
        delta_p=0.9,
        solved=True,
        flipped=True,
        final_label="joy",
        queries=2,
        mask_rate=2 / 3,
        path=(Step((2,), (2,), 0.5, 0.49, "sadness"), Step((1,), (1, 2), 0.09, 0.9, "joy")),
        method="agent",
        model="tiny",
        threshold=0.8,
        truncated=False,
    )
    return replace(found, **changes)


@given(explanations())
def test_json_loses_nothing(explanation: Explanation) -> None:
    assert Explanation.from_json(explanation.to_json()) == explanation
    assert Explanation.from_dict(explanation.to_dict()) == explanation


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@settings(max_examples=25, deadline=None)
@given(found=st.lists(explanations(), max_size=3))
def test_files_lose_nothing(tmp_path_factory: pytest.TempPathFactory, ending: str, found: list[Explanation]) -> None:
    path = tmp_path_factory.mktemp("files") / f"e.{ending}"
    save(found, path)
    assert load(path) == found
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_json_is_as_the_design_says() -> None:
    values = json.loads(
        example(path=(Step((2,), (2,), 0.5, 0.49, "x"), Step((0, 1), (0, 1, 2), 0.1, 0.8, "y"))).to_json()
    )
    assert list(values) == [
        "text",
        "pair",
        "label",
        "probability",
        "tokens",
        "masked",
        "scores",
        "delta_p",
        "solved",
        "flipped",
        "final_label",
        "queries",
        "mask_rate",
        "minimal",
        "path",
        "method",
        "model",
        "threshold",
        "truncated",
        "verification_queries",
    ]
    assert values["tokens"][2] == {"text": "dirty", "start": 7, "end": 12, "segment": 0, "special": False}
    assert list(values["path"][0]) == ["action", "masked", "probability", "delta_p", "label"]
    assert [s["action"] for s in values["path"]] == [2, [0, 1]]


def test_the_explainer_is_no_part_of_an_explanation() -> None:
    held = replace(example(), explainer=lambda: None)  # a lambda cannot be pickled
    assert held == example() and hash(held) == hash(example())
    assert "explainer" not in held.to_dict()
    assert pickle.loads(pickle.dumps(held)).explainer is None
    assert held.explainer is not None


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save([example(probability=float("nan"))], tmp_path / "e.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "not JSON"),
        ("[1]", "no JSON object"),
        ('{"text": "a"}', "'tokens' is missing"),
        (example().to_json().replace('"queries": 2', '"queries": "2"'), "'queries' is \"2\", which is no int"),
        (example().to_json().replace('"solved": true', '"solved": 1'), "'solved'"),
        (example().to_json().replace('"masked": [1, 2]', '"masked": [1, 3]'), "'masked' holds 3"),
        (example().to_json().replace('"scores": [0.1, ', '"scores": ['), "3 tokens but 2 scores"),
        (example().to_json().replace("0.99", "NaN"), "NaN"),
        ("\x80", "not JSON"),
    ],
)
def test_a_foreign_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(f"{example().to_json()}\n{line}\n".encode("latin-1"))
    lines = read(path)
    assert next(lines) == example()
    with pytest.raises(RequestError, match="line 2") as caught:
        next(lines)
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    broken, foreign = tmp_path / "broken.parquet", tmp_path / "foreign.parquet"
    save([example()] * 3, broken)
    broken.write_bytes(broken.read_bytes()[:-20])
    parquet.write_table(pa.table({"text": ["a"]}), foreign)
    for path, reason in [
        (broken, "no Parquet file"),
        (foreign, "row 1: not an explanation"),
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / "e.csv", r"\.jsonl or \.parquet"),
    ]:
        with pytest.raises(RequestError, match=reason):
            load(path)
    with pytest.raises(RequestError, match="must end in"):
        open_writer(tmp_path / "e.csv")


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "html"])
def test_what_was_finished_is_kept(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"e.{ending}"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), open_writer(path):
        raise KeyboardInterrupt
    assert path.read_text() == "before"
    with pytest.raises(KeyboardInterrupt), open_writer(path) as writer:
        writer.write([example()])
        assert path.read_text() == "before"
        raise KeyboardInterrupt
    if ending == "html":
        assert path.read_text("utf-8").endswith("</html>\n")
    else:
        assert load(path) == [example()]
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    for path in (tmp_path / "none" / "e.jsonl", tmp_path / "d.jsonl", tmp_path / "none" / "e.parquet"):
        with pytest.raises(RequestError, match="cannot write"), open_writer(path):
            raise AssertionError("not reached")


def test_parquet_is_written_in_groups_as_it_grows(tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "e.parquet"
    many = [example(queries=i) for i in range(2 * ParquetWriter.GROUP + 5)]
    with ParquetWriter(path) as writer:
        writer.write(many)
        assert len(writer._rows) == 5
    assert parquet.ParquetFile(path).num_row_groups == 3
    assert load(path) == many


def test_unicode_line_ends_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    odd = example(text="a\u2028b\x85c\r\nd\x0be")
    with JsonlWriter(path) as writer:
        writer.write([odd])
    path.write_bytes(b"\n" + path.read_bytes() + b"\n\n")
    assert load(path) == [odd]
