"""What no result depends on: errors, progress, timings, scratch, finding entries; no stage depends on it."""
