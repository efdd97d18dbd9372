import sys

from prefect_linkerd.cli import main

sys.exit(main())
