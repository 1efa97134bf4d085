"""Pictures of every kind, damaged ones made of them, and what an answer to one costs the server process."""

import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from PIL import Image

from tests.serving.processes import ServerProcess, make_request, read_answer


class Cost(NamedTuple):
    """An answer, and what it cost."""

    status: int
    cpu_seconds: float  # of the whole process, in steps of 10 ms
    memory: int  # bytes of resident memory beyond those before, at the highest


def ask_cost(server: ServerProcess, data: bytes, path: str = "/v1/predict", *headers: str) -> Cost:
    """Send a body and measure what the answer costs."""
    server.forget_peak()
    cpu, memory = server.read_cpu(), server.read_rss()
    with server.connect() as connection:
        connection.sendall(make_request(data, path, *headers))
        status, _ = read_answer(connection)
    return Cost(status, server.read_cpu() - cpu, max(0, server.read_peak() - memory))


def make_seeds() -> dict[str, bytes]:
    """Make a small picture of each kind that the decoders tell apart."""
    noise = Image.effect_noise((50, 40), 90).convert("RGB")
    tags = Image.Exif()
    tags[0x0112] = 6
    frames = [Image.effect_noise((20, 16), 50 + 20 * n).convert("RGB") for n in range(3)]
    kinds: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "JPEG": (noise, "JPEG", {}),
        "JPEG with EXIF and profile": (noise, "JPEG", {"exif": tags, "icc_profile": bytes(300)}),
        "JPEG with restart markers": (noise, "JPEG", {"restart_marker_blocks": 2, "subsampling": 0}),
        "JPEG, progressive": (noise, "JPEG", {"progressive": True}),
        "JPEG, grey": (noise.convert("L"), "JPEG", {}),
        "JPEG, CMYK": (noise.convert("CMYK"), "JPEG", {}),
        "JPEG of several pictures": (frames[0], "MPO", {"save_all": True, "append_images": frames[1:]}),
        "PNG": (noise, "PNG", {}),
        "PNG with alpha and text": (noise.convert("RGBA"), "PNG", {"exif": tags, "icc_profile": bytes(300)}),
        "PNG with a palette": (noise.convert("P"), "PNG", {"transparency": 3}),
        "PNG of 16 bits": (noise.convert("I;16"), "PNG", {}),
        "PNG of one bit": (noise.convert("1"), "PNG", {}),
        "PNG, animated": (frames[0], "PNG", {"save_all": True, "append_images": frames[1:]}),
        "WebP": (noise, "WEBP", {}),
        "WebP, lossless": (noise, "WEBP", {"lossless": True}),
        "WebP with alpha and EXIF": (noise.convert("RGBA"), "WEBP", {"exif": tags, "icc_profile": bytes(300)}),
        "WebP, animated": (frames[0], "WEBP", {"save_all": True, "append_images": frames[1:]}),
        "GIF": (noise.convert("P"), "GIF", {"interlace": 1}),
        "GIF, animated": (frames[0], "GIF", {"save_all": True, "append_images": frames[1:], "loop": 0}),
    }
    found = {}
    for name, (image, kind, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """Damage a picture: change, insert, delete or repeat bytes, set extreme numbers, cut it, or splice in another."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 12))):
        at = chance.randrange(len(changed) if chance.randrange(3) else min(len(changed), 80))  # headers more often
        way, width = chance.randrange(8), chance.choice((1, 2, 4))
        if way < 2:
            changed[at] = chance.randrange(256)
        elif way == 2:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 3:
            changed[at : at + width] = chance.choice((b"\0", b"\xff", b"\x7f")) * width
        elif way == 4:
            changed[at:at] = chance.randbytes(chance.randrange(1, 20))
        elif way == 5:
            del changed[at : at + chance.randrange(1, 40)]
        elif way == 6:
            changed[at:at] = changed[at : at + chance.randrange(1, 200)] * chance.randrange(1, 9)
        else:
            other = chance.choice(others)
            changed[at:] = other[chance.randrange(len(other)) :] if chance.randrange(2) else b""
        if not changed:
            return b""
    return bytes(changed)


def mutate_many(count: int, seed: int = 0) -> Iterator[bytes]:
    """Make ``count`` damaged pictures, of all kinds in turn."""
    seeds, chance = list(make_seeds().values()), random.Random(seed)
    for number in range(count):
        yield mutate(seeds[number % len(seeds)], seeds, chance)


def send_mutated(server: ServerProcess, pictures: Iterable[bytes]) -> Counter[int]:
    """Send pictures over one connection; count the statuses. Raises AssertionError for an answer that is not ours."""
    statuses: Counter[int] = Counter()
    with server.connect() as connection:
        for data in pictures:
            connection.sendall(make_request(data, "/v1/predict", "content-type: image/jpeg"))
            status, values = read_answer(connection)
            assert ("predictions" in values) == (status == 200), json.dumps(values)
            assert "<" not in values.get("detail", "")
            statuses[status] += 1
    return statuses
