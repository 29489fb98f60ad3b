"""A device that is not there: tensors stay on the CPU, but those made for "cuda" may not meet others.

PyTorch refuses an operation on tensors of two devices only where there are two. `OtherDevice` remembers for each
tensor where it would lie, answers `tensor.device` so, and refuses what PyTorch would. Gradients are made below its
sight and may meet any tensor.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

HOME, CUDA = torch.device("cpu"), torch.device("cuda")
LETS_MEET = {"to", "copy_", "set_", "__set__", "_has_compatible_shallow_copy_type", "as_tensor", "tensor"}
INDEXED = {"__getitem__", "__setitem__", "index_put_"}  # by indices of the CPU too
HOME_ONLY = {"numpy", "__array__"}


class OtherDevice(TorchFunctionMode):
    """Within it, "cuda" is a device. Operations that mix devices raise RuntimeError."""

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, tuple[weakref.ref, torch.device]] = {}
        self.seen = 0  # operations on the other device

    def place(self, tensor: torch.Tensor) -> torch.device | None:
        """Where a tensor would lie; None if it was made out of sight, as gradients are."""
        held = self._places.get(id(tensor))
        if held and held[0]() is tensor:
            return held[1]
        return HOME if isinstance(tensor, torch.nn.Parameter) else None

    def put(self, tensors: Any, place: torch.device) -> None:
        for tensor in tensors_in(tensors):
            self._places[id(tensor)] = (weakref.ref(tensor), place)

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(function, "__name__", "")
        if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.device:
            return self.place(args[0]) or HOME
        if function is torch.device or name == "_parse_to":
            return function(*args, **kwargs)
        if name == "__set__" and isinstance(args[1], torch.Tensor):  # parameter.data = ...
            self.put(args[0], self.place(args[1]) or HOME)
        given = list(tensors_in(args[:1] if name == "__deepcopy__" else (args, kwargs)))
        known = [(tensor, place) for tensor in given if (place := self.place(tensor)) is not None]
        counts = lambda tensor, place: tensor.dim() or place == CUDA or name in ("stack", "cat")  # noqa: E731
        places = {place for tensor, place in known if counts(tensor, place)}  # a number may come from the CPU
        asked = [v for v in (*args, *kwargs.values()) if is_device(v)]
        if name in HOME_ONLY and CUDA in places:
            raise RuntimeError(f"{name}: of a tensor on {CUDA}")
        if name in INDEXED and self.place(args[0]) == CUDA:
            places = {self.place(value) for value in tensors_in(args[2:]) if value.dim()} - {None} | {CUDA}
        if len(places) > 1 and name not in LETS_MEET:
            raise RuntimeError(f"{name}: expected all tensors on one device, found {sorted(map(str, places))}")
        if asked:
            target = torch.device(asked[0])
        elif name in ("cpu", "from_numpy"):
            target = HOME
        elif name == "to" and len(args) > 1 and isinstance(args[1], torch.Tensor):
            target = self.place(args[1]) or HOME
        elif name in INDEXED or name in ("copy_", "type_as"):
            target = self.place(args[0])
        elif known:
            target = CUDA if any(place == CUDA for _, place in known) else HOME
        else:
            target = None if given else HOME
        generator = kwargs.get("generator")
        if generator is not None and getattr(generator, "other", False) != (target == CUDA):
            raise RuntimeError(f"{name}: a generator of another device than {target}")
        self.seen += target == CUDA
        at_home = lambda value: "cpu" if is_device(value) else value  # noqa: E731
        result = function(*map(at_home, args), **{key: at_home(value) for key, value in kwargs.items()})
        if target is not None:
            if name in ("to", "cpu", "as_tensor") and any(result is tensor for tensor in given):
                result = result.view_as(result)  # a copy elsewhere
            self.put(result, target)
        return result


class OtherGenerator(torch.Generator):
    """A generator that remembers for which device it was asked."""

    other: bool

    def __new__(cls, device: str | torch.device = "cpu") -> OtherGenerator:
        made = super().__new__(cls)
        made.other = torch.device(device).type == "cuda"
        return made


def is_device(value: Any) -> bool:
    return isinstance(value, torch.device) or (isinstance(value, str) and value in ("cpu", "cuda"))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
