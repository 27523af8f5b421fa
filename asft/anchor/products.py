"""Products of a few rows with the forms of many modules: small ones share a kernel call, large dense ones run
at the speed of the memory that holds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asft.anchor.forms import Form, Gram, stack

Product = Callable[[Tensor], Tensor]
"""From rows (n, r, o), one block per module, to their products (n, r, o)."""

# Up to this many bytes per module the cost is the kernel call; above it, reading the form.
SMALL_BYTES = 1 << 20


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
