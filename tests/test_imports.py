"""No module of the package imports itself through others, not even inside a function or for type checking."""

from graphlib import TopologicalSorter

import pytest

grimp = pytest.importorskip("grimp", reason="one of the developers' tools")


def test_no_imports_form_a_circle() -> None:
    graph = grimp.build_graph("resnext", cache_dir=None)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()
