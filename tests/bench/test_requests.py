"""A wrong request to any benchmark is one sentence, before anything is measured."""

from pathlib import Path

import pytest

from resnext.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("cardinality --networks resnex50_4x4d", "did you mean"),
        ("cardinality --batch 1", "at least 2"),
        ("cardinality --peers timn", "did you mean 'timm'"),
        ("detect resnext29_2x64d", "torchvision"),
        ("detect resnext50_32x5", "did you mean"),
        ("detect resnet18 --size 32", "--size 32 must be at least 64"),
        ("detect resnet18 --rounds 0", "--rounds 0 must be at least 1"),
        ("growth --of bath", "did you mean 'batch'"),
        ("growth --batches 1 2", "too small"),
        ("growth --sizes 8", "too small"),
        ("growth --networks resnex50_32x4d", "did you mean"),
        ("growth --rounds 0", "at least 1"),
        ("infer resnext11_2x4d --batch 0", "at least 1"),
        ("infer resnext11_2x4d --batch x", "not a list of whole numbers"),
        ("infer resnext11_2x4d --size 1 --precision fp32 --no-peers", "pixels"),
        ("infer resnext11_2x4d --precision fp32,bf61", "did you mean 'bf16'"),
        ("infer resnext11_2x4d --precision fp32 --calibration .", "--calibration needs --precision int8"),
        ("serve gone.onnx", "gone.onnx does not exist"),
        ("serve FILE --clients 0", "at least 1"),
        ("serve FILE --clients 1,2000", "--clients 2000 must be at most 1000"),
        ("serve FILE --images none", "does not exist"),
        ("serve FILE --overload 1", "--overload 1 must be above 1"),
        ("serve FILE --rounds 0", "--rounds 0 must be at least 1"),
        ("serve FILE --seconds 0", "--seconds 0 must be above 0"),
        ("train resnex50_32x4d", "did you mean 'resnext50_32x4d'"),
        ("train resnext11_2x4d --batch 1", "--batch 1 must be at least 2"),
        ("train resnext11_2x4d --rounds 0", "--rounds 0 must be at least 1"),
        ("train resnext11_2x4d --size 2", "too small"),
        ("train resnext11_2x4d --peers timn", "did you mean 'timm'"),
        ("train resnext11_2x4d --peers torchvision", "use plain to measure PyTorch's own layers"),
        ("train --isa avx3", "did you mean"),
        ("train --recompute block", "did you mean 'blocks'"),
        ("train --precision fp16", "bf16"),
        ("train resnext11_2x4d --out FILE/below", "--out"),
        ("tune resnext11_2x4", "resnext11_2x4"),
        ("tune resnext11_2x4d --batch 1", "--batch 1"),
        ("tune resnext11_2x4d --size 0", "0"),
        ("tune resnext11_2x4d --precision fp8", "fp8"),
    ],
)
def test_a_wrong_request_is_one_sentence_before_anything_is_measured(
    words: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    Path("FILE").touch()
    assert main(["bench", *words.split()]) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
