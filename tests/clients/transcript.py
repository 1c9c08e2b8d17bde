"""What the Python programs share: one line a call, `call | result`, with ids between signs that run.py numbers."""

import asyncio
import queue
import threading

SECONDS = 10


def text(value):
    if isinstance(value, str):
        return value
    return bytes(value).decode("utf-8", "backslashreplace")


def lease(number):
    return f"<lease:{number}>" if number else "0"


def error(e):
    words = " ".join(str(e).split())
    return f"error {type(e).__name__}: {words}"


def line(call, result):
    print(f"{call} | {result}", flush=True)


async def acall(call, awaitable, show=lambda r: "ok"):
    """Awaits, prints what came of it, and hands it on (`None` after an error)."""
    try:
        result = await asyncio.wait_for(awaitable, SECONDS)
        line(call, show(result))
        return result
    except Exception as e:
        line(call, error(e))


def call(name, f, show=lambda r: "ok"):
    try:
        result = f()
        line(name, show(result))
        return result
    except Exception as e:
        line(name, error(e))


class Events:
    """Reads a blocking iterator in a thread, so that waiting for the next one has a limit."""

    def __init__(self, iterator):
        self.queue = queue.Queue()
        self.thread = threading.Thread(target=self._read, args=(iterator,), daemon=True)
        self.thread.start()

    def _read(self, iterator):
        try:
            for event in iterator:
                self.queue.put(event)
            self.queue.put(StopIteration("the end"))
        except Exception as e:
            self.queue.put(e)

    def next(self, seconds=SECONDS):
        event = self.queue.get(timeout=seconds)
        if isinstance(event, Exception):
            raise event
        return event
