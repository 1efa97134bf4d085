"""Views and ensembles with small real networks, against loops over single crops, windows and networks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from resnext.data.dataset import ArrayDataset
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.crops import to_tensor
from resnext.errors import RequestError
from resnext.evaluation.ensemble import EnsembleMember
from resnext.evaluation.evaluator import COLUMNS, Evaluation, evaluate, merge_shards
from resnext.evaluation.views import Views
from resnext.model.network import Network, create_model
from tests.evaluation.conftest import PREPROCESSING, LookupModel, make_dataset
from tests.evaluation.test_views import picture

BICUBIC = F.InterpolationMode.BICUBIC


pytestmark = pytest.mark.usefixtures("one_thread")


def preprocessing(image_size: int = 16, resize: int = 21) -> Preprocessing:
    return Preprocessing(image_size=image_size, resize=resize, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)


def network(seed: int = 0, p: Preprocessing | None = None, classes: int = 6, **changes: object) -> Network:
    """Give BN non-trivial running statistics, so that nothing is equal by chance."""
    model = create_model("resnext11_2x4d", seed=seed, base_channels=4, num_classes=classes, **changes)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
        model.fc.weight.normal_()
    model.preprocessing = p or preprocessing()
    model.classes = tuple(f"c{i}" for i in range(classes))
    return model.eval()


class Pictures(ArrayDataset):
    """Images of different sizes."""

    def image(self, index: int):
        return picture(30 + 5 * index, 45 - 3 * index, seed=index)


def pictures(n: int, classes: int = 6) -> Pictures:
    labels = np.arange(n, dtype=np.int64) % classes
    names = tuple(f"c{i}" for i in range(classes))
    return Pictures("pictures test", names, 3, np.zeros((n, 1, 1, 3), np.uint8), labels)


def judged(model: Network, data: Pictures, view: str = "center", combine: str = "logits", **options: object):
    looks = Views.parse(view, combine)
    return evaluate(model, data, model.preprocessing, device="cpu", views=looks, **options)  # type: ignore[arg-type]


def ask(model: Network, image: Tensor) -> Tensor:
    """Logits float64 [K] of one image uint8 [C, H, W]."""
    with torch.inference_mode():
        return model(normalize(image[None], model.preprocessing, "cpu"))[0].double()


def average(answers: list[Tensor], how: str) -> Tensor:
    """Probabilities [K]."""
    if how == "logits":
        return torch.softmax(sum(answers) / len(answers), 0)  # type: ignore[call-overload]
    return sum(torch.softmax(answer, 0) for answer in answers) / len(answers)  # type: ignore[return-value]


def agrees(result: Evaluation, expected: list[Tensor], data: Pictures, tolerance: float = 1e-5) -> None:
    """Check that probabilities, predictions and losses are those of the naive loop."""
    p = torch.stack(expected)
    own = p[range(len(data)), data.labels]
    assert result.probability_of_label == pytest.approx(own.numpy(), rel=tolerance)
    assert result.losses == pytest.approx(-own.log().numpy(), rel=tolerance, abs=tolerance)
    assert result.predicted.tolist() == p.argmax(1).tolist()


def ask_crops(model: Network, image: Image.Image, view: str) -> list[Tensor]:
    """Logits float64 [K] of each crop of a view, cut by torchvision."""
    p = model.preprocessing
    resized = F.resize(image, [p.resize], BICUBIC, antialias=True)
    center = to_tensor(F.center_crop(resized, [p.image_size] * 2))
    crops = {
        "center": [center],
        "center+flip": [center, center.flip(2)],
        "ten-crop": [to_tensor(crop) for crop in F.ten_crop(resized, [p.image_size] * 2)],
    }[view]
    return [ask(model, crop) for crop in crops]


@pytest.mark.parametrize("how", ["logits", "probabilities"])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("view", ["center+flip", "ten-crop"])
def test_a_view_is_a_loop_over_torchvisions_crops(view: str, how: str, batch_size: int) -> None:
    model, data = network(), pictures(5)
    expected = [average(ask_crops(model, data.image(i), view), how) for i in range(5)]
    agrees(judged(model, data, view, how, batch_size=batch_size), expected, data)


def test_ten_crop_by_logits_ranks_as_the_releases_sum() -> None:
    model, data = network(3), pictures(6)
    sums = [torch.stack(ask_crops(model, data.image(i), "ten-crop")).sum(0) for i in range(6)]
    ranks = [sorted(range(6), key=lambda j, s=s: -s[j]).index(y) for s, y in zip(sums, data.labels, strict=True)]
    assert judged(model, data, "ten-crop").rank.tolist() == ranks


def window_answers(model: Network, image: Tensor, window: int) -> list[Tensor]:
    """The classifier at every position of the last feature map, by explicit loops."""
    with torch.inference_mode():
        last = model.feature_names[-2]
        maps = model.features(normalize(image[None], model.preprocessing, "cpu"), last)[last]
        maps = model.bn(maps)[0] if model.architecture.pre_activation else maps[0]
        answers = []
        for top in range(maps.shape[1] - window + 1):
            for left in range(maps.shape[2] - window + 1):
                pooled = torch.stack([channel.mean() for channel in maps[:, top : top + window, left : left + window]])
                answers.append((model.fc.weight @ pooled + model.fc.bias).double())
    return answers


@pytest.mark.parametrize("how", ["logits", "probabilities"])
@pytest.mark.parametrize("flip", ["", "+flip"])
@pytest.mark.parametrize("changes", [{}, {"pre_activation": True}, {"form": "branched"}])
def test_dense_is_a_loop_over_scales_and_windows(how: str, flip: str, changes: dict[str, object]) -> None:
    model, data = network(**changes), pictures(3)
    window = 16 // model.architecture.stride
    expected = []
    for i in range(3):
        of_scales = []
        for scale in (16, 20, 31):
            whole = to_tensor(F.resize(data.image(i), [scale], BICUBIC, antialias=True))
            answers = window_answers(model, whole, window)
            answers += window_answers(model, whole.flip(2), window) if flip else []
            of_scales.append(average(answers, how) if how == "probabilities" else sum(answers) / len(answers))
        mean = sum(of_scales) / 3
        expected.append(mean if how == "probabilities" else torch.softmax(mean, 0))
    agrees(judged(model, data, f"dense:16,20,31{flip}", how), expected, data, 1e-4)


@pytest.mark.parametrize(("name", "size"), [("resnext11_2x4d", 32), ("resnext29_2x4d", 32), ("resnext50_2x4d", 224)])
def test_the_window_of_dense_is_the_map_that_training_saw(name: str, size: int) -> None:
    model = create_model(name, seed=0, base_channels=4, num_classes=3).eval()
    image = torch.rand(1, 3, size, size)
    with torch.inference_mode():
        last = model.features(image, model.feature_names[-2])[model.feature_names[-2]]
        assert last.shape[-1] == -(-size // model.architecture.stride)
        alone = model.compute_score_map(image, last.shape[-1])
        assert alone.shape == (1, 1, 1, 3)
        assert torch.allclose(alone[0, 0, 0], model(image)[0], rtol=1e-5, atol=1e-6)
        with pytest.raises(RequestError, match="smaller than the window"):
            model.compute_score_map(image, last.shape[-1] + 1)


def test_dense_refuses_networks_that_are_not_ours() -> None:
    model, data = LookupModel(torch.eye(3)), make_dataset(np.arange(3), 3)
    with pytest.raises(RequestError, match="fully convolutionally"):
        evaluate(model, data, PREPROCESSING, device="cpu", views=Views.parse("dense:4"))


@pytest.mark.parametrize("view", ["center", "center+flip", "ten-crop", "dense:16,24"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [1, 7])
def test_shards_of_every_view_make_the_same_evaluation(view: str, world_size: int, n: int) -> None:
    """Merged shards equal one process, for an ensemble with restricted outputs."""
    model, other, data = network(classes=8), network(1, preprocessing(16, 16), classes=8), pictures(n)
    for one in (model, other):
        one.classes = ("x", *data.classes, "y")
    members = [EnsembleMember(other, other.preprocessing)]
    options = {"other_members": members, "output_indices": np.arange(1, 7), "batch_size": 1}
    whole = judged(model, data, view, **options)
    shards = [judged(model, data, view, rank=r, world_size=world_size, **options) for r in range(world_size)]
    merged = merge_shards(shards[::-1])
    assert sum(shard.n for shard in shards) == n
    for name in COLUMNS:
        assert np.array_equal(getattr(merged, name), getattr(whole, name)), name


@pytest.mark.parametrize("view", ["ten-crop", "dense:16,24+flip"])
def test_batch_size_and_workers_change_nothing(view: str) -> None:
    model, data = network(), pictures(7)
    one, other = judged(model, data, view, batch_size=1), judged(model, data, view, batch_size=50, workers=2)
    assert np.array_equal(one.rank, other.rank)
    assert other.losses == pytest.approx(one.losses, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("how", ["logits", "probabilities"])
@pytest.mark.parametrize("view", ["center", "center+flip", "ten-crop"])
def test_an_ensemble_is_the_mean_of_its_networks_on_their_own_preprocessing(how: str, view: str) -> None:
    first, data = network(0), pictures(5)
    others = [network(1, preprocessing(16, 16)), network(2), network(3, preprocessing(24, 30))]
    expected = []
    for i in range(5):
        answers = [torch.stack(ask_crops(model, data.image(i), view)).mean(0) for model in (first, *others)]
        expected.append(average(answers, how))
    members = [EnsembleMember(model, model.preprocessing) for model in others]
    result = judged(first, data, view, other_members=members, ensemble_combine=how, batch_size=4)
    agrees(result, expected, data)


def test_networks_with_the_same_preprocessing_share_the_reading() -> None:
    class Counted(Pictures):
        read = 0

        def image(self, index: int):
            Counted.read += 1
            return super().image(index)

    plain = pictures(4)
    data = Counted(plain.name, plain.classes, 3, plain.images, plain.labels)
    same, other = network(1), network(2, preprocessing(16, 16))
    judged(network(0), data, other_members=[EnsembleMember(m, m.preprocessing) for m in (same, other)])
    assert Counted.read == 8  # two preprocessings of four pictures


def test_an_ensemble_of_other_classes_is_refused(tiny_network: Callable[..., Network]) -> None:
    other = network(1)
    other.classes = ("x", "c1", "c2", "c3", "c4", "c5")
    with pytest.raises(RequestError, match="only the model has 'x'"):
        judged(network(), pictures(3), other_members=[EnsembleMember(other, other.preprocessing)])
    small = tiny_network(3, 3)
    with pytest.raises(RequestError, match="has 3"):
        judged(network(), pictures(3), other_members=[EnsembleMember(small, small.preprocessing)])


@pytest.mark.parametrize("view", ["center", "ten-crop", "dense:16,24"])
def test_restricted_outputs_leave_the_others_out_before_the_softmax(view: str) -> None:
    """A network without the other classifier rows gives the same result."""
    big, keep = network(classes=9), np.array([8, 0, 5, 2, 7, 1])
    data = pictures(5)
    big.classes = tuple(f"c{keep.tolist().index(i)}" if i in keep else f"x{i}" for i in range(9))
    small = network(classes=9)
    small.fc.weight = torch.nn.Parameter(big.fc.weight[keep].detach())
    small.fc.bias = torch.nn.Parameter(big.fc.bias[keep].detach())
    small.classes = None
    small.architecture = big.architecture.change(num_classes=6)
    restricted = judged(big, data, view, "probabilities", output_indices=keep)
    alone = judged(small, data, view, "probabilities")
    assert np.array_equal(restricted.predicted, alone.predicted)
    assert restricted.losses == pytest.approx(alone.losses, rel=1e-6)
    with pytest.raises(RequestError, match="9 and pictures test 6"):
        judged(big, data, view)
