"""Work side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from foveate.threads import side_by_side


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_are_in_the_order_of_the_items(threads: int) -> None:
    def work(n: int) -> tuple[float, int]:
        return float(torch.full((200, 200), float(n)).mean()), torch.get_num_threads()

    results = side_by_side(work, range(20))
    assert [mean for mean, _ in results] == [float(n) for n in range(20)]
    assert {held for _, held in results} == {1}
    assert torch.get_num_threads() == threads


def test_what_goes_wrong_is_told(threads: int) -> None:
    def work(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        return n

    with pytest.raises(ValueError, match="three"):
        side_by_side(work, range(10))
    assert torch.get_num_threads() == threads
