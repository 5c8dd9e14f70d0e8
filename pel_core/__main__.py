"""``python -m pel_core``"""

import sys

from pel_core.fork_server import client

if (status := client.ask(sys.argv[1:])) is not None:
    sys.exit(status)

from pel_core.cli.main import main
from pel_core.common.signals import exit_cleanly

with exit_cleanly():
    sys.exit(main())
