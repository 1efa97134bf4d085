"""Advice on classes and findings: when it is given, what it names, and that fine data gets none."""

import re

import pytest

from resnext.data.tools.advice import FEW_PICTURES, IMBALANCE, list_class_advice, list_finding_advice
from resnext.data.tools.findings import Finding
from resnext.recipe import parse_recipe
from resnext.settings import DataSettings
from resnext.settings_fields import list_fields


@pytest.mark.parametrize(
    ("counts", "parts"),
    [
        ({"cat": 200, "dog": 21}, []),
        ({"cat": 210, "dog": 21}, ["cat has 210 pictures, dog only 21: the model will rarely answer dog"]),
        ({"cat": 500, "dog": 9, "emu": 30}, ["dog only 9 and 1 others at most a tenth", "these 2 classes"]),
        ({"cat": 40, "dog": 19}, ["dog has only 19 pictures; 50 or more"]),
        ({"cat": 9, "dog": 8, "emu": 30}, ["2 classes have fewer than 20 pictures, dog (8), cat (9); 50 or more"]),
        ({"cat": 40, "dog": 0}, []),  # an empty class is a finding
        ({}, []),
    ],
)
def test_unequal_and_small_classes_are_named_with_what_to_do(counts: dict[str, int], parts: list[str]) -> None:
    advice = " ".join(list_class_advice(counts))
    assert bool(advice) == bool(parts)
    for part in parts:
        assert part in advice


def test_the_rules_are_a_tenth_and_twenty() -> None:
    for most in (20, 37, 1000):
        for least in range(1, most + 1):
            advised = bool(list(list_class_advice({"a": most, "b": least})))
            assert advised == (least * IMBALANCE <= most or least < FEW_PICTURES)


def test_findings_become_advice_the_most_important_first() -> None:
    findings = [
        Finding("a/1.jpg", "a", "", "warning", "near-duplicate in two classes", ""),
        Finding("a/2.jpg", "a", "", "error", "truncated", ""),
        Finding("b", "b", "", "error", "empty class", ""),
        Finding("b/4.jpg", "b", "train", "warning", "duplicate across splits", ""),
        Finding("b/4.jpg", "b", "train", "note", "small", ""),
    ]
    first, second, third = list_finding_advice(findings)
    assert first.startswith("1 picture cannot be read, such as 'a/2.jpg'")
    assert "'b/4.jpg', are in more than one split" in second
    assert "a/1.jpg" in third
    assert not list(list_finding_advice(findings[4:]))


def test_the_settings_that_advice_names_exist() -> None:
    advice = [*list_class_advice({"cat": 500, "dog": 9})]
    advice += list_finding_advice([Finding("a/2.jpg", "a", "", "error", "truncated", "")])
    named = re.findall(r"--data\.(\w+) (\w+)", " ".join(advice))
    assert len(named) == 3
    known = list_fields(DataSettings)
    for name, value in named:
        assert value in known[name].choices
        parse_recipe("", overrides={f"data.{name}": value})
