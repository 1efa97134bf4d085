"""Fuzz the fast JPEG decoder with randomly damaged files: it must not crash, nor decode what Pillow refuses.

The files are those of the folder, or generated ones without a folder. The current file is written to --keep.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import MAX_PIXELS, read_image
from resnext.data.decode.turbojpeg import CropSpec, TurboJpegDecoder, load_decoder


def make_files(rng: np.random.Generator) -> list[bytes]:
    """Make small files of all kinds."""
    files = []
    for number in range(24):
        width, height = rng.integers(9, 120, 2)
        pixels = np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
        image = Image.fromarray((pixels + rng.integers(0, 20, pixels.shape)).clip(0, 255).astype(np.uint8))
        file = io.BytesIO()
        image.convert("L" if number % 7 == 6 else "RGB").save(
            file,
            "JPEG",
            quality=int(rng.integers(30, 100)),
            subsampling=number % 3,
            progressive=number % 4 == 3,
            restart_marker_blocks=2 * (number % 5 == 4),
        )
        files.append(file.getvalue())
    return files


def break_file(file: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file: change or delete bytes, insert markers, or cut its end."""
    data = bytearray(file)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(2, len(data)))
        way = rng.integers(0, 6)
        if way < 3:
            data[at] = int(rng.integers(0, 256))
        elif way == 3:
            data[at : at + 2] = bytes((0xFF, int(rng.integers(0xC0, 256))))
        elif way == 4:
            del data[at : at + int(rng.integers(1, 40))]
        elif rng.integers(0, 4) == 0:
            del data[at:]
        if len(data) < 4:
            break
    return bytes(data)


def compare_decoders(library: TurboJpegDecoder, file: bytes, rng: np.random.Generator) -> str:
    """Compare the fast decoder with Pillow: return "left to Pillow", "same ...", or what is wrong."""
    header = library.read_header(file)
    if not header.is_plain or header.has_metadata or header.width * header.height > min(MAX_PIXELS, 4_000_000):
        return "left to Pillow"
    w, h = int(rng.integers(1, header.width + 1)), int(rng.integers(1, header.height + 1))
    left, top = int(rng.integers(0, header.width - w + 1)), int(rng.integers(0, header.height - h + 1))
    out = torch.zeros(3, 32, 32, dtype=torch.uint8)
    if not library.decode_crop(file, CropSpec((left, top, w, h), True), out):
        return "left to Pillow"
    try:
        image = read_image(io.BytesIO(file))
    except BadImageError as error:
        return f"taken, but {error}"
    if image.size != (header.width, header.height):
        return f"taken as {header}, but {image.size}"
    pixels = np.asarray(image.crop((left, top, left + w, top + h)).resize((32, 32), Image.Resampling.BICUBIC))
    far = np.abs(pixels.transpose(2, 0, 1).astype(int) - out.numpy()).max()
    scaled = min(w, h) >= 128
    return "same" if far <= 1 or scaled else "same file, other pixels"


def main() -> int:
    """Run the fuzzer; exit status 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    files = [p.read_bytes() for p in sorted(args.folder.rglob("*.JPEG"))] if args.folder else make_files(rng)
    library = load_decoder()
    if library is None:
        return 2
    counts: dict[str, int] = {}
    for number in range(args.files):
        file = break_file(files[int(rng.integers(0, len(files)))], rng)
        if args.keep:
            args.keep.write_bytes(file)
        answer = compare_decoders(library, file, rng)
        wrong = answer.startswith("taken")
        counts[answer if not wrong else "wrong"] = counts.get(answer if not wrong else "wrong", 0) + 1
        if wrong:
            print(f"file {number}: {answer}")
    print(counts)
    return 1 if "wrong" in counts else 0


if __name__ == "__main__":
    sys.exit(main())
