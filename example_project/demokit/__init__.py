"""What the demo is made of: processes, the election as seen in Redis, and lines on the screen."""
