"""``python -m pel_core``"""

import sys

from pel_core.cli import main
from pel_core.signals import exit_cleanly

exit_cleanly()
sys.exit(main())
