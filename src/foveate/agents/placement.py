"""Where an agent's cells lie on the screen that a person sees."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from foveate.agents.models.grid import Grid
from foveate.agents.screens import Box


def screen_centres(
    grid: Grid, observation: tuple[int, int, int], box: Box
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " columns"]]:
    """Row and column of the screen, in pixels, at the middle of each cell's receptive field.

    Through the network's layers (`grid`) to the observation's pixels, and from those, which show `box` of the screen,
    to the screen's.
    """

    def onto(cells: int, start: float, step: float, size: int, first: int, length: int) -> np.ndarray:
        pixels = start + step * np.arange(cells)
        return first + (pixels + 0.5) * length / size - 0.5

    _, height, width = observation
    return (
        onto(grid.height, grid.row, grid.row_step, height, box.top, box.height),
        onto(grid.width, grid.column, grid.column_step, width, box.left, box.width),
    )
