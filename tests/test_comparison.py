"""Methods side by side: which texts count, what is paired with what, and what the table says of it."""

from __future__ import annotations

import pytest

from foveate.errors import RequestError
from foveate.text.comparison import compare, sample, tabulate
from foveate.text.explanation import Explanation, Step, Token


def _explanation(
    text: str,
    *,
    queries: int = 2,
    masked: int = 1,
    solved: bool = True,
    probability: float = 0.9,
    end: int | None = None,
) -> Explanation:
    """Ten tokens, of which `masked` are; `end` is how many are masked at the path's end."""
    delta = 0.85 if solved else 0.3
    last = masked if end is None else end
    return Explanation(
        text=text,
        pair=None,
        label="good",
        probability=probability,
        tokens=tuple(Token("x", 0, 1, 0, i > 9) for i in range(11)),
        masked=tuple(range(masked)),
        scores=(0.0,) * 11,
        delta_p=delta,
        solved=solved,
        flipped=solved,
        final_label="bad" if solved else "good",
        queries=queries,
        mask_rate=masked / 10,
        path=(Step((0,), tuple(range(last)), probability - 0.2, 0.2, "bad" if last == 10 else "good"),),
        method="x",
        model="x",
        threshold=0.8,
        truncated=False,
    )


def test_means_over_all_and_over_the_reachable_texts() -> None:
    found = [
        _explanation("a", queries=2, masked=1),
        _explanation("b", queries=8, masked=3, solved=False, probability=0.7),
    ]
    (row,) = compare({"agent": found}).rows
    assert (row.all.texts, row.reachable.texts) == (2, 1)
    assert row.all.means["queries"].mean == 5
    assert row.all.means["mask_rate"].mean == pytest.approx(0.2)
    assert row.all.means["fidelity"].mean == 0.5
    assert row.reachable.means["queries"].mean == 2
    assert row.reachable.means["solved"].mean == 1


def test_an_unsolved_text_is_read_both_ways() -> None:
    found = [_explanation("a", masked=2, end=5), _explanation("b", masked=3, solved=False, end=10)]
    means = compare({"agent": found}).rows[0].all.means
    assert means["mask_rate"].mean == pytest.approx((0.2 + 0.3) / 2)
    assert means["end_mask_rate"].mean == pytest.approx((0.2 + 1.0) / 2), "a solved text keeps its mask"
    assert (means["fidelity"].mean, means["end_fidelity"].mean) == (0.5, 1.0)
    assert means["end_delta_p"].mean == pytest.approx((0.85 + 0.2) / 2)


def test_differences_are_paired_on_common_texts() -> None:
    agent = [_explanation(f"{i}", queries=i) for i in range(40)]
    slow = [_explanation(f"{i}", queries=i + 3, masked=2) for i in range(10)]
    table = compare({"agent": agent, "slow": slow})
    assert not table.rows[0].all.differences
    summary = table.rows[1].all
    assert summary.common == 10
    difference = summary.differences["queries"]
    assert (difference.mean, difference.low, difference.high) == (3, 3, 3), "the texts' own spread cancels in pairs"
    assert summary.verdict == "–", "fidelity is equal, so it is not beaten"


def test_beaten_needs_all_three_measures() -> None:
    texts = [f"{i}" for i in range(30)]
    agent = [_explanation(t) for t in texts]
    worse = [_explanation(t, queries=5, masked=4, solved=i % 2 == 0) for i, t in enumerate(texts)]
    mixed = [_explanation(t, queries=1, masked=4, solved=i % 2 == 0) for i, t in enumerate(texts)]
    table = compare({"agent": agent, "worse": worse, "mixed": mixed})
    assert [row.all.verdict for row in table.rows] == ["", "beaten", "–"]
    assert compare({"worse": worse, "agent": agent}).rows[1].all.verdict == "beats it"
    markdown = table.to_markdown()
    assert "| worse | 30 | **-0.500** [" in markdown
    assert "| agent | 30 | 1.000 [1.000, 1.000] | 2.00 [2.00, 2.00] |" in markdown


def test_different_texts_are_not_compared() -> None:
    with pytest.raises(RequestError, match="different texts"):
        compare({"agent": [_explanation("a")], "other": [_explanation("b")]})


def test_a_method_that_did_not_run_is_named_above_the_tables() -> None:
    found = {"agent": sample([_explanation("a")]), "lime": sample([], note="not run: needs lime")}
    table = tabulate(found)
    assert table.rows[1].all.texts == 0
    markdown = table.to_markdown()
    assert markdown.startswith("lime: not run: needs lime\n\n## All texts")
    assert "| lime |" not in markdown


def test_nothing_to_compare() -> None:
    with pytest.raises(RequestError, match="nothing to compare"):
        compare({})
