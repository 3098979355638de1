"""From the row store to Redis: what changed, in order, every few seconds."""
