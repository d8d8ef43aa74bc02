import sys

from expert_tail.cli import main

sys.exit(main())
