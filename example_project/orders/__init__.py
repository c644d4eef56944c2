"""An app with periodic tasks. Each of them records that it ran, and for which due moments."""
