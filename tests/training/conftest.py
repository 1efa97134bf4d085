"""Runs in this process leave their pictures blank, unless a test asks for ``drawn_figures``."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def figures_left_blank(blank_figures: None) -> None:
    """Draw nothing, before fixtures of a file train."""
