"""The protocol line names views, networks and allowed classes, also for incomplete files."""

from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.output.protocol import build_protocol, describe_member, format_protocol, format_view
from resnext.evaluation.views import Views

P = Preprocessing(image_size=224, resize=256, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)


def about(view: str = "center", combine: str = "logits", **more: object) -> dict[str, object]:
    options: dict[str, object] = {"weights": "net.t7", **more}
    looks = Views.parse(view, combine)
    return build_protocol(P, data="val", split="every image", device="cpu", views=looks, **options)  # type: ignore[arg-type]


def test_every_view_has_its_words() -> None:
    center = "shorter side 256, centre crop 224×224"
    assert format_view(about()) == f"{center}, bicubic"
    assert format_view(about("center+flip")) == f"{center} and its mirror image, mean of logits, bicubic"
    assert format_view(about("ten-crop", "probabilities")) == (
        "shorter side 256, ten crops 224×224: centre and corners, each mirrored too, mean of probabilities, bicubic"
    )
    assert format_view(about("dense:256,384+flip")) == (
        "whole image and its mirror image at shorter side 256, 384, every window of 224×224, mean of logits, bicubic"
    )
    assert format_view(about("dense:256")).startswith("whole image at shorter side 256, every window of 224×224,")


def test_a_protocol_from_before_there_were_views_is_the_centre_crop() -> None:
    old = {"data": "val", "image_size": 224, "resize": 256, "fit": "crop", "interpolation": "bicubic"}
    old |= {"precision": "fp32", "split": "s", "checkpoint": "best", "step": 1200, "weights": "model.safetensors"}
    assert format_protocol(old, 10) == (
        "10 images of val · shorter side 256, centre crop 224×224, bicubic · fp32 · split: s · checkpoint best "
        "(step 1,200)"
    )
    assert format_protocol(about(), 10_000).startswith("10,000 images of val · ")
    assert format_protocol(about(), 1).endswith("split: every image · weights net.t7")
    assert format_view(about() | {"fit": "squash"}) == "squashed to 224×224, bicubic"
    assert format_view(P.to_dict()) == "shorter side 256, centre crop 224×224, bicubic"


def test_restrictions_and_ensembles_are_named_with_every_network() -> None:
    members = [describe_member(P, "a.t7", None, None), describe_member(P, "runs/b", "best", 1200)]
    line = format_protocol(about(ensemble=members, ensemble_combine="probabilities", restricted_to="1,000 classes"), 5)
    assert "predictions restricted to 1,000 classes" in line
    assert line.endswith("ensemble of 2 (mean of probabilities): weights a.t7, runs/b checkpoint best (step 1,200)")
    assert line.count("centre crop") == 1
    smaller = Preprocessing(image_size=176, resize=200, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    mixed = about("center+flip", ensemble=[members[0], describe_member(smaller, "c.t7", None, None)])
    seen = format_protocol(mixed, 5)
    assert "centre crop 224×224 and its mirror image, mean of logits, bicubic | shorter side 200, " in seen


def test_a_damaged_protocol_does_not_break_the_line() -> None:
    assert "images of None" in format_protocol({"ensemble": [3, "x"], "view": 5, "combine": 7}, 1)
    assert format_protocol({"ensemble": "x", "view": "dense:"}, 1)
