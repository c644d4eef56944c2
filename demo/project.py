"""The example project, loaded into this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "example_project"


def load() -> None:
    """Set up the project's Django, after which its models can be imported."""
    import django

    sys.path.insert(0, str(FOLDER))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    django.setup()
