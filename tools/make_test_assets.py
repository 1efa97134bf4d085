"""Pack the small files of Torch7 that tests need everywhere: ``python tools/make_test_assets.py shared/data/t7``.

Torch7's own serializer wrote them for this project; with them are reference outputs and a list of what is hostile.
Larger files of the same folder are tested only where the folder is beside the checkout. The same files give the same
archive, byte for byte.
"""

import argparse
import io
import lzma
import tarfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests" / "assets" / "torch7.tar.xz"
PATTERNS = ("basics*", "hostile/*", "B_cifar11_nn_*", "C_cifar11_dpt_basic_*", "checkpoint_C_cifar29/latest.t7")
MAX_BYTES = 600_000  # of the archive


def pack(folder: Path, target: Path) -> int:
    """Write the files that match PATTERNS, sorted and without dates or owners; return their number."""
    files = sorted({file for pattern in PATTERNS for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise SystemExit(f"{folder} has no files of Torch7")
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in files:
            entry = tarfile.TarInfo(file.relative_to(folder).as_posix())
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)
    packed = lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    if len(packed) > MAX_BYTES:
        raise SystemExit(f"{len(packed):,} bytes are more than {MAX_BYTES:,}: leave out a file")
    target.write_bytes(packed)
    return len(files)


def main() -> None:
    """Pack the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the files of Torch7")
    parser.add_argument("--out", type=Path, default=TARGET, help="archive to write [%(default)s]")
    args = parser.parse_args()
    count = pack(args.folder, args.out)
    print(f"{args.out}: {count} files in {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
