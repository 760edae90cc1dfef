"""How much memory live tensors take, and how large they are; also of fake ones, which have shapes but no content."""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """While active, counts the bytes of all tensors that operations make, until they are freed, and their shapes.

    What a kernel keeps to itself is not seen. A fake number is taken for True, so that checks of values pass.
    """

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.bytes = self.peak = 0
        self.shapes: set[torch.Size] = set()
        self._known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._count(tensor)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return True
        results = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return results

    def _count(self, tensor: torch.Tensor) -> None:
        self.shapes.add(tensor.shape)
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = size = storage.nbytes()
            weakref.finalize(storage, self._release, size)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)

    def _release(self, size: int) -> None:
        self.bytes -= size
