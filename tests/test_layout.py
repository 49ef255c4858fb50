"""How the house is laid out: who may import whom (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import foveate

SOURCE = Path(foveate.__file__).parent


def imported(file: Path) -> set[str]:
    """Modules of this package that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("foveate")}


@pytest.mark.parametrize(
    ("part", "stranger"),
    [
        ("text", "agents"),
        ("agents", "text"),
        ("masking", "text"),
        ("masking", "agents"),
        ("masking", "viz"),
        (".", "cli"),
    ],
)
def test_it_knows_nothing_of(part: str, stranger: str) -> None:
    files = [file for file in (SOURCE / part).rglob("*.py") if file.name not in ("cli.py", "__main__.py")]
    assert len(files) > 5 and any(imported(file) for file in files)
    found = {
        str(file.relative_to(SOURCE)): name
        for file in files
        for name in imported(file)
        if f"{name}.".startswith(f"foveate.{stranger}.")
    }
    assert not found
