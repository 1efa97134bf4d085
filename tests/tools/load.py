"""Import a program of ``tools/``, which is not a package."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parents[2] / "tools"


def load_tool(name: str) -> Any:
    """Import ``tools/NAME.py`` as a module."""
    if str(TOOLS) not in sys.path:
        sys.path.append(str(TOOLS))  # as for a program: its folder, where it finds other programs
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
