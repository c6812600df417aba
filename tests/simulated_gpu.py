"""A GPU that is not there: tensors that say they are on `cuda:0` and compute on the CPU, and refuse what a GPU refuses.

Inside `simulated()` the code under test finds a GPU. Tensors of two devices do not mix, values are not read without
being copied, random numbers are the device's own, and a ledger is kept of everything for which the host would wait:
reads of values, shapes that depend on values, copies from memory that is not pinned. Numbers are the CPU's. What this
cannot see: the kernels of a real GPU, their rounding, speed and memory.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

DEVICE, NAME = torch.device("cuda:0"), "a simulated GPU"
OURS = ("/bench/", "/methods/", "/datasets/")  # whose line of code the ledger names
aten = torch.ops.aten
SHAPED_BY_VALUES = {
    aten.nonzero, aten.masked_select, aten.bincount, aten._unique2, aten.unique_dim, aten.unique_consecutive,
    aten.equal, aten.repeat_interleave, aten.linalg_eigh, aten._linalg_eigh, aten._linalg_svd, aten._local_scalar_dense,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
JOINING = {aten.cat, aten.stack}  # which take no number of the host's
NORMS = {aten.native_batch_norm: slice(1, 3), aten.native_batch_norm_backward: slice(2, 3)}
"""Where vmap gives them weights that it makes itself."""


@dataclass
class Ledger:
    """What the host has waited for, as `kind: operation at file:line`, in order."""

    waits: list[str] = field(default_factory=list)
    forbidden: bool = False  # as torch.cuda.set_sync_debug_mode("error") has it
    random: Tensor = field(default_factory=lambda: torch.Generator().manual_seed(0).get_state())

    def note(self, kind: str, what: object) -> None:
        self.waits.append(f"{kind}: {what} at {caller()}")
        if self.forbidden:
            raise RuntimeError(f"called a synchronizing CUDA operation: {self.waits[-1]}")

    def counted(self) -> Counter[str]:
        return Counter(self.waits)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Random numbers drawn inside the block are the device's own."""
        host = torch.get_rng_state()
        torch.set_rng_state(self.random)
        yield
        self.random = torch.get_rng_state()
        torch.set_rng_state(host)


LEDGER = Ledger()


def caller() -> str:
    """The innermost line of the project's own code."""
    frame: Any = sys._getframe(2)
    while frame is not None and not any(part in frame.f_code.co_filename for part in OURS):
        frame = frame.f_back
    return "the test" if frame is None else f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"


class Card(Tensor):
    """A tensor on the simulated GPU; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Card:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Card({list(self.shape)})"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        assert isinstance(value, Card) and value.shape == self.shape, "as a parameter on a GPU refuses another device's"
        self.inner = value.inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet in (aten.copy_, aten._to_copy) and not isinstance(args[0], Card):  # device to host
            LEDGER.note("read", packet)
            return func(*tree_map_only(Card, lambda t: t.inner, args), **kwargs)
        check_operation(func, args, kwargs)
        own, named = tree_map_only(Card, lambda t: t.inner, (args, kwargs))
        drawn = torch.Tag.nondeterministic_seeded in func.tags and not named.get("generator")
        with LEDGER.drawing() if drawn else nullcontext():
            found = func(*own, **named)
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, Card, found))


def check_operation(func: Any, args: Any, kwargs: Any) -> None:
    """Refuse tensors of two devices, and note what an operation waits for."""
    packet = func.overloadpacket
    hosts = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor) and not isinstance(t, Card)]
    if packet in SHAPED_BY_VALUES:
        LEDGER.note("read", packet)
    if packet in INDEXING:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            LEDGER.note("read", f"{packet} by a mask")
        hosts = [host for host in hosts if not any(host is index for index in indices)]  # vmap makes some itself
    for made in args[NORMS[packet]] if packet in NORMS else ():
        hosts = [host for host in hosts if host is not made or host.unique().numel() > 1]
    if packet == aten.copy_:
        note_copy(args[1], packet, (args[2:3] or (kwargs.get("non_blocking"),))[0])
        return
    for host in hosts:
        offsets = not host.is_floating_point() and host.ndim > 1 and host.numel() == len(host)  # that vmap makes itself
        if (host.ndim or packet in JOINING) and not offsets:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                f"({packet} of a host's {list(host.shape)} at {caller()})"
            )


def note_copy(source: object, what: object, non_blocking: object) -> None:
    """Note a copy to the device unless it comes from pinned memory and is not waited for."""
    if not isinstance(source, Card) and not (non_blocking and getattr(source, "pinned", False)):
        LEDGER.note("copy", what)


class ToDevice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return Card(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return to_host(gradient)


class ToHost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return inner_of(x).detach().clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return Card(gradient)


def inner_of(x: Tensor) -> Tensor:
    return x.inner if isinstance(x, Card) else x


def to_host(x: Tensor) -> Tensor:
    return ToHost.apply(x) if x.requires_grad else inner_of(x).detach().clone()  # type: ignore[no-untyped-call,no-any-return]


def to_device(x: Tensor) -> Tensor:
    return ToDevice.apply(x) if x.requires_grad else Card(x.detach().clone())  # type: ignore[no-untyped-call,no-any-return]


def unwrapped(x: Any) -> Any:
    """What is inside the wrappers of vmap and the like."""
    while isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def is_card(x: Any) -> bool:
    return isinstance(unwrapped(x), Card)


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class Functions(TorchFunctionMode):
    """What Python calls of torch: the device of new tensors, moves between devices, reads of whole tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in HANDLED and (is_card(args[0]) or func in (Tensor.to, Tensor.cuda, Tensor.pin_memory)):
            return HANDLED[func](*args, **kwargs)
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            assert is_card(args[0]) or not is_card(args[1]), "a parameter of the host's cannot become the device's here"
        if func in (Tensor.__getitem__, Tensor.__setitem__) and is_card(args[0]):
            if any(isinstance(index, Tensor) and not is_card(index) for index in tree_iter(args[1])):
                LEDGER.note("copy", "rows of the host's")
        if kwargs.pop("pin_memory", False):
            return pinned(func(*args, **kwargs))
        if not is_cuda(kwargs.get("device")):
            return func(*args, **kwargs)
        del kwargs["device"]
        if func in (torch.tensor, torch.as_tensor) and not is_card(args[0]):
            LEDGER.note("copy", func.__name__)
        return tree_map_only(Tensor, lambda t: t if is_card(t) else Card(t), func(*args, **kwargs))


def move(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` in all its forms."""
    device, dtype, non_blocking, form = torch._C._nn._parse_to(*[DEVICE if is_card(a) else a for a in args], **kwargs) \
        if not any(is_card(a) for a in args) else (DEVICE, unwrapped(args[0]).dtype, False, None)  # fmt: skip
    if args and isinstance(args[0], Tensor) and not is_card(args[0]):
        device, dtype = torch.device("cpu"), args[0].dtype
    if device is not None and is_cuda(device) != is_card(x):
        if is_card(x):
            LEDGER.note("read", "to the host")
            x = to_host(x)
        else:
            note_copy(x, "to the device", non_blocking)
            x = to_device(x)
    more = {"memory_format": form} if form else {}
    return Tensor.to(x, dtype if dtype is not None else x.dtype, **more)  # type: ignore[call-overload,no-any-return]


def pinned(x: Tensor) -> Tensor:
    x.pinned = True  # type: ignore[attr-defined]
    return x


def pin(x: Tensor) -> Tensor:
    assert not is_card(x), "only memory of the host can be pinned"
    return pinned(x.clone())


def read(name: str) -> Callable[..., Any]:
    def call(x: Tensor, *args: Any) -> Any:
        LEDGER.note("read", name)
        return getattr(unwrapped(x).inner, name)(*args)

    return call


def refuse_numpy(x: Tensor, *args: Any, **kwargs: Any) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")


def new_tensor(x: Tensor, data: Any, **kwargs: Any) -> Tensor:
    LEDGER.note("copy", "new_tensor")
    return Card(unwrapped(x).inner.new_tensor(data, **kwargs))


def one_hot(x: Tensor, classes: int = -1) -> Tensor:
    assert classes > 0, "without the number of classes it waits for the largest"
    return (x[..., None] == Card(torch.arange(classes))).long()


HANDLED: dict[Any, Callable[..., Any]] = {
    Tensor.to: move, Tensor.cpu: lambda x: move(x, "cpu"), Tensor.cuda: lambda x, *_, **more: move(x, DEVICE, **more),
    Tensor.device.__get__: lambda x: DEVICE, Tensor.is_cuda.__get__: lambda x: True,  # type: ignore[attr-defined]
    Tensor.tolist: read("tolist"), Tensor.numpy: refuse_numpy, Tensor.__array__: refuse_numpy,
    torch.nn.functional.one_hot: one_hot, Tensor.new_tensor: new_tensor, Tensor.pin_memory: pin,
}  # fmt: skip


def autocast(kind: str, dtype: Any = None, enabled: bool = True, **more: Any) -> Any:
    return AUTOCAST("cpu", dtype, enabled, **more)


def save(content: Any, file: Any, **more: Any) -> None:
    SAVE(tree_map_only(Card, lambda t: t.inner.clone(), content), file, **more)


def load(file: Any, map_location: Any = None, **more: Any) -> Any:
    found = LOAD(file, map_location="cpu", **more)
    return tree_map_only(Tensor, Card, found) if is_cuda(map_location) else found


AUTOCAST, SAVE, LOAD = torch.autocast, torch.save, torch.load


def seed_all(seed: int) -> None:
    LEDGER.random = torch.Generator().manual_seed(seed % 2**63).get_state()


def set_debug_mode(mode: str) -> None:
    LEDGER.forbidden = mode == "error"


def set_random(state: Tensor, device: Any = None) -> None:
    assert not is_card(state), "a generator's state is a tensor of the host's"
    LEDGER.random = state.clone()


@contextmanager
def simulated() -> Iterator[Ledger]:
    """Inside the block there is a GPU."""
    LEDGER.__init__()  # type: ignore[misc]
    nothing = {name: lambda *_, **__: None for name in ("init", "synchronize", "reset_peak_memory_stats")}
    cuda: dict[str, Callable[..., Any]] = nothing | {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "get_device_name": lambda *_: NAME, "max_memory_allocated": lambda *_: 2**20, "manual_seed_all": seed_all,
        "set_sync_debug_mode": set_debug_mode, "mem_get_info": lambda *_: (2**30, 2**31), "set_rng_state": set_random,
        "get_rng_state": lambda *_: LEDGER.random.clone(),
    }  # fmt: skip
    with ExitStack() as here:
        for name, function in cuda.items():
            here.enter_context(mock.patch.object(torch.cuda, name, function))
        for name, function in {"autocast": autocast, "save": save, "load": load}.items():
            here.enter_context(mock.patch.object(torch, name, function))
        stream = SimpleNamespace(is_capturing=lambda: False)
        here.enter_context(mock.patch.object(torch.accelerator, "current_stream", lambda *_: stream))
        kept = torch.__future__.get_overwrite_module_params_on_conversion()
        here.callback(torch.__future__.set_overwrite_module_params_on_conversion, kept)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # modules moved there get new parameters
        here.enter_context(Functions())
        yield LEDGER
