"""Parameters sharded over processes by FSDP2: each matrix gets one process that sees it whole and holds its form.

G·BA and G·ΔW mix the output rows, which is what FSDP2 shards, so no process can add the penalty's gradient to its own
rows alone. The matrices are dealt out instead: rows travel to their matrix' owner, gradients' rows back, one all-to-all
each way. A process holds and multiplies only the forms of its own matrices, 1/n of them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

NO_PARALLELISM = "tensor parallelism is not supported; use FSDP2 alone, or DDP."


class Sharding:
    """The processes over which a model's parameters are sharded; of several replicas (HSDP) each has its own.

    Attributes:
        rank, size: this process among them.
        device: where matrices are put together.
    """

    def __init__(self, mesh: DeviceMesh, dimension: int) -> None:
        self.group = mesh.get_group(dimension)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.device = torch.device(mesh.device_type)
        if mesh.device_type != "cpu":
            self.device = torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())

    @classmethod
    def of(cls, weights: Mapping[str, Sequence[Tensor]]) -> Sharding | None:
        """How weights, given by their modules' names, are sharded; None where they are whole.

        ValueError for what is no FSDP2: weights of which this process holds a piece that does not say of what (FSDP1,
        ZeRO-3), sharded otherwise than by rows (tensor parallelism), or some sharded and others not.
        """
        found: dict[tuple[DeviceMesh, int] | None, str] = {}
        places: dict[str, tuple[DeviceMesh, int] | None] = {}
        for name, weight in ((name, weight) for name, held in weights.items() for weight in held):
            if not isinstance(weight, DTensor):
                if weight.dim() != 2:
                    raise ValueError(
                        f"Module {name!r} is sharded ({type(weight).__name__} of shape {tuple(weight.shape)}): FSDP1 "
                        "and ZeRO-3 are not supported; use FSDP2 (fsdp_version 2) or DDP."
                    )
                place = None
            else:
                place = weight.device_mesh, _split(name, weight)
            if places.setdefault(name, place) != place:
                raise ValueError(
                    f"Module {name!r} has one weight sharded and another whole or elsewhere: {NO_PARALLELISM}"
                )
            found.setdefault(place, name)
        if len(found) > 1:
            one, other = list(found.values())[:2]
            raise ValueError(f"Modules {one!r} and {other!r} are sharded over different processes; shard all alike.")
        where = next(iter(found))
        return cls(*where) if where else None

    def deal(self, costs: Sequence[int]) -> list[int]:
        """An owner for each item, the same in every process: the largest first, to whom has least."""
        owners, load = [0] * len(costs), [0] * self.size
        for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
            owners[item] = load.index(min(load))
            load[owners[item]] += costs[item] + 1
        return owners

    def rows(self, count: int, rank: int) -> slice:
        """The rows that a process has of ``count``."""
        step = -(-count // self.size)
        return slice(min(rank * step, count), min(rank * step + step, count))

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, on the CPU."""
        total = values.to(self.device)
        dist.all_reduce(total, group=self.group)
        return total.cpu()


class Exchange:
    """Moves rows of matrices between the processes that have them and each matrix' owner; every process calls alike.

    Args:
        shapes: (rows, columns) of each matrix.
        owners: the process that sees each whole.
        dtype: of what is moved.
    """

    def __init__(
        self, sharding: Sharding, shapes: Sequence[tuple[int, int]], owners: Sequence[int], dtype: torch.dtype
    ) -> None:
        self._sharding, self._shapes, self._dtype = sharding, shapes, dtype
        self._by_owner = sorted(range(len(shapes)), key=lambda item: owners[item])  # stable: in order for each owner
        self.own = [item for item in self._by_owner if owners[item] == sharding.rank]
        here = [self._pieces(self._by_owner, sharding.rank), *(self._pieces(self.own, r) for r in range(sharding.size))]
        self._held, self._wanted = here[0], here[1:]
        self._to_owners = [
            sum(size for item, size in zip(self._by_owner, self._held, strict=True) if owners[item] == rank)
            for rank in range(sharding.size)
        ]
        self._from_all = [sum(sizes) for sizes in self._wanted]

    def _pieces(self, items: Sequence[int], rank: int) -> list[int]:
        """How many numbers a process has of each matrix."""
        rows = (self._sharding.rows(self._shapes[item][0], rank) for item in items)
        return [(part.stop - part.start) * self._shapes[item][1] for part, item in zip(rows, items, strict=True)]

    def gather(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """Whole matrices, those of ``own`` in that order, out of every process' rows of all matrices."""
        sent = self._flat([shards[item] for item in self._by_owner])
        received = self._move(sent, self._to_owners, self._from_all).split(self._from_all)
        pieces = [part.split(sizes) for part, sizes in zip(received, self._wanted, strict=True)]
        return [
            torch.cat([piece[index] for piece in pieces]).view(self._shapes[item])
            for index, item in enumerate(self.own)
        ]

    def scatter(self, wholes: Sequence[Tensor]) -> list[Tensor]:
        """This process' rows of all matrices, out of whole ones, those of ``own`` in that order."""
        ranks = range(self._sharding.size)
        sent = self._flat([whole[self._sharding.rows(len(whole), rank)] for rank in ranks for whole in wholes])
        received = self._move(sent, self._from_all, self._to_owners).split(self._held)
        shards = {
            item: piece.view(-1, self._shapes[item][1]) for item, piece in zip(self._by_owner, received, strict=True)
        }
        return [shards[item] for item in range(len(self._shapes))]

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        device = self._sharding.device
        flat = [tensor.to(device, self._dtype).reshape(-1) for tensor in tensors]
        return torch.cat(flat) if flat else torch.empty(0, device=device, dtype=self._dtype)

    def _move(self, sent: Tensor, send: list[int], receive: list[int]) -> Tensor:
        received = sent.new_empty(sum(receive))
        dist.all_to_all_single(received, sent, receive, send, group=self._sharding.group)
        return received


def _split(name: str, weight: DTensor) -> int:
    """The mesh dimension over which a weight's rows are sharded, and nothing else is."""
    split = [index for index, placed in enumerate(weight.placements) if not isinstance(placed, Replicate)]
    if len(split) != 1 or weight.placements[split[0]] != Shard(0):
        raise ValueError(f"Module {name!r} is sharded as {weight.placements}: {NO_PARALLELISM}")
    return split[0]


def local(weight: Tensor) -> Tensor:
    """What this process holds of a tensor that may be sharded."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def reshard(model: nn.Module) -> None:
    """Leaves in every module what FSDP2 shards: after a forward pass some keep whole weights in their place."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
