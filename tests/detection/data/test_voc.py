"""Pascal VOC's files: boxes from 1 and inclusive, difficult objects, and every way in which a file can be wrong."""

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.detection.data import voc
from resnext.detection.data.annotations import RawAnnotations, build_dataset
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.faulty_files import FaultyFilesError
from resnext.detection.data.find_images import locate_images
from resnext.detection.data.voc import (
    convert_voc,
    find_first_pixel,
    list_class_names,
    list_xml_files,
    read_image_list,
    read_voc,
)
from resnext.errors import RequestError
from tests.detection.annotation_files import photo, pycocotools_metrics, voc_object, voc_xml, write

TWENTY = (  # VOC's own order
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read(folder: Path, xml: str | bytes, **options: Any) -> DetectionDataset:
    if not (folder / "p.jpg").exists():
        photo(folder / "p.jpg")
    (folder / "p.xml").write_bytes(xml if isinstance(xml, bytes) else xml.encode())
    images = read_voc([folder / "p.xml"], folder, folder)
    return build_dataset(convert_voc(images, list_class_names([images]), "x"), folder, **options)


def locate(folder: Path) -> RawAnnotations:
    """All of a folder of XML files, its images located in the same folder."""
    images = read_voc(list_xml_files(folder), folder, folder)
    classes = list_class_names([images]) if any(image.objects for image in images) else ()
    return locate_images(convert_voc(images, classes, "x"), folder)


def test_boxes_count_from_1_and_both_ends_are_inside(tmp_path: Path) -> None:
    whole = read(tmp_path, voc_xml(voc_object("cat", (1, 1, 40, 30))))
    assert whole.boxes.tolist() == [[0, 0, 40, 30]]  # of 40 x 30 pixels
    assert whole.areas.tolist() == [1200]
    pixel = read(tmp_path, voc_xml(voc_object("cat", ("7.0", 9, 7, " 9 "))))
    assert pixel.boxes.tolist() == [[6, 8, 7, 9]]
    assert pixel.to_coco_dict()["annotations"][0]["bbox"] == [6, 8, 1, 1]


def test_the_box_is_the_pixels_that_it_names(tmp_path: Path) -> None:
    picture = np.zeros((30, 40), bool)
    picture[4:9, 10:20] = True  # an object, in pixels from 0
    ys, xs = np.nonzero(picture)
    box = (xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1)  # as VOC's annotators would write it
    x1, y1, x2, y2 = read(tmp_path, voc_xml(voc_object("cat", box))).boxes[0].astype(int)
    assert picture[y1:y2, x1:x2].all()
    assert (x2 - x1) * (y2 - y1) == picture.sum()


def test_difficult_objects_are_held_as_crowds_and_parts_are_no_objects(tmp_path: Path) -> None:
    objects = [voc_object("cat", (1, 1, 5, 5), 1), voc_object("dog", (1, 1, 5, 5), 0), voc_object("dog", (2, 2, 5, 5))]
    dataset = read(tmp_path, voc_xml("".join(objects)))
    assert dataset.crowd.tolist() == [True, False, False]
    assert dataset.classes == ("cat", "dog")
    assert dataset.category_ids == (1, 2)
    assert dataset.has_generated_ids


def test_detections_on_a_difficult_object_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    """However many; pycocotools is asked. A normal object beside it is still to be found."""
    objects = voc_object("cat", (1, 1, 10, 10), 1) + voc_object("cat", (21, 11, 30, 20))
    truth = read(tmp_path, voc_xml(objects), exif=False).to_coco_dict()
    boxes = [[0, 0, 10, 10], [0, 0, 9, 10], [1, 0, 9, 10], [20, 10, 10, 10]]
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - i / 10} for i, box in enumerate(boxes)]
    assert pycocotools_metrics(truth, rows)[0] == pytest.approx(1)


def test_classes_are_the_names_sorted_which_is_vocs_own_order(tmp_path: Path) -> None:
    objects = "".join(voc_object(name, (1, 1, 5, 5)) for name in reversed(TWENTY))
    assert read(tmp_path, voc_xml(objects)).classes == TWENTY


def test_bad_boxes_and_boxes_that_stick_out_follow_the_policies(tmp_path: Path) -> None:
    bad = voc_object("cat", (5, 5, 4, 9)) + voc_object("cat", (1, 1, "x", 9))
    xml = voc_xml(bad + voc_object("dog", (0, 1, 41, 30)))
    with pytest.raises(RequestError, match=r"p\.xml: the box xmin 5, ymin 5, xmax 4, ymax 9 of a 'cat' has no width"):
        read(tmp_path, xml)
    dataset = read(tmp_path, xml, bad_boxes="drop")
    assert dataset.boxes.tolist() == [[0, 0, 40, 30]]
    assert dataset.counts == {"boxes cut at the edge": 1, "bad boxes left out": 2}


def test_images_without_objects_stay_or_go(tmp_path: Path) -> None:
    photo(tmp_path / "p.jpg")
    photo(tmp_path / "q.png")
    write(tmp_path / "p.xml", voc_xml())
    write(tmp_path / "q.xml", voc_xml(voc_object("cat", (1, 1, 5, 5))))
    parsed = convert_voc(read_voc(list_xml_files(tmp_path), tmp_path, tmp_path), ("cat",), "x")
    assert build_dataset(parsed, tmp_path).files == ("p.jpg", "q.png")
    assert build_dataset(parsed, tmp_path, empty="drop").files == ("q.png",)


def test_of_two_pictures_of_one_name_the_one_that_is_stated_is_taken(tmp_path: Path) -> None:
    photo(tmp_path / "p.png", seed=1)
    thing = voc_object("cat", (1, 1, 5, 5))
    assert read(tmp_path, voc_xml(thing, filename="p.png")).files == ("p.png",)
    with pytest.raises(RequestError, match=r"several images match, 'p.jpg', 'p.png'"):
        read(tmp_path, voc_xml(thing))


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("", "cannot be read as XML"),
        ("<annotation>", "cannot be read as XML"),
        ("<a/>", "its root is <a>, not <annotation>"),
        (voc_xml(size=(-1, 30)), "<width> must be a whole number of pixels up to .*, not '-1'"),
        ("<annotation/>", "the annotations in .* have no objects"),
        (voc_xml("<object><bndbox/></object>"), "object 1 has no <name>"),
        (voc_xml("<object><name>cat</name></object>"), r"object 1 \(cat\) has no <bndbox>"),
        (voc_xml(voc_object("cat", (1, 1, 5, 5), 2)), "<difficult> must be 0 or 1, not '2'"),
        (voc_xml("<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"), "is not four finite numbers"),
        (voc_xml(voc_object("cat", ("nan", 1, 5, 5))), "is not four finite numbers"),
        (voc_xml(voc_object("cat", ("1_0", 1, 15, 5))), "is not four finite numbers"),
        (voc_xml(), "the annotations in .* have no objects"),
        ("<?xml version='1.0' encoding='no-such'?><annotation/>", "cannot be read as XML"),
    ],
)
def test_each_fault_of_a_file_is_one_sentence(tmp_path: Path, xml: str, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read(tmp_path, xml)
    assert str(tmp_path) in str(caught.value)


LAUGHS = "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 10}">' for i in range(20))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declared",
    [
        f'<!DOCTYPE annotation [<!ENTITY a0 "ha">{LAUGHS}]>',
        '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE annotation SYSTEM "http://example.invalid/x.dtd">',
    ],
)
def test_no_entity_is_ever_expanded(tmp_path: Path, declared: str, encoding: str) -> None:
    xml = f'<?xml version="1.0" encoding="{encoding}"?>{declared}<annotation>&a20;&x;</annotation>'
    with pytest.raises(RequestError, match="declares a document type"):
        read(tmp_path, xml.encode(encoding))


def test_sizes_are_bounded_and_depth_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"have no objects"):
        read(tmp_path, "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>")
    monkeypatch.setattr(voc, "MAX_BYTES", 20)
    with pytest.raises(RequestError, match="larger than the 20 bytes"):
        read(tmp_path, voc_xml())


def test_missing_annotations_are_named_all_at_once(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc_xml())
    with pytest.raises(RequestError, match=r"list.txt: 2 of 3 annotations are not in .*; missing: 'd.xml', 'e.xml'"):
        read_voc([tmp_path / f"{name}.xml" for name in "ade"], tmp_path, tmp_path / "list.txt")
    with pytest.raises(RequestError, match="has no annotations"):
        read_voc([], tmp_path, tmp_path)


def test_a_stated_name_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    photo(tmp_path / "b.jpg")
    write(tmp_path / "voc/b.xml", voc_xml(filename="../b.jpg"))
    with pytest.raises(RequestError, match=r"b.xml names '../b.jpg', which is outside the image folder"):
        locate(tmp_path / "voc")


def test_optional_tags_may_be_empty_or_blank(tmp_path: Path) -> None:
    blank = "<filename> </filename><path/><size> <width> </width><height/></size>"
    thing = voc_object("cat", (1, 1, 5, 5)).replace("</name>", "</name><difficult> \n </difficult><pose/>", 1)
    photo(tmp_path / "p.jpg")
    write(tmp_path / "p.xml", f"<annotation>{blank}{thing}</annotation>")
    parsed = locate(tmp_path)
    assert (parsed.files, parsed.sizes.tolist(), parsed.boxes.crowd.tolist()) == (("p.jpg",), [[40, 30]], [False])


def test_all_faulty_files_are_named_at_once(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / f"{i:02}.xml", voc_xml(size=(40 if i % 3 else -1, 30)))
    with pytest.raises(
        FaultyFilesError, match=r"10 of 30 annotations cannot be used: .*00.xml: <width>.*03.xml: .*more"
    ) as caught:
        read_voc(list_xml_files(tmp_path), tmp_path, tmp_path)
    assert [path.name for path, _ in caught.value.faults] == [f"{i:02}.xml" for i in range(0, 30, 3)]
    assert len(str(caught.value)) < 1200
    (tmp_path / "00.xml").rename(tmp_path / "no.txt")
    for i in range(3, 30, 3):
        (tmp_path / f"{i:02}.xml").unlink()
    write(tmp_path / "01.xml", "<a/>")
    with pytest.raises(RequestError) as only:
        read_voc(list_xml_files(tmp_path), tmp_path, tmp_path)
    assert str(only.value) == f"{tmp_path}/01.xml is XML but not Pascal VOC: its root is <a>, not <annotation>"


def test_a_coordinate_of_0_shows_that_no_box_of_either_split_counts_from_1(tmp_path: Path) -> None:
    """pycocotools' own numbers of the same boxes as corners: nothing is moved, nothing sticks out."""
    boxes = {"train": [(0, 0, 40, 30), (3, 4, 13, 9)], "val": [(5, 6, 40, 12)]}
    for split, corners in boxes.items():
        photo(tmp_path / split / "p.jpg")
        write(tmp_path / split / "p.xml", voc_xml("".join(voc_object("cat", box) for box in corners)))
    splits = {split: read_voc([tmp_path / split / "p.xml"], tmp_path / split, tmp_path) for split in boxes}
    first = find_first_pixel(list(splits.values()))
    assert first == 0
    assert find_first_pixel([splits["val"]]) == 1  # alone nothing shows it
    for split, corners in boxes.items():
        dataset = build_dataset(convert_voc(splits[split], ("cat",), split, first), tmp_path / split)
        assert dataset.boxes.tolist() == [list(box) for box in corners]
        assert [*dataset.counts.values()] == [len(corners)]
        assert "a coordinate of 0" in next(iter(dataset.counts))


@settings(max_examples=100)
@given(st.lists(st.tuples(*[st.integers(-3, 45)] * 4), min_size=1, max_size=4))
def test_what_counts_from_0_is_read_as_the_corners_it_states(boxes: list[tuple[int, ...]]) -> None:
    objects = tuple(voc.VocObject("cat", (float(a), float(b), float(c), float(d)), False) for a, b, c, d in boxes)
    images = [voc.VocImage(Path("p.xml"), "p.jpg", (40, 30), objects)]
    first = find_first_pixel([images])
    assert first == (0 if any(0 in box[:2] for box in boxes) else 1)
    stated = convert_voc(images, ("cat",), "x", first).boxes.stated
    assert stated.tolist() == [[a - first, b - first, c - a + first, d - b + first] for a, b, c, d in boxes]


def test_lists_have_a_name_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "000001 -1\n\n000002  1\n")
    assert read_image_list(path) == ["000001", "000002"]
    for text, message in (
        ("a\nb\na\n", "lists 'a' twice"),
        ("\n", "lists no images"),
        ("../a\n", "is outside the image folder"),
    ):
        with pytest.raises(RequestError, match=message):
            read_image_list(write(path, text))
    path.write_bytes(b"\xff\xff")
    with pytest.raises(RequestError, match="is not a list of image names"):
        read_image_list(path)


@settings(max_examples=150)
@given(st.lists(st.one_of(st.floats().map(str), st.integers().map(str), st.text(max_size=4)), min_size=4, max_size=4))
def test_any_text_for_a_box_is_used_or_left_out_and_never_nan(
    tmp_path_factory: pytest.TempPathFactory, box: list[str]
) -> None:
    thing = voc_object("cat", [escape(side) for side in box]).encode("utf-8", "replace")
    try:
        dataset = read(tmp_path_factory.mktemp("any"), voc_xml("X").encode().replace(b"X", thing), bad_boxes="drop")
    except RequestError as error:
        assert "cannot be read as XML" in str(error)  # control characters
        return
    assert np.isfinite(dataset.boxes).all()
    assert (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all()
    assert (dataset.boxes <= np.tile(dataset.sizes[0], 2)).all()


XML_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8).map(escape)
TAGS = (
    *("annotation", "size", "width", "height", "object", "name"),
    *("bndbox", "xmin", "difficult", "filename", "path", "a"),
)
ANY_XML = st.recursive(
    XML_TEXT, lambda inner: st.lists(st.tuples(st.sampled_from(TAGS), inner), max_size=5).map(
        lambda parts: "".join(f"<{tag}>{content}</{tag}>" for tag, content in parts)), max_leaves=12
)  # fmt: skip


@settings(max_examples=200)
@given(ANY_XML, st.sampled_from(("", voc_object("cat", (1, 1, 5, 5)))), st.booleans())
def test_any_xml_is_read_or_refused_and_nothing_outside_is_named(
    tmp_path_factory: pytest.TempPathFactory, content: str, thing: str, picture: bool
) -> None:
    folder = tmp_path_factory.mktemp("any") / "images"
    photo(folder / ("p.jpg" if picture else "other.jpg"))
    write(folder / "p.xml", f"<annotation>{content}{thing}</annotation>")
    try:
        dataset = build_dataset(locate(folder), folder, bad_boxes="drop")
    except RequestError:
        return
    assert (dataset.sizes >= 1).all()
    assert np.isfinite(dataset.boxes).all()
    assert (folder / dataset.files[0]).resolve().is_relative_to(folder.resolve())


@settings(max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_are_refused_in_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "p.xml"
    path.write_bytes(b"<annotation>" + content)
    with pytest.raises(RequestError):
        read_voc([path], path.parent, path.parent)
