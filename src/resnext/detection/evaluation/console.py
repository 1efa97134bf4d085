"""Print a detection evaluation."""

from rich.table import Table
from rich.text import Text

from resnext.detection.evaluation.coco_eval import STATS, DetectionEvaluation
from resnext.errors import escape_unprintable
from resnext.screen import make_screen
from resnext.text import format_share

METRICS = (
    "AP {ap}  AP50 {ap50}  AP75 {ap75}   small {ap_small}  medium {ap_medium}  large {ap_large}\n"
    "AR of 1, 10, {most} detections {ar1}, {ar10}, {ar100}   small {ar_small}  medium {ar_medium}  large {ar_large}"
)


def print_detection_evaluation(evaluation: DetectionEvaluation) -> None:
    """Print COCO's twelve metrics and one row per class."""
    console = make_screen()
    e = evaluation
    metrics = METRICS.format(most=e.max_detections, **{name: format_share(getattr(e, name)) for name in STATS})
    size = f"{e.n:,} images of {e.name}, {e.boxes:,} boxes, {e.detections.n:,} detections"
    console.print(f"{metrics}\n{size}", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for head in ("class", "images", "boxes", "AP", "AP50", "AP75", "AR"):
        table.add_column(head, justify="left" if head == "class" else "right")
    for one in e.per_class:
        numbers = map(format_share, (one.ap, one.ap50, one.ap75, one.ar100))
        table.add_row(Text(escape_unprintable(one.name)), f"{one.images:,}", f"{one.boxes:,}", *numbers)
    console.print(table)
