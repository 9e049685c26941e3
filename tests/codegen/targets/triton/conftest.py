"""Triton reads how it runs when it is first imported, so what runs in its interpreter runs in a process of its own.

``interpreted/`` is collected only there: see ``test_interpreter.py``.
"""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
