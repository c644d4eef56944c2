"""The ``leader …`` commands: what is seen from outside, and what people may ask for."""
