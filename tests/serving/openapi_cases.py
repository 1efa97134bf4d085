"""Requests made by schemathesis from /openapi.json, against the whole application; for a test and tools/fuzz_server.py.

All of schemathesis's checks hold for every answer, with one exception: that a valid request is accepted is not asked
of ``infer``, whose schema cannot say that data, shape and datatype agree. Names in addresses are those of real models
and runs half of the time, as others end at 404.
"""

import base64
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.transport.serialization import Binary

from resnext.serving.app import make_app
from resnext.serving.routes_hf import make_hf_router
from resnext.serving.routes_own import MAX_EXPLAINED
from resnext.serving.routes_runs import make_runs_router
from resnext.serving.routes_v2 import make_v2_router
from tests.serving.fakes import make_picture
from tests.serving.test_app import make_service
from tests.serving.test_routes_runs import make_run

PICTURES = st.sampled_from([make_picture(kind=kind) for kind in ("PNG", "JPEG", "GIF", "WEBP")])
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "application/octet-stream")
NAMES = {"model": ("colors", "things"), "version": ("1",), "run_id": ("a",), "name": ("report.html", "worst.png")}
FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Counter:
    """Counts answers by status."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}

    @property
    def cases(self) -> int:
        """Number of answers."""
        return sum(self.statuses.values())


COUNTER = Counter()


def make_schema(folder: Path) -> Any:
    """Make the application with models and a run in ``folder``, and return its schema."""
    for media_type in PICTURE_TYPES:
        schemathesis.openapi.media_type(media_type, PICTURES)
    schemathesis.openapi.format("byte", PICTURES.map(lambda picture: base64.b64encode(picture).decode()))
    schemathesis.openapi.format("binary", PICTURES.map(Binary))
    (make_run(folder / "a") / "report.html").write_text("<p>a report</p>")
    service = make_service()
    routers = [make_hf_router(service), make_v2_router(service), make_runs_router(folder)]
    app = make_app(service, routers=routers, has_runs=True)
    refusals = ["400", "401", "403", "404", "405", "413", "415", "422", "429"]  # by default without 413
    config = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": {"expected-statuses": refusals}}})
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers={"host": "localhost"})


def change_case(case: Any) -> None:
    """Take names that exist for every other name; keep to what the schema cannot say: maps are for few classes."""
    for key, names in NAMES.items():
        name = str((case.path_parameters or {}).get(key, ""))
        if len(name) % 2:
            case.path_parameters[key] = names[len(name) // 2 % len(names)]
    query = case.query or {}
    if str(query.get("explain")).lower() == "true" and str(query.get("top")).isdecimal():
        query["top"] = min(int(query["top"]), MAX_EXPLAINED)


def check_case(case: Any) -> None:
    """Send a request and check its answer."""
    is_infer = case.operation.path.endswith("/infer")
    excluded = [positive_data_acceptance] if is_infer else []
    change_case(case)
    answer = case.call(headers={"host": "localhost"})
    COUNTER.statuses[answer.status_code] = COUNTER.statuses.get(answer.status_code, 0) + 1
    case.validate_response(answer, excluded_checks=excluded)


def list_operations(schema: Any) -> Iterator[Any]:
    """List the operations of a schema."""
    for result in schema.get_all_operations():
        yield result.ok()


def run_cases(operation: Any, count: int) -> None:
    """Check ``count`` random requests for an operation, half of them against its schema; fewer if there are no more."""
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(FEW, max_examples=max(1, count // 2), database=None)
        @given(strategy)
        def check(case: Any) -> None:
            check_case(case)

        with suppress(Unsatisfiable):  # without parameters no request is against the schema
            check()
