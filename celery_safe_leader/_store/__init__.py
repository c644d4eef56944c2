"""The election in Redis: scripts, codec, connections and stores. Decides nothing."""
