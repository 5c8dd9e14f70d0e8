"""``python -m pel_core``"""

import signal
import sys

from pel_core.cli import main

# A scheduler's SIGTERM unwinds like an interruption, so that temporary files are removed.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(main())
