"""`python -m harness` is `crispbench`."""

import sys

from harness.cli import main

sys.exit(main())
