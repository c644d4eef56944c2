"""What a worker and the beat that it embeds tell each other."""
