"""Measure what the search for near-duplicates finds: pairs in folders of pictures, and changed copies.

    python tools/measure_near_duplicates.py FOLDER ... [--every N] [--copies 200] [--pairs DIR]

The folder of a picture is its label. With --pairs, each folder's pairs are drawn side by side into DIR/NAME.png, the
least alike first, to look at.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from resnext.data.near_duplicates import NearDuplicate, find_near_duplicates, shrink_picture

EXTENSIONS = (".jpg", ".jpeg", ".png")
SIDE, COLUMNS = 80, 8  # of the drawn pairs


def main() -> None:
    """Print counts for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use every N-th picture only [1]")
    parser.add_argument("--copies", type=int, default=200, metavar="N", help="pictures to change [200]")
    parser.add_argument("--pairs", type=Path, metavar="DIR", help="draw the pairs into this folder")
    args = parser.parse_args()
    for folder in args.folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS)[:: args.every]
        pictures = np.stack([shrink_picture(open_picture(path)) for path in paths])
        found = find_near_duplicates(pictures)
        apart = sum(paths[pair.first].parent != paths[pair.second].parent for pair in found)
        print(f"{folder}: {len(paths):,} pictures, {len(found)} pairs, {apart} in two folders", flush=True)
        if args.pairs and found:
            args.pairs.mkdir(parents=True, exist_ok=True)
            draw_pairs(paths, found[::-1], args.pairs / f"{folder.name}.png")
        rows = np.random.default_rng(0).choice(len(paths), min(args.copies, len(paths)), replace=False)
        for name, change in CHANGES.items():
            print(f"  {name}: {count_found(paths, pictures, rows, change)} of {len(rows)} copies found", flush=True)


def open_picture(path: Path) -> Image.Image:
    """Open a picture with three channels."""
    with Image.open(path) as image:
        return image.convert("RGB")


def compress(image: Image.Image, quality: int) -> Image.Image:
    """Write an image as a JPEG file, and read it."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 40": lambda image: compress(image, 40),
    "JPEG quality 15": lambda image: compress(image, 15),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brightness 0.7": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness 1.4": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "contrast 1.4": lambda image: ImageEnhance.Contrast(image).enhance(1.4),
    "saturation 0.5": lambda image: ImageEnhance.Color(image).enhance(0.5),
    "grey": lambda image: image.convert("L"),
}


def count_found(
    paths: Sequence[Path], pictures: np.ndarray, rows: np.ndarray, change: Callable[[Image.Image], Image.Image]
) -> int:
    """Count the changed copies that are found among the ``pictures``, of at most 3,000 others."""
    copies = [shrink_picture(change(open_picture(paths[row]))) for row in rows]
    usable = [(row, copy) for row, copy in zip(rows, copies, strict=True) if copy.shape == pictures.shape[1:]]
    if not usable:  # pictures that got smaller than the small ones
        return 0
    others = np.setdiff1d(np.arange(len(pictures)), rows)[:3000]
    originals = pictures[[row for row, _ in usable]]
    found = find_near_duplicates(np.concatenate([originals, np.stack([copy for _, copy in usable]), pictures[others]]))
    return sum(pair.second == pair.first + len(usable) for pair in found if pair.first < len(usable))


def draw_pairs(paths: Sequence[Path], pairs: Sequence[NearDuplicate], out: Path) -> None:
    """Draw pairs side by side."""
    page = Image.new("RGB", (COLUMNS * (2 * SIDE + 10), (SIDE + 5) * -(-len(pairs) // COLUMNS)))
    for number, pair in enumerate(pairs):
        left, top = number % COLUMNS * (2 * SIDE + 10), number // COLUMNS * (SIDE + 5)
        for shift, row in ((0, pair.first), (SIDE, pair.second)):
            page.paste(open_picture(paths[row]).resize((SIDE, SIDE)), (left + shift, top))
    page.save(out)


if __name__ == "__main__":
    main()
