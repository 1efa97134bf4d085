"""Format how images are prepared. Without torch."""

from collections.abc import Mapping
from typing import Any


def format_view(view: Mapping[str, Any]) -> str:
    """Format how images are prepared, from a protocol or ``Preprocessing.to_dict()``.

    A protocol without a view means the centre crop.
    """
    size = f"{view.get('image_size')}×{view.get('image_size')}"
    kind, _, scales = str(view.get("view") or "center").removesuffix("+flip").partition(":")
    flipped = " and its mirror image" if str(view.get("view")).endswith("+flip") else ""
    if kind == "ten-crop":
        how = f"shorter side {view.get('resize')}, ten crops {size}: centre and corners, each mirrored too"
    elif kind == "dense":
        how = f"whole image{flipped} at shorter side {scales.replace(',', ', ')}, every window of {size}"
    else:
        how = {
            "crop": f"shorter side {view.get('resize')}, centre crop {size}",
            "squash": f"squashed to {size}",
            "pad": f"padded to {size}",
        }.get(str(view.get("fit")), size)
        how += flipped
    combined = f", mean of {view['combine']}" if view.get("combine") else ""
    return f"{how}{combined}, {view.get('interpolation')}"
