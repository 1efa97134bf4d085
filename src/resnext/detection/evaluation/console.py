"""Print a detection evaluation."""

from rich.table import Table
from rich.text import Text

from resnext.detection.evaluation.coco_eval import DetectionEvaluation
from resnext.errors import escape_unprintable
from resnext.screen import make_screen
from resnext.text import format_share


def print_detection_evaluation(evaluation: DetectionEvaluation) -> None:
    """Print COCO's twelve metrics and one row per class."""
    console = make_screen()
    e = evaluation
    console.print(
        f"AP {format_share(e.ap)}  AP50 {format_share(e.ap50)}  AP75 {format_share(e.ap75)}   small "
        f"{format_share(e.ap_small)}  medium "
        f"{format_share(e.ap_medium)}  large {format_share(e.ap_large)}\nAR of 1, 10, {e.max_detections} "
        "detections "
        f"{format_share(e.ar1)}, {format_share(e.ar10)}, {format_share(e.ar100)}   small "
        f"{format_share(e.ar_small)}  medium "
        f"{format_share(e.ar_medium)}  large {format_share(e.ar_large)}\n"
        f"{e.n:,} images of {e.name}, {e.boxes:,} boxes, {e.detections.n:,} detections",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("class", "images", "boxes", "AP", "AP50", "AP75", "AR"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for one in e.per_class:
        numbers = map(format_share, (one.ap, one.ap50, one.ap75, one.ar100))
        table.add_row(Text(escape_unprintable(one.name)), f"{one.images:,}", f"{one.boxes:,}", *numbers)
    console.print(table)
