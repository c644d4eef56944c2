"""What a Django project gets: system checks, and the page "Leader election" of its admin."""
