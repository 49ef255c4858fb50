"""Texts from files: what is written is read, what is broken is named by its line, and nothing else is lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import sys
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foveate.errors import RequestError
from foveate.text.encoded import Text
from foveate.text.inputs import BadRow, Columns, Row, read_rows, read_texts

WORDS = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)


def rows(path: Path, *columns: str, label: str | None = None) -> list[Row | BadRow]:
    return list(read_rows(path, Columns(columns, label)))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@given(st.lists(WORDS, min_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_read_as_it_was_written(tmp_path: Path, texts: list[str]) -> None:
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerows([["label", "text"], *([0, text] for text in texts)])
    lines = write(tmp_path / "a.csv", buffer.getvalue())
    assert read_texts(lines) == texts
    lines = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": t}, ensure_ascii=False) + "\n" for t in texts))
    assert read_texts(lines) == texts
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    assert read_texts(tmp_path / "a.jsonl.gz") == texts


def test_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'sentence\tlabel\n"one" and "two\t1\nthree"\t0\n')
    assert rows(path) == [Row(2, '"one" and "two', "1"), Row(3, 'three"', "0")]


def test_bad_rows_are_named_by_line_and_the_rest_goes_on(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one", "label": 3}',
        b"{broken",
        b"",
        b'{"text": "\xff\xfe"}',
        b'{"other": "x"}',
        b'{"text": "  \\n "}',
        b'{"text": 5}',
        b"[1]",
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
        '{"text": "zwölf\u2028"}'.encode(),
    ]
    found = rows(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + b"\n".join(lines)))
    assert [row.number for row in found if isinstance(row, BadRow)] == [2, 4, 5, 6, 7, 8, 9, 10]
    assert [row for row in found if isinstance(row, Row)] == [Row(1, "one", 3), Row(11, "zwölf\u2028")]


def test_bad_rows_of_csv(tmp_path: Path) -> None:
    content = b'text,label\n"a\nb",1\nc,d,2\n\xff,1\n"",0\n"' + b"x" * 140_000 + b'",1\nlast,0\n'
    found = rows(write(tmp_path / "a.csv", content))
    good = [row for row in found if isinstance(row, Row)]
    assert good[0] == Row(2, "a\nb", "1")
    assert good[-1] == Row(8, "last", "0")
    bad = {row.number: row.reason for row in found if isinstance(row, BadRow)}
    assert set(bad) == {4, 5, 6, 7}
    assert "3 fields" in bad[4]
    assert "UTF-8" in bad[5]
    assert "empty" in bad[6]


@pytest.mark.parametrize(
    ("values", "columns", "text"),
    [
        ({"text": "a", "sentence": "b"}, (), "a"),
        ({"premise": "a", "hypothesis": "b", "text": "c"}, (), ("a", "b")),
        ({"question": "a", "sentence": "b"}, (), ("a", "b")),
        ({"text": "a", "pair": None}, (), "a"),
        ({"text": "a", "pair": "b"}, (), ("a", "b")),
        ({"text": "a", "other": "b"}, ("other",), "b"),
        ({"text": "a", "other": "b"}, ("other", "text"), ("b", "a")),
    ],
)
def test_columns_are_found_or_named(tmp_path: Path, values: dict, columns: tuple[str, ...], text: Text) -> None:
    assert rows(write(tmp_path / "a.jsonl", json.dumps(values)), *columns) == [Row(1, text)]


def test_label_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1, "mood": "joy"}')
    assert rows(path) == [Row(1, "a", 1)]
    assert rows(path, label="mood") == [Row(1, "a", "joy")]


@pytest.mark.parametrize(
    ("name", "content", "columns", "says"),
    [
        ("a.jsonl", "", (), "no text"),
        ("a.jsonl", "\n\n", (), "no text"),
        ("a.csv", "text\n", (), "no text"),
        ("a.jsonl", '{"x": "a"}\n', (), "--text-columns"),
        ("a.jsonl", '{"text": "a"}\n', ("y",), "no column 'y'; there is text"),
        ("a.csv", "a,b\n1,2\n", (), "there is a, b"),
        ("a.csv", "text\nx\n", ("a", "b", "c"), "one or two"),
        ("a.txt", "text\nx\n", (), "must end in .jsonl"),
        ("a.jsonl", '{"text": "a"}'.encode("utf-16"), (), "UTF-16"),
        ("a.jsonl.gz", "plain", (), "a.jsonl.gz"),
        ("a.csv.gz", gzip.compress(b"text\n" + bytes(range(256)) * 99)[:-40], (), "a.csv.gz"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(
    tmp_path: Path, name: str, content: str | bytes, columns: tuple[str, ...], says: str
) -> None:
    with pytest.raises(RequestError, match=says) as refusal:
        rows(write(tmp_path / name, content), *columns)
    assert "\n" not in str(refusal.value)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such file"):
        rows(tmp_path / "none.jsonl")
    (tmp_path / "d.jsonl").mkdir()
    with pytest.raises(RequestError, match="directory"):
        rows(tmp_path / "d.jsonl")


def test_a_file_of_bad_rows_alone_is_refused_once_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "no\n" * 1500)
    reading = read_rows(path)
    assert len(list(islice(reading, 1500))) == 1500
    with pytest.raises(RequestError, match="line 1: it is not JSON"):
        next(reading)


@pytest.mark.parametrize("content", [b'\n{"text": "a b"}\n', b"text,x\na b,1\n", b"x\ttext\n1\ta b\n"])
def test_standard_input_tells_its_own_kind(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert [row.text for row in read_rows("-") if isinstance(row, Row)] == ["a b"]


def test_files_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'{"text": "a"}\n' * 3 + b"\xff\n" * 9)
    assert read_texts(path, limit=2) == ["a", "a"]
    reading = read_rows(path)
    assert next(reading) == Row(1, "a")
    write(path, b'{"text": "b"}\n' * 10_000)  # longer than any buffer: what comes now was not read before
    assert isinstance(list(reading)[-1], Row)


def test_texts_without_the_bad_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\nno\n{"text": "b"}\n')
    with caplog.at_level(logging.WARNING):
        assert read_texts(path) == ["a", "b"]
    assert "line 2" in caplog.text


def test_data_sets_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, config: str | None, split: str | None, streaming: bool) -> object:
        asked.append((name, config, split))
        data = datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]}).to_iterable_dataset()
        return data if split else {"train": None, "validation": data}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    expected = [Row(1, "a", 0), Row(2, "b", 1)]
    assert list(read_rows("someone/data")) == expected
    assert list(read_rows("someone/data:test")) == expected
    assert list(read_rows("glue:sst2:test")) == expected
    assert asked == [("someone/data", None, None), ("someone/data", None, "test"), ("glue", "sst2", "test")]


def test_a_hub_that_is_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*args: object, **options: object) -> object:
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(RequestError, match=r"nor such a data set \(no route\)$"):
        list(read_rows("someone/data"))
