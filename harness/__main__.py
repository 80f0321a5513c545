"""`python -m harness` is the command `crispbench`."""

import sys

from harness.cli import main

sys.exit(main())
