"""The residual convolutional network, and its way back.

It differs from the way that PyTorch takes where another costs less on a processor:

- what a 3 × 3 map of stride 1 passes back is that map forwards, its kernels turned round: oneDNN has a faster one for
  that, the fewer channels the more;
- a shortcut reads every second place, and those alone are put together first, instead of a map over all places with
  stride 2;
- activations and slopes that nobody needs any more are overwritten.

So last bits may differ from PyTorch's; they are the same in every run on one kind of processor.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from commonroot.client.backbones.parts import ChannelLevel
from commonroot.client.backbones.rescnn import Rescnn, Stage
from commonroot.client.model import DepartmentModel
from commonroot.client.slopes import Pair, Places
from commonroot.common.backbone import RescnnSpec

_normalised = torch.ops.aten.native_group_norm.default
_through_norm = torch.ops.aten.native_group_norm_backward.default
_through_conv = torch.ops.aten.convolution_backward.default
_through_relu = torch.ops.aten.threshold_backward.grad_input
#: What ``F.group_norm`` adds to a variance.
_EPSILON = 1e-5
_ONE = [1, 1]


class _Told:
    """Slopes as they are found, and where they are to lie."""

    def __init__(self) -> None:
        self._places: list[Tensor] = []
        self._found: list[Tensor] = []

    def tell(self, place: Tensor | None, slope: Tensor) -> None:
        """One of them; nothing where nobody asks for it."""
        if place is not None:
            self._places.append(place)
            self._found.append(slope)

    def write(self) -> None:
        """Copy all to where they are to lie."""
        if self._places:
            torch._foreach_copy_(self._places, self._found)


class _Active(NamedTuple):
    """What a normalisation with its ReLU read, how it scaled that, and what came out."""

    read: Tensor
    mean: Tensor
    scale: Tensor
    out: Tensor


class _Norm(Pair):
    """A normalisation and the ReLU behind it."""

    def __init__(self, layer: ChannelLevel) -> None:
        super().__init__(layer.gain, layer.shift)
        self._groups = layer.groups

    def forward(self, read: Tensor) -> _Active:
        n, channels, height, width = read.shape
        out, mean, scale = _normalised(
            read, self.first, self.second, n, channels, height * width, self._groups, _EPSILON
        )
        return _Active(read, mean, scale, torch.relu_(out))

    def back(self, slope: Tensor, seen: _Active, told: _Told) -> Tensor:
        """``slope`` is overwritten."""
        n, channels, height, width = seen.read.shape
        _through_relu(slope, seen.out, 0, grad_input=slope)
        asked = [True, self.of_first is not None, self.of_second is not None]
        below, gain, shift = _through_norm(
            slope, seen.read, seen.mean, seen.scale, self.first, n, channels, height * width, self._groups, asked
        )
        told.tell(self.of_first, gain)
        told.tell(self.of_second, shift)
        found: Tensor = below
        return found


class _Conv(Pair):
    """A 3 × 3 map.  What it gives lies row by row whatever the library chose: everything else reads it faster so."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight, layer.bias)  # type: ignore[arg-type]
        self._stride = list(layer.stride)
        self._turns = self._stride == _ONE

    def forward(self, read: Tensor) -> Tensor:
        return torch.conv2d(read, self.first, self.second, self._stride, _ONE).contiguous()

    def back(self, slope: Tensor, read: Tensor, told: _Told) -> Tensor:
        if not self._turns:
            return self._through(slope, read, told, below=True).contiguous()
        self.end(slope, read, told)
        return torch.conv2d(slope, self.first.flip(2, 3).transpose(0, 1), None, _ONE, _ONE).contiguous()

    def end(self, slope: Tensor, read: Tensor, told: _Told) -> None:
        """The same where nothing lies below."""
        if self.of_first is not None or self.of_second is not None:
            self._through(slope, read, told, below=False)

    def _through(self, slope: Tensor, read: Tensor, told: _Told, *, below: bool) -> Tensor:
        asked = [below, self.of_first is not None, self.of_second is not None]
        wide = [len(self.second)]
        found, weight, bias = _through_conv(
            slope, read, self.first, wide, self._stride, _ONE, _ONE, False, [0, 0], 1, asked
        )
        told.tell(self.of_first, weight)
        told.tell(self.of_second, bias)
        out: Tensor = found
        return out


class _Shortcut(Pair):
    """A 1 × 1 map of every second place."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer.weight, layer.bias)  # type: ignore[arg-type]

    def _weights(self, n: int) -> Tensor:
        """(n, outputs, inputs), of the same numbers n times."""
        return self.first.flatten(1).expand(n, -1, -1)

    def add_to(self, out: Tensor, read: Tensor) -> Tensor:
        """Add its outputs to ``out``; the places that it read, (n, inputs, places)."""
        n, outputs = out.shape[:2]
        places = read[:, :, ::2, ::2].flatten(2)
        out.view(n, outputs, -1).baddbmm_(self._weights(n), places)
        out.add_(self.second[:, None, None])
        return places

    def back(self, slope: Tensor, places: Tensor, below: Tensor, told: _Told) -> None:
        """Add what it passes back to ``below``."""
        flat = slope.flatten(2)
        if self.of_first is not None:
            told.tell(self.of_first, torch.bmm(flat, places.transpose(1, 2)).sum(0).view(self.of_first.shape))
        if self.of_second is not None:
            told.tell(self.of_second, flat.sum((0, 2)))
        into = below[:, :, ::2, ::2]
        into.add_(torch.bmm(self._weights(len(flat)).transpose(1, 2), flat).view(into.shape))


class _Seen(NamedTuple):
    """Of a stage: what stood behind its two normalisations, and the places that its shortcut read."""

    ready: _Active
    inner: _Active
    places: Tensor | None


class _Block:
    """A stage."""

    def __init__(self, stage: Stage) -> None:
        self._before, self._first = _Norm(stage.before), _Conv(stage.first)
        self._between, self._second = _Norm(stage.between), _Conv(stage.second)
        self._shortcut = None if stage.shortcut is None else _Shortcut(stage.shortcut)
        pairs = (self._before, self._first, self._between, self._second, self._shortcut)
        self._pairs: list[Pair] = [pair for pair in pairs if pair is not None]

    def ask(self, places: Places) -> bool:
        return sum(pair.ask(places) for pair in self._pairs) > 0  # each is told

    def forward(self, image: Tensor) -> tuple[Tensor, _Seen]:
        ready = self._before.forward(image)
        inner = self._between.forward(self._first.forward(ready.out))
        out = self._second.forward(inner.out)
        if self._shortcut is None:
            return out.add_(image), _Seen(ready, inner, None)
        return out, _Seen(ready, inner, self._shortcut.add_to(out, ready.out))

    def back(self, slope: Tensor, seen: _Seen, told: _Told) -> Tensor:
        inner = self._between.back(self._second.back(slope, seen.inner.out, told), seen.inner, told)
        ready = self._first.back(inner, seen.ready.out, told)
        if self._shortcut is None or seen.places is None:
            return self._before.back(ready, seen.ready, told).add_(slope)
        self._shortcut.back(slope, seen.places, ready, told)
        return self._before.back(ready, seen.ready, told)


class Residual:
    """``Rescnn`` as a ``Body``."""

    def __init__(self, model: DepartmentModel, spec: RescnnSpec) -> None:
        backbone = model.backbone
        if not isinstance(backbone, Rescnn):
            raise TypeError(f"{type(backbone).__name__} is no residual convolutional network")
        self._shape = spec.input.shape
        self._entry = _Conv(backbone.entry)
        self._blocks = [_Block(stage) for stage in backbone.stages if isinstance(stage, Stage)]
        self._last = _Norm(backbone.last)

    def ask(self, places: Places) -> bool:
        """As ``Body`` has it."""
        parts: tuple[Pair | _Block, ...] = (self._entry, *self._blocks, self._last)
        return sum(part.ask(places) for part in parts) > 0  # each is told

    def represent(self, x: Tensor) -> Tensor:
        """As ``Body`` has it; what was passed on the way is let go of, so that many rows fit."""
        hidden = self._entry.forward(self._image(x))
        for block in self._blocks:
            hidden = block.forward(hidden)[0]
        return self._last.forward(hidden).out.mean(dim=(2, 3))

    def _image(self, x: Tensor) -> Tensor:
        """(n, channels, height, width), from flat rows in C order too."""
        return x.reshape(len(x), *self._shape) if x.dim() == 2 else x

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, list[_Seen], _Active]]:
        """As ``Body`` has it: (n, channels, height, width), or flat rows, to (n, stages[-1])."""
        image = self._image(x)
        hidden, stages = self._entry.forward(image), []
        for block in self._blocks:
            hidden, seen = block.forward(hidden)
            stages.append(seen)
        last = self._last.forward(hidden)
        return last.out.mean(dim=(2, 3)), (image, stages, last)

    def back(self, slope: Tensor, seen: tuple[Tensor, list[_Seen], _Active]) -> None:
        """As ``Body`` has it."""
        image, stages, last = seen
        told = _Told()
        height, width = last.out.shape[2:]
        spread = (slope / (height * width))[:, :, None, None].expand(last.out.shape).contiguous()
        slope = self._last.back(spread, last, told)
        for block, one in zip(reversed(self._blocks), reversed(stages), strict=True):
            slope = block.back(slope, one, told)
        self._entry.end(slope, image, told)
        told.write()
