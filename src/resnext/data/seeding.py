"""Seeds of random choices: each is a pure function of (seed, epoch, index).

No random generator is shared. So the images and their order are the same for any number of workers, for any start
method, and for a run that was resumed at any step.
"""

import operator

from resnext.errors import RequestError

# Values of the third key for purposes other than an image; an image index is 0 or more.
ORDER_KEY = -1  # the order of the images in an epoch
LEFT_OUT_KEY = -3  # which images are left out; the same in all epochs, so the second key is 0
CLASS_ORDER_KEY = -4  # the order of the images in a class, in balanced sampling; the second key is the class

_MASK_64 = 2**64 - 1


def derive_seed(*keys: int) -> int:
    """Derive a seed from 0 to 2**63 - 1 from these keys, the same on every platform and in every version.

    Chains the splitmix64 finaliser (Steele, Lea and Flood 2014), a bijection of 64 bits. The order and the number of
    keys matter. Raises RequestError for a key that does not fit in 64 signed bits.
    """
    state = _splitmix64(len(keys))
    for key in keys:
        value = operator.index(key)
        if not -(2**63) <= value < 2**63:
            raise RequestError(f"seed {value} is too large; seeds go up to {2**63 - 1}")
        state = _splitmix64(state ^ _splitmix64(value & _MASK_64))
    return state >> 1


def _splitmix64(value: int) -> int:
    """Do one step of splitmix64."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK_64
    return value ^ (value >> 31)
