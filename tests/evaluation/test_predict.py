import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.data.decode.pillow import read_image
from resnext.data.normalization import normalize
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.errors import RequestError
from resnext.evaluation.images import find_images
from resnext.evaluation.predict import Prediction, predict
from resnext.model.network import Network

Tiny = Callable[..., Network]


def names(paths: list[str], folder: Path) -> list[str]:
    return [str(Path(path).relative_to(folder)) for path in paths]


def test_a_folder_is_walked_in_sorted_order_without_hidden_files(picture_folder: Path) -> None:
    paths, problems = find_images([str(picture_folder)])
    assert names(paths, picture_folder) == ["a.png", "b.png", "broken.png", "c.JPG", "below/d.png", "below/e.png"]
    assert not problems


def test_patterns_take_images_and_each_file_comes_once(picture_folder: Path) -> None:
    paths, problems = find_images([f"{picture_folder}/b.png", f"{picture_folder}/**/*"])
    assert names(paths, picture_folder)[0] == "b.png"
    assert len(paths) == len(set(paths)) == 6
    assert not problems
    paths, _ = find_images([f"{picture_folder}/*.png"])
    assert names(paths, picture_folder) == ["a.png", "b.png", "broken.png"]


def test_links_are_followed_and_what_cannot_be_read_is_named_rather_than_left_out(
    tiny_network: Tiny, picture_folder: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "classes"
    linked.mkdir()
    (linked / "one").symlink_to(picture_folder / "below")
    (linked / "circle").symlink_to(linked)
    (linked / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    paths, problems = find_images([str(linked)])
    assert names(paths, linked) == ["photo.heic", "one/d.png", "one/e.png"]
    assert not problems
    assert "HEIC" in str(predict(tiny_network(), paths)[0].error)
    (linked / "gone").symlink_to("/not/here")
    assert "gone is a link to /not/here" in find_images([str(linked), paths[1]])[1][0][1]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(picture_folder: Path) -> None:
    path = picture_folder / "x[1].png"
    path.write_bytes((picture_folder / "a.png").read_bytes())
    assert find_images([str(path)]) == ([str(path)], [])


def test_arguments_that_mean_nothing_are_reported_beside_the_others(picture_folder: Path) -> None:
    (picture_folder / "empty").mkdir()
    missing, pattern, empty = (str(picture_folder / name) for name in ("no.png", "*.tif", "empty"))
    paths, problems = find_images([missing, str(picture_folder / "a.png"), pattern, empty])
    assert names(paths, picture_folder) == ["a.png"]
    assert [(path, problem.split(" (")[0]) for path, problem in problems] == [
        (missing, "does not exist"),
        (pattern, "matches no image"),
        (empty, "holds no image"),
    ]
    with pytest.raises(RequestError, match=r"no image found: .*does not exist"):
        find_images([missing])
    with pytest.raises(RequestError, match="is a URL; download the image first"):
        find_images(["https://example.org/cat.jpg?size=1"])


def test_predictions_are_the_softmax_of_the_network_on_its_own_view(tiny_network: Tiny, picture_folder: Path) -> None:
    model = tiny_network(4, channels=3, resize=10)
    path = picture_folder / "a.png"
    view = build_eval_transform(model.preprocessing)(read_image(path))
    with torch.inference_mode():
        expected = torch.softmax(model(normalize(view[None], model.preprocessing, "cpu")).double(), 1)[0]
    (prediction,) = predict(model, [path])
    assert prediction.probabilities == pytest.approx(expected.numpy(), rel=1e-6)
    top = prediction.top(2)
    assert [name for name, _ in top] == [f"c{i}" for i in expected.argsort(descending=True)[:2]]
    assert top[0][1] == pytest.approx(float(expected.max()))
    assert len(prediction.top(99)) == 4


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_what_cannot_be_read_is_reported_and_the_rest_is_done(
    tiny_network: Tiny, picture_folder: Path, batch_size: int
) -> None:
    model = tiny_network()
    good, bad = picture_folder / "a.png", picture_folder / "broken.png"
    asked = [bad, good, str(picture_folder / "notes.txt"), good, picture_folder / "missing.png"]
    results = predict(model, asked, batch_size=batch_size)
    assert [result.path for result in results] == [str(path) for path in asked]
    assert [result.error is None for result in results] == [False, True, False, True, False]
    alone = predict(model, [good])[0]
    for result in (results[1], results[3]):
        assert result.probabilities == pytest.approx(alone.probabilities, rel=1e-5)
    assert all(result.probabilities is None and result.top() == [] for result in results if result.error)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1", "I;16", "LA"])
def test_a_picture_in_memory_is_treated_like_its_file(tiny_network: Tiny, tmp_path: Path, mode: str) -> None:
    model = tiny_network(channels=3)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (9, 9), dtype=np.uint16))
    elif mode != "RGB":
        image = image.convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    from_file, from_memory = predict(model, [path, image])
    assert from_file.error is None
    assert from_memory.path is None
    assert from_memory.probabilities == pytest.approx(from_file.probabilities, rel=1e-6)


def test_one_picture_may_be_given_alone_and_in_any_way(tiny_network: Tiny, picture_folder: Path) -> None:
    model = tiny_network()
    path = find_images([str(picture_folder)])[0][0]
    (usual,) = predict(model, [path])
    picture = Image.open(path).convert("RGB")
    given: list[Any] = [path, Path(path), picture, np.asarray(picture)]
    for one, prediction in zip(given, predict(model, iter(given)), strict=True):
        assert prediction.path == (path if isinstance(one, str | Path) else None)
        for found in (prediction, *predict(model, one)):
            assert found.probabilities == pytest.approx(usual.probabilities, rel=1e-6)
    for wrong in (3, [None], np.zeros((3, 8, 8), np.uint8), [np.zeros((8, 8, 3))]):
        with pytest.raises(RequestError, match=r"image 0 is a.*; expected"):
            predict(model, wrong)


def test_a_photograph_is_turned_upright_where_the_weights_say_so(tiny_network: Tiny, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    upright = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    path = tmp_path / "turned.png"
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    turned = Image.open(path)
    for exif_on in (True, False):
        first, *others = predict(tiny_network(exif=exif_on), [upright, path, turned])
        for other in others:
            same = np.allclose(first.probabilities, other.probabilities, rtol=1e-5)  # type: ignore[arg-type]
            assert same == exif_on


def test_a_broken_picture_in_memory_is_an_error_of_its_own(tiny_network: Tiny, picture_folder: Path) -> None:
    lazy = Image.open(picture_folder / "broken.png")
    broken, good = predict(tiny_network(), [lazy, Image.new("L", (8, 8))])
    assert broken.error
    assert good.error is None


def test_outputs_that_are_not_finite_are_errors(tiny_network: Tiny) -> None:
    model = tiny_network()
    torch.nn.init.constant_(model.fc.bias, math.nan)
    (result,) = predict(model, [Image.new("L", (8, 8))])
    assert result.error == "the network's output is not finite"


def test_weights_without_preprocessing_or_names(tiny_network: Tiny) -> None:
    model = tiny_network()
    model.classes = None
    assert predict(model, [Image.new("L", (8, 8))])[0].top()[0][0].startswith("class ")
    model.preprocessing = None
    with pytest.raises(RequestError, match="do not say how images are prepared"):
        predict(model, [])
    with pytest.raises(RequestError, match="batch size"):
        predict(tiny_network(), [], batch_size=0)


def test_equal_probabilities_keep_the_order_of_the_classes() -> None:
    result = Prediction(None, ("a", "b", "c"), np.array([0.25, 0.5, 0.25]))
    assert [name for name, _ in result.top(3)] == ["b", "a", "c"]


def test_the_models_mode_is_restored(tiny_network: Tiny) -> None:
    model = tiny_network().train()
    predict(model, [Image.new("L", (8, 8))])
    assert model.training


def test_bytes_and_streams_are_predicted_as_their_file(tiny_network: Tiny, picture_folder: Path) -> None:
    network, path = tiny_network(), picture_folder / "a.png"
    data = path.read_bytes()
    with open(path, "rb") as stream:
        found = predict(network, [path, data, stream, io.BytesIO(data)])
    for one in found[1:]:
        assert one.path is None
        assert one.probabilities is not None
        assert np.array_equal(one.probabilities, found[0].probabilities)


def test_bytes_that_are_no_image_and_closed_streams_are_errors_of_their_own_row(tiny_network: Tiny) -> None:
    closed = io.BytesIO(b"x")
    closed.close()
    found = predict(tiny_network(), [b"", b"%PDF-1.7", closed])
    assert [one.error for one in found] == [
        "the file is empty",
        "the content is a PDF, whatever the file name says; convert it to PNG or JPEG",
        "I/O operation on closed file.",
    ]
