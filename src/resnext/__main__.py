"""``python -m resnext`` is ``resnext``."""

import sys

from resnext.cli import main

sys.exit(main())
