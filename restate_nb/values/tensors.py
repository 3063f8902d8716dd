"""Tensors of torch and sparse matrices of scipy, by the arrays that they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from restate_nb.errors import NotEncodable
from restate_nb.values.frames import FORMAT, check_format
from restate_nb.values.leaves import bytes_from
from restate_nb.values.parts import binary
from restate_nb.values.tags import Read, Write, tagged

_SPARSE: Final = {
    **{f"{form}_{kind}": ("data", "indices", "indptr") for form in ("csr", "csc") for kind in ("array", "matrix")},
    **{f"coo_{kind}": ("data", "row", "col") for kind in ("array", "matrix")},
}
"""Of each class of scipy the arrays that it is made of."""


# ---------------------------------------------------------------- torch


def tensor_writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How what torch made is written, by its class; None for all else."""
    import torch  # pyright: ignore[reportMissingImports]  # noqa: PLC0415 - the user has it loaded

    return _write_tensor if kind is torch.Tensor else None


def _write_tensor(tensor: Any, _: Write) -> object:
    import torch  # pyright: ignore[reportMissingImports]  # noqa: PLC0415

    if tensor.layout != torch.strided:
        raise NotEncodable(f"A tensor of layout {tensor.layout} cannot be kept. Return value.to_dense().")
    if tensor.is_quantized:
        raise NotEncodable("A quantized tensor cannot be kept. Return value.dequantize().")
    if tensor.device.type != "cpu":
        raise NotEncodable(f"A tensor on {tensor.device} would come back on the CPU. Return value.cpu().")
    if tensor.grad_fn is not None or tensor.grad is not None:
        raise NotEncodable("A tensor with a gradient cannot be kept with it. Return value.detach().")
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
    more = {"grad": True} if tensor.requires_grad else {}
    dtype = str(tensor.dtype).removeprefix("torch.")
    return tagged("tensor", binary(data), format=FORMAT, dtype=dtype, shape=list(tensor.shape), **more)


def _read_tensor(written: dict[str, Any], _read: Read) -> Any:
    import torch  # pyright: ignore[reportMissingImports]  # noqa: PLC0415

    check_format(written)
    dtype = getattr(torch, written["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(written["dtype"])
    data, shape = bytes_from(written["v"]), written["shape"]
    flat = torch.empty(0, dtype=dtype)
    if data:
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(dtype)
    try:
        tensor = flat.reshape(shape)
    except RuntimeError as error:
        raise ValueError(f"it is no tensor: {error}") from error
    return tensor.requires_grad_() if written.get("grad") else tensor


# ---------------------------------------------------------------- scipy


def sparse_writer_of(kind: type) -> Callable[[Any, Write], object] | None:
    """How scipy's sparse matrices and arrays are written, by their class; None for all else."""
    import scipy.sparse  # noqa: PLC0415 - the user has it loaded

    name = kind.__name__
    if name not in _SPARSE or getattr(scipy.sparse, name) is not kind:
        return None
    return lambda value, write: _write_sparse(value, name, write)


def _write_sparse(value: Any, name: str, write: Write) -> object:
    if value.ndim != 2:
        raise NotEncodable(f"A {name} of {value.ndim} dimensions cannot be kept. Return value.toarray().")
    arrays = [write(getattr(value, each)) for each in _SPARSE[name]]
    return tagged("sparse", arrays, format=FORMAT, of=name, shape=list(value.shape))


def _read_sparse(written: dict[str, Any], read: Read) -> Any:
    import scipy.sparse  # noqa: PLC0415

    check_format(written)
    name, shape = written["of"], tuple(written["shape"])
    if name not in _SPARSE:
        raise ValueError(name)
    data, first, second = map(read, written["v"])
    content = (data, (first, second)) if name.startswith("coo") else (data, first, second)
    matrix = getattr(scipy.sparse, name)(content, shape=shape)
    if not name.startswith("coo"):
        matrix.check_format(full_check=True)
    return matrix


READERS: Final[dict[str, Callable[[dict[str, Any], Read], Any]]] = {"sparse": _read_sparse, "tensor": _read_tensor}
