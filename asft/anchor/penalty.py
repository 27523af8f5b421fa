"""R = λ Σ_l tr[(BᵀGB)(AAᵀ)] (AsFT, arXiv:2506.08473) and its gradients in closed form, added to ``.grad``.

    ∇_B R = 2λ (G B)(A Aᵀ)          ∇_A R = 2λ (Bᵀ G B) A

One product with G per module and step; nothing of size o×i exists. Small modules of equal shape share kernel calls,
large dense ones run at the speed of the memory that holds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal, get_args

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.pytorch_utils import Conv1D

from asft.anchor.anchor import Anchor
from asft.anchor.binding import LoraFactors, check_shape, check_unmerged, lora_factors, match, unwrap
from asft.anchor.checkpoint import linear_modules
from asft.anchor.forms import Form, Gram, stack
from asft.anchor.names import plain_name
from asft.anchor.sharding import Exchange, Sharding, local, reshard

Product = Callable[[Tensor], Tensor]
"""From rows (n, r, o), one block per module, to their products (n, r, o)."""

# Up to this many bytes per module the cost is the kernel call; above it, reading the form.
SMALL_BYTES = 1 << 20

Scale = Literal["raw", "effective"]
"""``raw`` penalises BA as the reference code does, ``effective`` the update s·BA that the model sees."""


def check_scale(scale: str) -> None:
    """Raises ValueError for what is no :data:`Scale`."""
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r} is unknown; allowed: {', '.join(get_args(Scale))}.")


@dataclass(frozen=True, slots=True)
class Norms:
    """Where the update ΔW (BA or s·BA, as the penalty's scale says) lies, over all anchored modules.

    ``penalty`` is R / λ; ``update`` ‖ΔW‖, ``along`` ‖Ĉ ΔW‖ and ``orthogonal`` ‖(I − Ĉ) ΔW‖, roots of sums of squares.
    """

    penalty: float
    update: float
    along: float
    orthogonal: float

    @classmethod
    def of(cls, squares: Sequence[Tensor], sharding: Sharding | None) -> Norms:
        """From one row (R/λ, ‖ΔW‖², ‖ĈΔW‖², ‖(I−Ĉ)ΔW‖²) per module or group of this process, float64 on the CPU."""
        total = torch.stack([*squares]).sum(0) if squares else torch.zeros(4, dtype=torch.float64)
        total = sharding.sum(total) if sharding else total
        penalty, update, along, orthogonal = total.clamp_min(0).tolist()
        return cls(penalty, update**0.5, along**0.5, orthogonal**0.5)


class Penalty:
    """The penalty bound to one model's active LoRA factors.

    Sums are float32 whatever the parameters' type, float64 for float64 parameters. Parameters must not be
    replaced after binding; their values may change freely. The model may be wrapped by DDP or torch.compile, or
    sharded by FSDP2: then each process holds the forms of its share of the modules, and all must make the same calls.
    ``allow_partial`` accepts LoRA modules without anchor and anchored modules without LoRA. ValueError as
    :func:`asft.anchor.binding.lora_factors`, :func:`asft.anchor.binding.match` and :meth:`Sharding.of`.

    Attributes:
        memory: bytes of the forms that this process holds.
    """

    def __init__(self, anchor: Anchor, model: nn.Module, *, scale: Scale = "raw", allow_partial: bool = False) -> None:
        check_scale(scale)
        factors = match(anchor, lora_factors(model, sharded=True), allow_partial=allow_partial)
        self._factors, self.names = factors, tuple(factor.name for factor in factors)
        sharding = Sharding.of({factor.name: (factor.a, factor.b) for factor in factors})
        self._shared = _SharedFactors(anchor, factors, sharding) if sharding else None
        own = self._shared.own if self._shared else factors
        self.memory = _room(anchor, [(factor.name, factor.a.device) for factor in own])
        self._groups = [_Group(anchor, members, scale) for members in _grouped(anchor, own)]

    @torch.no_grad()
    def add_gradients(self, lam: float) -> None:
        """Add λ∇R to the ``.grad`` of every factor that requires a gradient now; ValueError if one is merged now."""
        for factor in self._factors:  # a callback may have merged it
            check_unmerged(factor.name, factor.layer)
        if self._shared:
            self._shared.gather()
        for group in self._groups:
            group.add_gradients(lam)
        if self._shared:
            self._shared.scatter()

    @torch.no_grad()
    def norms(self) -> Norms:
        """R and the norms of ΔW and its two parts; costs about three penalties."""
        if self._shared:
            self._shared.gather()
        return Norms.of([group.squares() for group in self._groups], self._shared.sharding if self._shared else None)


class _SharedFactors:
    """LoRA factors sharded by FSDP2, of which ``own``, a share of the modules, are put together whole in this process.

    What is added to the gradients of ``own`` between :meth:`gather` and :meth:`scatter` goes to the sharded factors.
    """

    def __init__(self, anchor: Anchor, factors: Sequence[LoraFactors], sharding: Sharding) -> None:
        self.sharding = sharding
        self._params = [weight for factor in factors for weight in (factor.a, factor.b)]
        owners = sharding.deal([anchor[factor.name].memory for factor in factors])
        dtype = accumulation_dtype(self._params[0].dtype)
        shapes = [(weight.shape[0], weight.shape[1]) for weight in self._params]
        self._exchange = Exchange(sharding, shapes, [owner for owner in owners for _ in range(2)], dtype)
        self._wholes = [torch.empty(shapes[item], dtype=dtype, device=sharding.device) for item in self._exchange.own]
        pairs = zip(self._wholes[::2], self._wholes[1::2], strict=True)
        mine = [factor for factor, owner in zip(factors, owners, strict=True) if owner == sharding.rank]
        self.own = [LoraFactors(m.name, a, b, m.scaling, m.layer) for m, (a, b) in zip(mine, pairs, strict=True)]

    def gather(self) -> None:
        gathered = self._exchange.gather([local(weight) for weight in self._params])
        for item, whole, now in zip(self._exchange.own, self._wholes, gathered, strict=True):
            whole.copy_(now).requires_grad_(self._params[item].requires_grad)
            whole.grad = torch.zeros_like(whole)

    def scatter(self) -> None:
        found = self._exchange.scatter([grad_of(whole) for whole in self._wholes])
        for weight, rows in zip(self._params, found, strict=True):
            if weight.requires_grad:
                held = local(grad_of(weight))
                held.add_(rows.to(held.device))


def _grouped(anchor: Anchor, factors: Sequence[LoraFactors]) -> list[list[LoraFactors]]:
    """Factors that can share kernel calls: equal in shape, type, device, scaling and kind of form."""
    groups: dict[object, list[LoraFactors]] = defaultdict(list)
    for factor in factors:
        form = anchor[factor.name].form
        shapes = tuple((key, tensor.shape) for key, tensor in form.tensors().items())
        a, b = factor.a, factor.b
        traits = (a.shape, b.shape, a.dtype, a.device, factor.scaling)
        groups[form.kind, form.side, shapes, traits].append(factor)
    return list(groups.values())


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.promote_types(dtype, torch.float32)


class _Group:
    """n LoRA modules of one shape: contiguous copies of A (n, r, i) and of Bᵀ (n, r, o), and their products."""

    def __init__(self, anchor: Anchor, members: Sequence[LoraFactors], scale: Scale) -> None:
        self._a_params, self._b_params = [m.a for m in members], [m.b for m in members]
        self._weight = members[0].scaling ** 2 if scale == "effective" else 1.0
        rank, in_features = members[0].a.shape
        out_features = members[0].b.shape[0]
        like = members[0].a.new_empty(0, dtype=accumulation_dtype(members[0].a.dtype))
        self._a = like.new_empty(len(members), rank, in_features)
        self._bt = like.new_empty(len(members), rank, out_features)
        self._a_views, self._b_views = list(self._a.unbind()), list(self._bt.mT.unbind())
        forms = [anchor[member.name].form.to(like.device, like.dtype) for member in members]
        self._product, self._along = products(forms, rank)

    def _load(self) -> tuple[Tensor, Tensor]:
        torch._foreach_copy_(self._a_views, self._a_params)
        torch._foreach_copy_(self._b_views, self._b_params)
        return self._a, self._bt

    def add_gradients(self, lam: float) -> None:
        a, bt = self._load()
        bt_g = self._product(bt)
        factor = 2 * lam * self._weight
        if any(param.requires_grad for param in self._b_params):
            _accumulate(self._b_params, ((a @ a.mT) @ bt_g).mT, factor)
        if any(param.requires_grad for param in self._a_params):
            _accumulate(self._a_params, (bt_g @ bt.mT) @ a, factor)

    def squares(self) -> Tensor:
        """R/λ, ‖ΔW‖², ‖ĈΔW‖² and ‖(I−Ĉ)ΔW‖², float64 on the CPU, shape (4,)."""
        a, bt = self._load()
        k = a @ a.mT
        along = self._along(bt)
        rest = bt - along
        pairs = ((bt, self._product(bt)), (bt, bt), (along, along), (rest, rest))
        return self._weight * torch.stack([_inner(x, y, k) for x, y in pairs]).cpu().double()


def _inner(x: Tensor, y: Tensor, k: Tensor) -> Tensor:
    """Σ tr(X Yᵀ K) over the batch, for rows X, Y (…, r, o) and K (…, r, r): ⟨XᵀA, YᵀA⟩ for K = AAᵀ."""
    return ((x @ y.mT) * k).sum()


def _accumulate(params: Sequence[Tensor], gradient: Tensor, factor: float) -> None:
    """Adds to the ``.grad`` of those parameters that are trained at this moment; a callback may switch them."""
    trained = [(param, block) for param, block in zip(params, gradient.unbind(), strict=True) if param.requires_grad]
    torch._foreach_add_([grad_of(param) for param, _ in trained], [block for _, block in trained], alpha=factor)


def grad_of(param: Tensor) -> Tensor:
    """Its ``.grad``, zeros where it has none yet."""
    if param.grad is None:
        param.grad = torch.zeros_like(param)
    return param.grad


def products(forms: Sequence[Form], rows: int) -> tuple[Product, Product]:
    """x ↦ x G and x ↦ x Ĉ, module by module, for r = ``rows`` rows each.

    The forms are of one kind, side and shape, on the device and in the type of the rows to come.
    """
    if max(sum(tensor.nbytes for tensor in form.tensors().values()) for form in forms) <= SMALL_BYTES:
        batch = stack(forms)
        return batch.apply, batch.along
    return _each([_product(form, rows) for form in forms]), _each([form.along for form in forms])


def _each(functions: Sequence[Product]) -> Product:
    return lambda x: torch.stack([function(block) for function, block in zip(functions, x, strict=True)])


def _product(form: Form, rows: int) -> Product:
    """``form.apply``, or an equal faster function for a dense G on the CPU.

    The BLAS behind ``torch.matmul`` multiplies a few rows by a large matrix far below the memory's speed,
    because it lays the matrix out anew on every call. oneDNN keeps a matrix laid out, through the operators
    that PyTorch's own CPU compiler emits. That layout is a second copy of G.
    """
    if not isinstance(form, Gram) or not torch.backends.mkldnn.is_available():
        return form.apply
    if form.gram.device.type != "cpu" or form.gram.dtype != torch.float32:
        return form.apply
    packed = torch.ops.mkldnn._reorder_linear_weight(form.gram, rows)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _room(anchor: Anchor, held: Sequence[tuple[str, torch.device]]) -> int:
    """Bytes of the forms of modules, each held on a device; ValueError for a GPU that has less memory free."""
    needed: dict[torch.device, int] = defaultdict(int)
    for name, device in held:
        form = anchor[name].form
        needed[device] += sum(tensor.nbytes for key, tensor in form.tensors().items() if key not in form.at_home)
    for device, size in needed.items():
        if device.type == "cuda" and size > (free := free_memory(device)):
            raise ValueError(
                f"The anchor takes {size / 2**30:.1f} GiB of {device}, which has {free / 2**30:.1f} free: build it by "
                "form='rank_k' (its error_bound says what is left out) or for fewer targets, or share it out by FSDP2."
            )
    return sum(anchor[name].memory for name, _ in held)


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that are free, or held by torch's allocator without use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class FullPenalty:
    """R = λ Σ_l ‖Π_l (W_l − W_l(0))‖² with gradient 2λ G ΔW (our reading for full-parameter training).

    Bound to a model's anchored linear weights, with W(0) copied now: the model is at the aligned weights. It may be
    wrapped by DDP or torch.compile, or sharded by FSDP2 (see :class:`Penalty`; a process then puts one module's ΔW
    together at a time). The copy has the weights' own type; differences and products are float32 (float64 for float64
    weights). Nothing passes through autograd. ValueError where the model holds adapters, lacks an anchored module or
    has it in another shape, or all of them are frozen, and as :meth:`Sharding.of`.

    Args:
        starts: W(0) by weight, of a training that began before; a weight that is not there is put in.

    Attributes:
        memory: bytes of the forms that this process holds.
    """

    def __init__(self, anchor: Anchor, model: nn.Module, starts: MutableMapping[Tensor, Tensor] | None = None) -> None:
        model = unwrap(model)
        reshard(model)
        adapter = next((name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)), None)
        if adapter is not None:
            raise ValueError(f"{type(model).__name__} holds adapters, first at {adapter!r}: use AsFTCallback.")
        plain = {name: plain_name(name) for name in linear_modules(model)}
        modules = {anchor[own].name: model.get_submodule(name) for name, own in plain.items() if own in anchor}
        missing = [name for name in anchor if name not in modules]
        if missing:
            raise ValueError(
                f"{type(model).__name__} lacks {len(missing)} of {len(anchor)} anchored modules, first "
                f"{missing[0]!r}: build the anchor from checkpoints of this model."
            )
        sharding = Sharding.of({name: [module.get_parameter("weight")] for name, module in modules.items()})
        starts = WeakTensorKeyDictionary() if starts is None else starts
        terms = [_Term(anchor, name, module, starts) for name, module in modules.items()]
        if not any(term.trained for term in terms):
            raise ValueError(
                f"All {len(anchor)} anchored modules are frozen (requires_grad=False): choose other targets."
            )
        self.names = tuple(anchor)
        self._sharding = sharding
        self._rounds = _rounds(terms, sharding) if sharding else [_Round([term]) for term in terms]
        own = [(term, sharding.device if sharding else term.device) for taken in self._rounds for term in taken.own]
        self.memory = _room(anchor, [(term.name, device) for term, device in own])
        for term, device in own:
            term.form = anchor[term.name].form.to(device, term.dtype)

    @torch.no_grad()
    def add_gradients(self, lam: float) -> None:
        """Add 2λ G ΔW to the ``.grad`` of every covered weight that requires a gradient now."""
        for taken in self._rounds:
            taken.add_gradients(lam)

    @torch.no_grad()
    def norms(self) -> Norms:
        """R/λ and the norms of ΔW and its two parts, over all covered modules."""
        return Norms.of([square for taken in self._rounds for square in taken.squares()], self._sharding)


class _Term:
    """One weight, its value W(0) at the start and, where this process multiplies by it, its form."""

    form: Form

    def __init__(self, anchor: Anchor, name: str, module: nn.Module, starts: MutableMapping[Tensor, Tensor]) -> None:
        weight, self._transposed = module.get_parameter("weight"), isinstance(module, Conv1D)
        o, i = reversed(weight.shape) if self._transposed else weight.shape
        check_shape(anchor, name, (o, i), turned=self._transposed)
        self.name, self.shape, self.device = name, (weight.shape[0], weight.shape[1]), weight.device
        self.dtype, self.memory = accumulation_dtype(weight.dtype), anchor[name].memory
        if weight not in starts:
            starts[weight] = local(weight.detach()).clone()
        self._weight, self._start = weight, starts[weight].to(local(weight).device)

    @property
    def trained(self) -> bool:
        return self._weight.requires_grad

    def change(self) -> Tensor:
        """ΔW as the weight lies, or this process' rows of it."""
        return local(self._weight).to(self.dtype) - self._start.to(self.dtype)

    def gradient(self, change: Tensor) -> Tensor:
        """G ΔW for a whole ΔW, as the weight lies."""
        return self._turned(self.form.apply(self._turned(change)))

    def add(self, gradient: Tensor, factor: float) -> None:
        if self.trained:
            held = local(grad_of(self._weight))
            held.add_(gradient.to(held.device), alpha=factor)

    def squares(self, change: Tensor) -> Tensor:
        """R/λ, ‖ΔW‖², ‖ĈΔW‖² and ‖(I−Ĉ)ΔW‖² for a whole ΔW, float64 on the CPU, shape (4,)."""
        x = self._turned(change)
        along = self.form.on(x.device).along(x)  # o×i at home would take the CPU a minute; one module's at a time
        values = [(x * self.form.apply(x)).sum(), x.square().sum(), along.square().sum(), (x - along).square().sum()]
        return torch.stack(values).cpu().double()

    def _turned(self, matrix: Tensor) -> Tensor:
        """Between the weight's layout and i×o, whose rows forms multiply."""
        return matrix if self._transposed else matrix.T


class _Round:
    """Weights whose changes are whole at the same time: one, or, where they are sharded, one in each process."""

    def __init__(self, terms: Sequence[_Term], exchange: Exchange | None = None) -> None:
        self._terms, self._exchange = terms, exchange
        self.own = [terms[item] for item in exchange.own] if exchange else terms

    def add_gradients(self, lam: float) -> None:
        if not any(term.trained for term in self._terms):
            return
        gradients = [term.gradient(change) for term, change in self._changes()]
        if self._exchange:
            gradients = self._exchange.scatter(gradients)
        for term, gradient in zip(self._terms, gradients, strict=True):
            term.add(gradient, 2 * lam)

    def squares(self) -> list[Tensor]:
        return [term.squares(change) for term, change in self._changes()]

    def _changes(self) -> Iterator[tuple[_Term, Tensor]]:
        changes = [term.change() for term in self._terms]
        return zip(self.own, self._exchange.gather(changes) if self._exchange else changes, strict=True)


def _rounds(terms: Sequence[_Term], sharding: Sharding) -> list[_Round]:
    owners, rounds = sharding.deal([term.memory for term in terms]), list[_Round]()
    dealt = [
        [term for term, owner in zip(terms, owners, strict=True) if owner == rank] for rank in range(sharding.size)
    ]
    for taken in zip_longest(*dealt):
        present = [(term, rank) for rank, term in enumerate(taken) if term is not None]
        now = [term for term, _ in present]
        exchange = Exchange(sharding, [term.shape for term in now], [rank for _, rank in present], now[0].dtype)
        rounds.append(_Round(now, exchange))
    return rounds
