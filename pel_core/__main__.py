"""``python -m pel_core``"""

import sys

from pel_core import warm

if (status := warm.ask(sys.argv[1:])) is not None:
    sys.exit(status)

from pel_core.cli import main
from pel_core.signals import exit_cleanly

exit_cleanly()
sys.exit(main())
