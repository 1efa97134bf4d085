"""Files of torch give the tensors that torch itself reads from them."""

import argparse
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from resnext.weights.readers.detect_format import read_weights_file
from resnext.weights.readers.torch_legacy import LEGACY_MAGIC
from resnext.weights.readers.torch_tensors import DTYPES
from tests.weights.readers.torch_maker import read_error, read_value, rewrite_zip, save_torch, tar_bytes

LEGACY = {"torch zip": {}, "torch legacy": {"_use_new_zipfile_serialization": False}}


@pytest.fixture(params=list(LEGACY))
def container(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def same(found: Any, expected: Tensor) -> bool:
    return (
        type(found) is Tensor
        and not found.requires_grad
        and found.dtype == expected.dtype
        and found.shape == expected.shape
        and found.stride() == expected.stride()
        and torch.equal(found, expected)
    )


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_every_kind_of_number_comes_back(tmp_path: Path, container: str, dtype: torch.dtype) -> None:
    tensor = (torch.arange(24).reshape(2, 3, 4) % 5).to(dtype)
    path = save_torch(tmp_path / "w", {"a": tensor, "b": [nn.Parameter(tensor, False)]}, **LEGACY[container])
    found, expected = read_weights_file(path), torch.load(path, weights_only=True)
    assert found.file_format == container
    assert same(found.value["a"], expected["a"])
    assert same(found.value["b"][0], expected["b"][0].detach())


@given(
    st.lists(st.integers(0, 4), max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))),
    st.integers(0, 3),
    st.sampled_from(list(LEGACY)),
    st.sampled_from([2, 3, 4, 5]),
)
@settings(max_examples=100)
def test_any_strides_come_back(
    tmp_path_factory: pytest.TempPathFactory, shape: Any, offset: int, container: str, protocol: int
) -> None:
    sizes, axes = shape
    count = int(torch.Size(sizes).numel())
    tensor = torch.arange(count + offset, dtype=torch.float32)[offset:].reshape(sizes).permute(axes)
    path = tmp_path_factory.getbasetemp() / "strides"
    save_torch(path, {"a": tensor, "b": tensor}, pickle_protocol=protocol, **LEGACY[container])
    found = read_value(path)
    expected = torch.load(path, weights_only=protocol == 2)  # it knows no other; the file is ours
    assert same(found["a"], expected["a"])
    assert found["a"] is found["b"]


def test_a_part_of_an_empty_tensor_may_start_anywhere(tmp_path: Path, container: str) -> None:
    part = torch.empty(2, 0, 3)[1:]
    assert part.storage_offset() > part.untyped_storage().nbytes()
    assert same(read_value(save_torch(tmp_path / "w", part, **LEGACY[container])), part)


def test_shared_storages_stay_shared(tmp_path: Path, container: str) -> None:
    whole = torch.arange(10.0)
    path = save_torch(tmp_path / "w", {"whole": whole, "part": whole[3:6], "again": whole}, **LEGACY[container])
    found = read_value(path)
    found["whole"][4] = -1
    assert found["part"].tolist() == [3, -1, 5]


def test_the_tensors_do_not_depend_on_the_file(tmp_path: Path, container: str) -> None:
    path = save_torch(tmp_path / "w", torch.arange(10_000.0), **LEGACY[container])
    found = read_value(path)
    path.write_bytes(b"")
    assert torch.equal(found, torch.arange(10_000.0))
    found[0] = 7  # writable


def checkpoint_of_torchvision() -> dict[str, Any]:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 85)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [5])
    average = torch.optim.swa_utils.AveragedModel(model)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": schedule.state_dict(),
        "epoch": 3,
        "args": argparse.Namespace(data_path="/data", lr=0.1, output_dir=Path("/out"), device=torch.device("cuda", 0)),
        "model_ema": average.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }


def test_a_checkpoint_of_torchvision_comes_back(tmp_path: Path, container: str) -> None:
    saved_value = checkpoint_of_torchvision()
    found = read_value(save_torch(tmp_path / "model_3.pth", saved_value, **LEGACY[container]))
    assert type(found["model"]) is OrderedDict
    assert found["model"].keys() == saved_value["model"].keys()
    assert all(same(found["model"][name], tensor) for name, tensor in saved_value["model"].items())
    assert found["args"] == {"data_path": "/data", "lr": 0.1, "output_dir": "/out", "device": "cuda:0"}
    momentum = saved_value["optimizer"]["state"][0]["momentum_buffer"]
    assert same(found["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert found["epoch"] == 3


def test_other_checkpoints_come_back(tmp_path: Path, container: str) -> None:
    """As timm, pycls and Lightning write them."""
    weights = {"s1.b1.f.a.weight": torch.ones(2, 3)}
    timm = {"epoch": 1, "arch": "resnext50_32x4d", "state_dict": weights, "version": 2, "metric": np.float64(77.5)}
    pycls = {"epoch": 1, "model_state": weights, "optimizer_state": {}, "cfg": "MODEL:\n  TYPE: anynet\n" * 300}
    rates = {"lr": 0.1, "betas": (0.9, 0.999)}
    lightning = {"pytorch-lightning_version": "2.1", "state_dict": weights, "loops": {}, "hyper_parameters": rates}
    for value in (timm, pycls, lightning):
        found = read_value(save_torch(tmp_path / "w", value, **LEGACY[container]))
        assert all(torch.equal(found.pop(key)[name], weights[name]) for key in ("state_dict", "model_state")
                   if key in value for name in weights)  # fmt: skip
        assert found == {key: item for key, item in value.items() if item is not weights}


def test_a_big_endian_zip_is_turned(tmp_path: Path) -> None:
    path = save_torch(
        tmp_path / "w", {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([1, -2]), "c": torch.ones(3).bool()}
    )

    def turn(entries: dict[str, bytes]) -> None:
        entries["byteorder"] = b"big"
        entries["data/0"] = struct.pack(">2f", *struct.unpack("<2f", entries["data/0"]))
        entries["data/1"] = struct.pack(">2q", *struct.unpack("<2q", entries["data/1"]))

    found = read_value(rewrite_zip(path, turn))
    assert (found["a"].tolist(), found["b"].tolist(), found["c"].tolist()) == ([1, 2], [1, -2], [True] * 3)
    assert "byte order middle" in read_error(rewrite_zip(path, lambda entries: entries.update(byteorder=b"middle")))


def test_a_zip_without_checksums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save_torch(tmp_path / "w", torch.ones(3))
    finally:
        torch.serialization.set_crc32_options(before)
    with zipfile.ZipFile(path) as archive:
        assert archive.infolist()[0].CRC == 0  # or the test proves nothing
    assert torch.equal(read_value(path), torch.ones(3))


def legacy_of(identity: tuple[Any, ...], numbers: bytes) -> bytes:
    """A row of pickles with one storage that is known by ``identity``."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return identity if isinstance(value, torch.UntypedStorage) else None

    file = io.BytesIO()
    for value in (LEGACY_MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}):
        pickle.dump(value, file, 2)
    storage = torch.UntypedStorage(0)
    Pickler(file, 2).dump(_Rebuilt(storage))
    pickle.dump([identity[2]], file, 2)
    return file.getvalue() + numbers


class _Rebuilt:
    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor, (self.storage, 1, (2,), (1,))


def test_a_part_of_a_storage_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    identity = ("storage", torch.FloatStorage, "7", "cpu", 6, ("8", 2, 4))
    path = tmp_path / "w"
    path.write_bytes(legacy_of(identity, struct.pack("<q6f", 6, *range(6))))
    assert read_value(path).tolist() == torch.load(path, weights_only=True).tolist() == [3, 4]
    path.write_bytes(legacy_of((*identity[:5], ("8", 2, 5)), struct.pack("<q6f", 6, *range(6))))
    assert "a view of the storage 7 that ends beyond it" in read_error(path)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (lambda: nn.Conv2d(1, 1, 1), "save model.state_dict()"),
        (lambda: {"x": torch.ones(2).to_sparse()}, "a sparse tensor"),
        (lambda: {"x": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "quantized"),
        (lambda: {"x": torch.ones(2, dtype=torch.complex64)}, "complex numbers"),
        (lambda: {"x": torch.ones(2, device="meta")}, "a meta tensor"),
        (lambda: {"x": torch.ones(2).expand(3, 2)}, "expanded tensors are not supported"),
        (lambda: {"x": torch.ones(2, dtype=torch.uint16)}, "torch._utils._rebuild_tensor_v3"),
        (lambda: {"x": torch.ones(2).untyped_storage()}, "holds a torch storage"),
        (lambda: {"x": torch._neg_view(torch.ones(2))}, "conjugate or negative"),
    ],
)
def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path: Path, container: str, value: Any, sentence: str) -> None:
    assert sentence in read_error(save_torch(tmp_path / "w", value(), **LEGACY[container]))


def test_programs_are_refused_with_what_to_save_instead(tmp_path: Path) -> None:
    scripted = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), scripted)
    assert "TorchScript" in read_error(scripted)
    assert "state_dict()" in read_error(scripted)
    exported = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), exported)
    assert "exported program" in read_error(exported)


PEAK = """
import sys
from pathlib import Path
from resnext.weights.readers.detect_format import read_weights_file
import resnext.weights.readers.torch7

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

before = resident()
raw = read_weights_file(Path(sys.argv[1]))
print(resident() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "legacy", "tar", "safetensors", "pickle", "pickle2"])
def test_loading_takes_the_memory_of_the_tensors(tmp_path: Path, kind: str) -> None:
    """At most 1.2 times, for 100 MB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of resident memory is read from Linux's /proc")
    path = tmp_path / "w"
    state = {f"layer{i}": torch.randn(512, 512 * (1 + i % 4)) for i in range(40)}
    total = sum(tensor.nbytes for tensor in state.values())
    if kind in ("zip", "legacy"):
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    elif kind == "tar":
        path.write_bytes(tar_bytes(state, list(state.values())))
    elif kind == "safetensors":
        save_file(state, path)
    else:
        arrays = {name: np.asarray(tensor) for name, tensor in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays}, 4 if kind == "pickle" else 2))
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True)
    peak = 1024 * int(done.stdout)
    print(f"{kind}: {peak / total:.3f} of {total:,} bytes")
    assert 0.9 * total < peak < 1.2 * total
