import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.coco_eval import Detections, evaluate_detections
from resnext.detection.evaluation.protocol import describe_detection_protocol, format_detection_protocol
from resnext.detection.evaluation.report import write_detection_report
from resnext.detection.evaluation.tables import to_metrics_dict, write_detection_evaluation
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from tests.detection.synthetic import dataset, detections, random_case
from tests.evaluation.output.page_checks import DESKTOP, LONG_NAMES, PHONE, check_accessibility, check_layout, open_file
from tests.evaluation.output.test_report import Reader

EVIL = ("<script>alert(1)</script>", '"><img src=http://evil.example/x onerror=alert(1)>', "{{ 7 * 7 }}")
ABOUT = describe_detection_protocol(
    DetectPreprocessing(min_size=480, max_size=640),
    DetectorSettings(),
    data="cells <val>",
    changed={"boxes cut at the edge": 3},
    split="by hand",
    device="cpu",
    checkpoint="best",
    step=1300,
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with everything a report shows, class names being hostile."""
    run = tmp_path_factory.mktemp("runs") / "my <run>"
    run.mkdir()
    (run / "recipe.yaml").write_text("model: {name: resnext26_8x4d}\ndata: {val: '<i>val</i>.json', flip: true}\n")
    (run / "environment.json").write_text(json.dumps({"torch": "2.9", "cpu": "<b>CPU</b>"}))
    (run / "metrics.csv").write_text("epoch,step,ap\n1,10,0.125\n2,20,0.5\n3,30,0.25\n4,40,\n")
    data, found = hostile_case()
    write_detection_evaluation(evaluate_detections(data, found), data, run / "evaluation", ABOUT)
    for name in ("curves.png", "samples.png"):
        (run / name).write_bytes((run / "evaluation" / "images.png").read_bytes())
    return run


@pytest.fixture
def run_directory(whole_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole_run, tmp_path / whole_run.name))


def hostile_case() -> tuple[DetectionDataset, Detections]:
    data, found = random_case(1)
    return replace(data, classes=EVIL), found


def read(run: Path, case: tuple[DetectionDataset, Detections] | None = None) -> Reader:
    data, found = case or hostile_case()
    result = evaluate_detections(data, found)
    metrics = to_metrics_dict(result) | {"protocol": ABOUT, "environment": {"date": "today"}}
    assert write_detection_report(run, result, data, metrics) == run / "report.html"
    return Reader((run / "report.html").read_text(encoding="utf-8"))


def test_the_report_shows_numbers_tables_pictures_and_settings(run_directory: Path) -> None:
    page = read(run_directory)
    result = evaluate_detections(*random_case(1))
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar1", "ar10", "ar100", "ar_large"):
        value = getattr(result, name)
        assert (f"{value:.3f}" if value is not None else "–") in page.text
    for part in (
        *("resnext26_8x4d on cells <val>", "run my <run>", "12 images and", "shorter side 480, longer at most 640"),
        *(
            "split: by hand · boxes cut at the edge: 3 · checkpoint best (step 1,300)",
            "COCOeval",
            "the highest was 0.500 after epoch 2",
        ),
        *("AP on held-out images after epoch 3: 0.250", "<b>CPU</b>", "<i>val</i>.json"),
        f"{result.matches.rank_images()[-1]:03}.png",
    ):
        assert part in page.text
    assert len([1 for tag, _ in page.tags if tag == "img"]) == 4
    for one in result.per_class:
        assert one.ap is not None
        assert f"{one.ap:.3f}" in page.text


def test_the_last_epoch_comes_first_and_the_best_one_is_said_to_be_chosen_on_the_same_images(
    run_directory: Path,
) -> None:
    ap, classes = evaluate_detections(*random_case(1)).ap, " and the classes"
    text = " ".join(read(run_directory).text.split())
    last = f"0.250 AP, the mean over IoU 0.50 to 0.95{classes}, after the last epoch"
    best = f"{ap:.3f} at the best checkpoint, after epoch 2, which was chosen on the same images"
    assert text.index(last) < text.index(best)
    (run_directory / "metrics.csv").write_text(f"epoch,step,ap\n1,10,0.001\n2,20,{ap}\n")
    text = " ".join(read(run_directory).text.split())
    assert f"{ap:.3f} AP, the mean over IoU 0.50 to 0.95{classes}, after the last epoch, which is the best" in text
    assert "chosen on the same images" not in text
    assert f"AP on held-out images after epoch 2: {ap:.3f}, the highest." in text


def test_the_worst_images_come_by_f1_and_then_by_mistakes(tmp_path: Path) -> None:
    a, b, c = [10, 10, 60, 60], [100, 100, 160, 160], [300, 100, 380, 200]
    data = dataset([(0, 0, a), (0, 0, b), (1, 0, a), (2, 0, a), (2, 0, b), (2, 0, c), (4, 0, a)], images=5)
    found = detections((0, 0, a, 0.9), (4, 0, a, 0.9))
    rows = read(tmp_path, (data, found)).text.split("worst images")[1]
    assert re.findall(r"00\d\.png", rows) == ["002.png", "001.png", "000.png"]


def test_names_from_outside_stay_text_and_nothing_is_asked_of_the_network(run_directory: Path) -> None:
    page = read(run_directory)
    assert all(name in page.text for name in EVIL)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    "name",
    [
        *("recipe.yaml", "environment.json", "metrics.csv", "curves.png", "samples.png"),
        *("evaluation/images.png", "evaluation/precision_recall.png"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00{", b"[[1]]", b"epoch,ap,f1\nx\n", b"format: {a: [1}"])
def test_missing_and_damaged_files_are_left_out(run_directory: Path, name: str, content: bytes | None) -> None:
    (run_directory / name).unlink()
    if content is not None:
        (run_directory / name).write_bytes(content)
    assert "my <run>" in read(run_directory).text


def test_a_run_that_found_nothing_has_a_report(tmp_path: Path) -> None:
    page = read(tmp_path, (dataset([(0, 0, [10, 10, 60, 60])]), detections()))
    assert "0.000" in page.text
    assert "best F1" not in page.text


def test_data_without_boxes_say_so(tmp_path: Path) -> None:
    page = read(tmp_path, (dataset([], images=2), detections()))
    assert "The 2 evaluated images have no boxes" in page.text
    assert "None" not in page.text


def test_a_protocol_of_a_file_names_no_network_input() -> None:
    about = describe_detection_protocol(None, None, data="val.json", split="given", weights="other.json")
    line = format_detection_protocol(about, 3, 1200)
    assert line == ("3 images and 1,200 boxes of val.json · split: given · weights other.json · COCOeval (pycocotools)")


@pytest.mark.parametrize("options", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_report_fits_its_window_with_every_name_whole(
    browser: Any, run_directory: Path, options: dict[str, Any]
) -> None:
    data, found = random_case(1)
    names = (*LONG_NAMES, *data.classes)[: len(data.classes)]
    read(run_directory, (replace(data, classes=names), found))
    with open_file(browser, run_directory / "report.html", **options) as page:
        check_layout(page, options["viewport"]["width"])
        check_accessibility(page)
        text = page.inner_text("body")
        assert all(name in text for name in names)
