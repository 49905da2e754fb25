"""Several servers as one: whoever is ready and least busy is asked, a dead one is routed around, and rejoins once it has the weights.

A server is ready, is being given weights, or is lost. Only a sync, or a moment in which all are lost, brings a lost one back:
then the newest weights are given to it, and what takes them is ready again.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition, Lock
from typing import TypeVar

from medvlm_r1.errors import EngineError
from medvlm_r1.rollout.calling import PASSING, Endpoint, Fault

T = TypeVar("T")
Give = Callable[[Sequence[Endpoint]], Mapping[Endpoint, Fault]]
"""Gives all of these the newest weights; returns who did not take them, and why."""

ATTEMPTS = 5  # of one prompt, each on a server that was ready: what kills so many is no accident
PATIENCE_S = 600.0  # how long nobody may be there: a server takes minutes to start
PAUSE_S = 1.0
READY, GIVEN, LOST = "ready", "given weights", "lost"


@dataclass
class Server:
    """One server as its pool sees it.

    >>> Server(Endpoint("http://gpu01:8000", "")).state
    'lost'
    """

    endpoint: Endpoint
    state: str = LOST
    busy: int = 0
    why: str = "it has not been given weights yet"


class Pool:
    """Who is asked. ``say`` hears of servers that are lost or come back; ``wait`` lets a test skip the pauses."""

    def __init__(self, endpoints: Sequence[Endpoint], give: Give, say: Callable[[str], None], wait: Callable[[float], None] = time.sleep) -> None:
        self.servers = [Server(endpoint) for endpoint in endpoints]
        self.say, self._give, self._wait = say, give, wait
        self._changed, self._giving = Condition(), Lock()
        self._is_closed, self._has_begun = False, False

    @property
    def width(self) -> int:
        """Requests that all of them take at a time."""
        return sum(server.endpoint.concurrency for server in self.servers)

    @property
    def ready(self) -> list[Server]:
        """Those that may be asked."""
        return [server for server in self.servers if server.state == READY]

    def close(self) -> None:
        """Whoever asks from now on, or waits, gets an EngineError."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def renew(self) -> None:
        """Give the newest weights to all, the lost ones too; waits while nobody takes them. Raises EngineError where that lasts too long."""
        with self._giving:
            self._renew(self.servers)
        self._revive()

    def run(self, ask: Callable[[Endpoint], T]) -> T:
        """What a ready server answers; where it fails, what the next one does. Raises EngineError where none can."""
        for _ in range(ATTEMPTS):
            server = self._pick()
            try:
                return ask(server.endpoint)
            except Fault as error:
                fault = error
                self._check(server, fault)
            finally:
                self._release(server)
        raise EngineError(f"{ATTEMPTS} servers were asked one after another and failed, the last was {server.endpoint.url}: {fault}")

    def _check(self, server: Server, fault: Fault) -> None:
        """Lose the server, or raise where another would refuse as well."""
        self._check_open()
        if fault.status not in (0, 200, *PASSING):
            hint = "; start it with the command that medvlm-r1 launch --rollout prints" if fault.status == 404 else ""
            raise EngineError(f"{server.endpoint.url} refuses: {fault}{hint}") from fault
        with self._changed:
            if server.state == READY:
                self._lose(server, str(fault))
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("the run has ended, and asks no more")

    def _lose(self, server: Server, why: str) -> None:
        server.state, server.why = LOST, why
        self.say(f"warning: {server.endpoint.url} is lost ({why}); going on with {len(self.ready)} of {len(self.servers)}")

    def _pick(self) -> Server:
        while True:
            self._check_open()
            with self._changed:
                while not self._is_closed and any(server.state != LOST for server in self.servers):
                    free = [server for server in self.ready if server.busy < server.endpoint.concurrency]
                    if free:
                        chosen = min(free, key=lambda server: server.busy)
                        chosen.busy += 1
                        return chosen
                    self._changed.wait()
            self._revive()

    def _release(self, server: Server) -> None:
        with self._changed:
            server.busy -= 1
            self._changed.notify_all()

    def _revive(self) -> None:
        """Until one is ready; of many that wait, one tries for all."""
        until = time.monotonic() + PATIENCE_S
        with self._giving:
            while not self.ready:
                self._check_open()
                if time.monotonic() > until:
                    told = "; ".join(f"{server.endpoint.url}: {server.why}" for server in self.servers)
                    raise EngineError(f"no server writes rollouts since {PATIENCE_S:.0f} s ({told}); start one, and go on with --resume")
                self._renew(self.servers)
                if not self.ready:
                    self._wait(PAUSE_S)

    def _renew(self, servers: Sequence[Server]) -> None:
        before = {id(server): server.state for server in servers}
        with self._changed:
            for server in servers:
                server.state = GIVEN
        faults: Mapping[Endpoint, Fault] = {server.endpoint: Fault("its weights could not be given") for server in servers}
        try:
            faults = self._give([server.endpoint for server in servers])
        finally:
            with self._changed:
                for server in servers:
                    self._settle(server, before[id(server)], faults.get(server.endpoint))
                self._has_begun = True
                self._changed.notify_all()

    def _settle(self, server: Server, before: str, fault: Fault | None) -> None:
        if fault is None:
            server.state = READY
            if before == LOST and self._has_begun:
                self.say(f"{server.endpoint.url} is back, with the newest weights")
        elif before == READY or not self._has_begun:
            self._lose(server, str(fault))
        else:
            server.state, server.why = LOST, str(fault)
