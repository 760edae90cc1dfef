import pytest
import torch

from elbo_core.diffusion.blocks import in_blocks


class Memory:
    """Work that runs out of memory beyond `limit` items, as a GPU does."""

    def __init__(self, limit: int):
        self.limit, self.sizes = limit, []

    def __call__(self, block: torch.Tensor) -> torch.Tensor:
        if len(block) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(block))
        return 2 * block


@pytest.mark.parametrize(("limit", "sizes"), [(8, [8, 8, 4]), (5, [4] * 5), (3, [2] * 10), (1, [1] * 20)])
def test_out_of_memory_halves_the_block_and_goes_on(limit, sizes):
    memory = Memory(limit)
    assert torch.equal(torch.cat(in_blocks(memory, torch.arange(20), 8)), 2 * torch.arange(20))
    assert memory.sizes == sizes


def test_a_single_item_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        in_blocks(Memory(0), torch.arange(3), 8)
