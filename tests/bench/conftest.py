"""The fast decoder, for the bench of feeding."""

from tests.data.conftest import decoder as decoder
