"""/openapi.json is true: requests made from it, valid and not, get the answers that it describes, and never a 5xx."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from tests.serving.openapi_cases import COUNTER, FEW, check_case, list_operations, make_schema, run_cases

FOLDER = TemporaryDirectory(prefix="resnext-runs-")  # the schema is needed when tests are collected
SCHEMA = make_schema(Path(FOLDER.name))


@SCHEMA.parametrize()
@FEW
def test_every_answer_is_as_described(case):
    check_case(case)


@pytest.mark.slow
def test_ten_thousand_answers_are_as_described():
    for operation in list_operations(SCHEMA):
        run_cases(operation, 1_000)
    assert COUNTER.cases >= 10_000
    assert max(COUNTER.statuses) < 500
