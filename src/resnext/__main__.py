"""Run the command line: ``python -m resnext``."""

import sys

from resnext.cli import main

sys.exit(main())
