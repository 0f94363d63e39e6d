"""``python -m trio_broker`` is the same as ``trio-broker``."""

from __future__ import annotations

from trio_broker.cli.main import main

if __name__ == "__main__":
    main()
