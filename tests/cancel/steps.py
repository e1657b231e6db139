"""Cancelling at a moment that is counted, not timed."""

import trio


class CancelAt(trio.abc.Instrument):
    """Cancels a scope after so many task steps of the whole run."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self.scope = scope
        self.left = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()
