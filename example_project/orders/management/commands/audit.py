"""``manage.py audit``: were runs lost or doubled?"""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...audit import audit
from ...tally import table


class Command(BaseCommand):
    """Print the counts, and fail if a run was lost or doubled."""

    help = "Counts runs lost and doubled from the recorded executions."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command."""
        tallies = audit()
        self.stdout.write(table(tallies))
        if not all(count.ok for count in tallies):
            raise CommandError("runs were lost or doubled")
