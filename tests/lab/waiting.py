"""Waiting for something to be true, with a limit."""

import time


def wait_until(condition, seconds, what):
    """Returns the condition's first true value; raises TimeoutError naming WHAT after SECONDS."""
    limit = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > limit:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.005)
