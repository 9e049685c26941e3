"""Triton reads its mode when it is imported, so tests in its interpreter run in a process of their own.

``interpreted/`` is collected only there: see ``test_interpreter.py``.
"""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
