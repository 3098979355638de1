"""A connection to Redis that ends its user after so many commands: a publisher that is killed, at a chosen place."""

from typing import Any, ClassVar

import redis


class Stopped(BaseException):
    """The publisher ends here, as with SIGKILL: nobody catches it, nothing is tidied up."""


class CountedConnection(redis.Connection):
    """A connection that is the end of its user once ``left`` commands have gone out."""

    left: ClassVar[list[int]] = [10**9]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Sent first: Redis does it, whether or not somebody waits for the answer."""
        super().send_packed_command(command, check_health=check_health)
        self.left[0] -= 1
        if self.left[0] < 0:
            raise Stopped
