"""Write into a network's provenance what was pruned or grown."""

import time
from typing import Any, Literal

from resnext.model.network import Network
from resnext.version import __version__


def add_record(changed: Network, original: Network, kind: Literal["prune", "grow"], **facts: Any) -> None:
    """Set the provenance of ``changed``: that of ``original``, a note, and a record with ``facts`` under ``kind``.

    The record of an earlier change of the same kind is kept inside, under "before".
    """
    before, after = original.architecture, changed.architecture
    paths = [list(before.cardinalities), list(after.cardinalities)]
    widths = [[stage.width for stage in one.stages] for one in (before, after)]
    changes: dict[str, Any] = {"from": before.name, "paths": paths}
    if widths[0] != widths[1]:
        changes["widths"] = widths
    record = {**changes, **facts, "date": time.strftime("%Y-%m-%d"), "resnext": __version__}
    if kind in original.provenance:
        record["before"] = original.provenance[kind]
    what = "it was pruned" if kind == "prune" else "paths that contribute zero were added"
    notes = [*(original.provenance.get("notes") or []), f"{what}: {before.name} became {after.name}"]
    changed.provenance = original.provenance | {"notes": notes, kind: record}
