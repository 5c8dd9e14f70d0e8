"""``python -m pel_core``"""

import sys

from pel_core.cli import main

sys.exit(main())
