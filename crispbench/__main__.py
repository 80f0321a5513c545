"""`python -m crispbench` is the command `crispbench`."""

import sys

from harness.cli import main

sys.exit(main())
