"""Runs inside vLLM's worker, named by ``--worker-extension-cls``: imports nothing, so that vLLM's environment needs this folder alone."""

from typing import Any


class Extension:
    """Methods that ``/collective_rpc`` can call beside the worker's own."""

    model_runner: Any

    def reload_from(self: Any, path: str) -> None:
        """Take over the weights in a folder, those of a tied head too.

        On a CPU (vLLM 0.32) a head that is tied to the embeddings keeps a copy of its own, laid out anew, which a reload leaves as
        it was, without an error: 9 of 24 greedy answers were wrong.
        """
        self.reload_weights(weights_path=path)
        for module in self.model_runner.get_model().modules():
            if type(module).__name__ == "ParallelLMHead":
                module.quant_method.process_weights_after_loading(module)
