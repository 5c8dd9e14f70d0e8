"""``python -m pel_core.conformance DIR``"""

import sys

from pel_core.conformance import main

sys.exit(main())
