"""Python objectives: processes and executors, timeouts, retries."""
