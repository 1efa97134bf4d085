"""The fixture of the fast decoder."""

from tests.data.conftest import decoder as decoder
