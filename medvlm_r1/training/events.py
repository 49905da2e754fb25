"""TensorBoard events, written in step with the run.

``torch.utils.tensorboard.SummaryWriter`` writes from a thread of its own: on a
full disk that thread dies with a traceback on the user's screen. The format
itself is small, and this writes it directly.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from medvlm_r1.files import AppendFile


class EventFile:
    """An ``events.out.tfevents…`` of its own for each start; readers drop earlier files' steps after ``resumed_step``.

    Raises RunError where the folder cannot be written or the disk is full.
    """

    def __init__(self, run_dir: Path, resumed_step: int = 0):
        now = time.time()
        name = f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = AppendFile(run_dir / name)
        self._append(Event(wall_time=now, file_version="brain.Event:2"))
        if resumed_step:
            start = SessionLog(status=SessionLog.START)
            self._append(Event(wall_time=now, step=resumed_step + 1, session_log=start))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write the numbers among ``metrics`` as the scalars of ``step``."""
        numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Close the file; harmless when done twice."""
        self._file.close()

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())
