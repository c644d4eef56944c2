"""Redis: scripts, codec, connections and stores. Knows no rule of the election."""
