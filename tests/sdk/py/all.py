"""Every session of the Python SDK: `python all.py [part of a name]`, with UPSTASH_BOX_BASE_URL and UPSTASH_BOX_API_KEY set."""

import sys

import session
import sessions.boxes  # noqa: F401
import sessions.life  # noqa: F401
import sessions.labels  # noqa: F401
import sessions.execs  # noqa: F401
import sessions.streams  # noqa: F401
import sessions.live  # noqa: F401
import sessions.files  # noqa: F401
import sessions.git  # noqa: F401
import sessions.runs  # noqa: F401
import sessions.snapshots  # noqa: F401
import sessions.errors  # noqa: F401

sys.exit(session.main())
