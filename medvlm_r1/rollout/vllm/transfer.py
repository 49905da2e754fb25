"""How servers get new weights from GPU to GPU, by vLLM's own weight transfer: NCCL to other cards, CUDA IPC on the same one.

**Never run**: there was no GPU. Written against vLLM 0.32 (``vllm.distributed.weight_transfer``), which must be installed beside the
trainer for it; what ran is ``weights.ByFile``. Over IPC vLLM pickles its handles, so its servers must trust whoever reaches them.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from medvlm_r1.errors import ConfigError, install
from medvlm_r1.models import adapt
from medvlm_r1.rollout.calling import Endpoint, Fault, call, order
from medvlm_r1.rollout.vllm.weights import reset


class Client:
    """Several servers as the one that vLLM's trainer side speaks to; the ranks of each lie behind those of the servers before it."""

    def __init__(self, clients: Sequence[Any], sizes: Sequence[int]) -> None:
        self.clients, self.sizes = clients, sizes

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Every server joins the group at its own offset, where there is one."""
        offsets = [sum(self.sizes[:n]) for n in range(len(self.sizes))]
        own = [init_info | ({"rank_offset": init_info["rank_offset"] + n} if "rank_offset" in init_info else {}) for n in offsets]
        self._all(lambda client, info: client.init_weight_transfer_engine(info), own)

    def start_weight_update(self) -> None:
        """See vLLM's VLLMWeightSyncClient, here and below."""
        self._all(lambda client, _: client.start_weight_update())

    def update_weights(self, update_info: Any) -> None:
        """All at once: each waits for the broadcast."""
        self._all(lambda client, _: client.update_weights(update_info))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """They are named later, once the caches are empty."""
        self._all(lambda client, _: client.finish_weight_update())

    def _all(self, work: Callable[[Any, Any], None], own: Sequence[Any] = ()) -> None:
        with ThreadPoolExecutor(len(self.clients)) as threads:
            list(threads.map(work, self.clients, own or [None] * len(self.clients)))


class ByTransfer:
    """See Weights. A server that was lost rejoins at a sync: between two the trainer's weights are moving."""

    def __init__(self, backend: str, pause: str) -> None:
        self.backend, self.pause = backend, pause
        self._engine: Any = None
        self._joined: list[Endpoint] = []
        self._model: Any = None
        self._label = ""

    def take(self, policy: Any, label: str) -> None:
        """See Weights.take."""
        self._model, self._label = adapt.merged(policy.model), label

    def settle(self) -> None:
        """See Weights.settle."""
        self._model = None

    def close(self) -> None:
        """See Weights.close."""
        self._model = self._engine = None

    def give(self, endpoints: Sequence[Endpoint]) -> Mapping[Endpoint, Fault]:
        """See Weights.give. A dead server would keep all others waiting, so each is asked first whether it is there."""
        if self._model is None:
            return {endpoint: Fault("between two steps weights cannot be sent") for endpoint in endpoints}
        faults: dict[Endpoint, Fault] = {}
        for endpoint in endpoints:
            try:
                order(endpoint, f"pause?mode={self.pause}")
            except Fault as fault:
                faults[endpoint] = fault
        there = [endpoint for endpoint in endpoints if endpoint not in faults]
        try:
            if there:
                self._send(there)
            for endpoint in there:
                reset(endpoint, self._label)
                order(endpoint, "resume")
        except (OSError, RuntimeError) as error:  # vLLM's own client raises the former, NCCL the latter; a Fault is one, too
            self._joined = []
            faults |= {endpoint: Fault(f"its weights could not be sent ({error})") for endpoint in there}
        return faults

    def _send(self, endpoints: list[Endpoint]) -> None:
        try:
            from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient, ModuleSource, WeightTransferTrainerFactory
        except ImportError as error:
            raise ConfigError(f'"rollout.weights" is {self.backend}, which needs vLLM here too ({error}); {install("vllm")}, or set it to file') from error
        source = ModuleSource(self._model)
        if endpoints != self._joined:  # a group has the members that it began with
            for endpoint in endpoints:
                order(endpoint, "shutdown_weight_transfer_engine")
            sizes = [int(call(endpoint, "get_world_size")["world_size"]) for endpoint in endpoints]
            client = Client([HTTPVLLMWeightSyncClient(endpoint.url) for endpoint in endpoints], sizes)
            self._engine = WeightTransferTrainerFactory.trainer_init(self._begin(sum(sizes)), client=client, source=source)
            self._joined = endpoints
        self._engine.source = source
        self._engine.send_weights()

    def _begin(self, workers: int) -> Any:
        if self.backend == "ipc":
            from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

            return IPCTrainerInitInfo(rank=0)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        return NCCLTrainerInitInfo(socket.gethostname(), port, 1 + workers, rank=0)
