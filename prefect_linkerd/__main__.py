import sys

from prefect_linkerd.cli.app import main

sys.exit(main())
