"""`python -m bot` is `flow`."""

import sys

from bot.cli import main

sys.exit(main())
