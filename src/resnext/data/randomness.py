"""Where every random choice of a run gets its seed: a pure function of (seed, epoch, index).

Because nothing is drawn from a stream that others draw from, any number of workers, any start method and any
point of resuming see the same images in the same order.
"""

import operator

from resnext.errors import RequestError

# Third keys that are no image index (those are 0 or more): what else an epoch needs a seed for.
ORDER = -1  # the order of the images
MIX = -2  # mixup and cutmix; the step is a fourth key
LEFT_OUT = -3  # which images an epoch leaves out; the same for all epochs, so the second key is 0

_MASK = 2**64 - 1


def seed_of(*keys: int) -> int:
    """A seed from 0 to 2**63 - 1 for these keys, the same on every platform and in every version.

    A chain of the splitmix64 finaliser (Steele, Lea and Flood 2014), which is a bijection of 64 bits: the
    order and the number of keys matter. Raises RequestError for a key that does not fit in 64 signed bits.
    """
    state = _scramble(len(keys))
    for key in keys:
        value = operator.index(key)
        if not -(2**63) <= value < 2**63:
            raise RequestError(f"seed {value} is too large; seeds go up to {2**63 - 1}")
        state = _scramble(state ^ _scramble(value & _MASK))
    return state >> 1


def _scramble(value: int) -> int:
    """One step of splitmix64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
