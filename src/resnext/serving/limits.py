"""The limits of the server: what one request may hold, and what all of them together may."""

from dataclasses import dataclass

MEGA = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes, counts and times beyond which a request is refused."""

    body_bytes: int = 20 * MEGA  # of one request
    total_body_bytes: int = 256 * MEGA  # of all requests that are read or computed at the same time
    images: int = 16  # of one request
    picture_pixels: int = 64 * MEGA  # of one picture, as its header says; phones make 50
    small_size: int = MEGA  # pixels or bytes; a decoding thread is kept free for what is not larger
    large_pixels: int = 16 * MEGA  # pictures above are decoded one at a time, so that they do not stop the others
    total_pixels: int = 128 * MEGA  # of all pictures that are decoded at the same time
    scan_pixels: int = 256 * MEGA  # scans x pixels of a JPEG with more scans than ``scans``: the time to decode it
    scans: int = 16  # of a JPEG; progressive ones have about 10
    decode_seconds: float = 10.0  # of a processor, to decode one picture; 64 million pixels take about one to three
    fields: int = 16  # of a form, beside its files
    connections: int = 1024
    max_wait: float = 2.0  # seconds; a request that would wait longer for its turn is refused
    answer_seconds: float = 30.0  # an accepted request that is not answered by then fails
    receive_seconds: float = 10.0  # for the headers and the body of a request to arrive
    keep_alive_seconds: int = 5  # until an idle connection is closed
    drain_seconds: int = 30  # for accepted requests to be answered when the server stops
